//! Whole runs beside the reference algorithm's schedule, with the same models: it embeds the whole initial set for
//! every sample, embeds the picture and the kept texts again in every step, remembers nothing, pads every text to the
//! full context, and has one sequence write one long list. And the cost of a sample as the initial set grows.

use crate::bench::Bench;
use crate::checkpoint::{SIGLIP_B16, captions};
use crate::encoders::{padded, pictures};
use crate::folder;
use crate::gguf::ONE_BILLION;
use crate::harness::{Contestant, Extra, Kind};
use crate::initial;
use anyhow::{Context, Result, anyhow};
use mils_cli::backend::BackendChoice;
use mils_cli::session::{Options, Session};
use mils_cpu::Cpu;
use mils_demo_world::{Split, render, worlds};
use mils_encoder::{DualEncoder, Encoder, ModelFiles};
use mils_llm::{LlamaGenerator, LlamaOptions};
use mils_media::RgbImage;
use mils_models::{Modality, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Config, Event, Generator, Labelled, Proposals, Request, Usage, relative_labels};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Scenes of the demo world that are captioned in turn.
const SCENES: usize = 64;
/// Tokens that are set aside for a prompt.
const CONTEXT: u32 = 4096;

/// What runs cost, summed over turns.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    turns: usize,
    steps: usize,
    images: usize,
    texts: usize,
    usage: Usage,
    score: f64,
}

impl Cost {
    fn figures(&self) -> Vec<Extra> {
        let each = |total: f64| total / self.turns.max(1) as f64;
        let computed = self.usage.prompt_tokens - self.usage.reused_tokens;
        vec![
            Extra::new("steps", each(self.steps as f64), 1),
            Extra::new("images encoded", each(self.images as f64), 1),
            Extra::new("texts encoded", each(self.texts as f64), 0),
            Extra::new("prompt computed", each(computed as f64), 0),
            Extra::new("generated", each(self.usage.generated_tokens as f64), 0),
            Extra::new("best score", each(self.score), 4),
        ]
    }
}

/// The product's own runs.
struct Ours {
    name: &'static str,
    kind: Kind,
    session: Session,
    pictures: Rc<Vec<RgbImage>>,
    cost: Cost,
}

impl Contestant for Ours {
    fn name(&self) -> String {
        self.name.into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let picture = &self.pictures[self.cost.turns % self.pictures.len()];
        self.session.config(Modality::Image)?.seed = self.cost.turns as u64;
        let picture = picture.clone().into();
        // The initial set was embedded when the session was opened.
        let mut texts = 0;
        let begin = Instant::now();
        let run = self.session.caption(&picture, &mut |event| {
            if let Event::Scored { step: 1.., texts: new, .. } = event {
                texts += new.len();
            }
            ControlFlow::Continue(())
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        self.cost.turns += 1;
        self.cost.images += 1;
        self.cost.texts += texts;
        self.cost.steps += run.outcome.steps.len().saturating_sub(1);
        self.cost.usage += run.outcome.counts.usage;
        self.cost.score += f64::from(run.outcome.best.score);
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        self.cost.figures()
    }
}

/// The reference's schedule.
struct Reference {
    encoder: Encoder,
    generator: LlamaGenerator,
    initial: Vec<String>,
    config: Config,
    pictures: Rc<Vec<RgbImage>>,
    cost: Cost,
}

impl Reference {
    fn open(
        pack: &Pack,
        config: Config,
        threads: usize,
        cancel: &Arc<AtomicBool>,
        pictures: Rc<Vec<RgbImage>>,
        lines: usize,
    ) -> Result<Self> {
        let task = pack.task(Modality::Image)?;
        let encoder = ModelFiles::open(&task.scorer)?.load(&Cpu::new())?;
        let options = LlamaOptions {
            context: CONTEXT + (lines * 64) as u32,
            sequences: 1,
            lines,
            temperature: task.settings.temperature,
            top_p: task.settings.top_p,
            threads: Some(threads),
            cancel: Arc::clone(cancel),
            ..LlamaOptions::default()
        };
        let template = PromptTemplate::new(&task.prompt.system, &task.prompt.user)?;
        let generator = LlamaGenerator::open(&pack.generator_path()?, options, template)?;
        Ok(Self { encoder, generator, initial: task.initial_texts()?, config, pictures, cost: Cost::default() })
    }

    /// Scores of texts with a picture, both embedded anew, texts at full length.
    fn score(&mut self, picture: &RgbImage, texts: &[String]) -> Result<Vec<f32>> {
        let image = self.encoder.embed_images(std::slice::from_ref(picture))?;
        let ids = texts.iter().map(|t| self.encoder.model_tokens(t)).collect::<Result<Vec<_>, _>>()?;
        let end = ids.iter().find_map(|row| row.last().copied()).unwrap_or_default();
        let rows = self.encoder.embed_tokens(&padded(&ids, self.encoder.architecture().text.context, end))?;
        self.cost.images += 1;
        self.cost.texts += texts.len();
        Ok((0..texts.len()).map(|i| image.dot(0, &rows, i)).collect())
    }

    fn caption(&mut self, picture: &RgbImage, seed: u64) -> Result<f32> {
        let mut texts = self.initial.clone();
        let mut kept = Vec::new();
        for step in 0..=self.config.steps {
            let scores = self.score(picture, &texts)?;
            kept = best(texts, scores, self.config.keep);
            if step == self.config.steps {
                break;
            }
            let shown = shown(&kept, self.config.label_scale);
            let request =
                Request { step: step + 1, pool: &shown, count: self.config.propose, seed: seed + step as u64 * 1000 };
            let Proposals { texts: new, usage, .. } = self.generator.propose(&request).map_err(|e| anyhow!("{e}"))?;
            self.cost.usage += usage;
            self.cost.steps += 1;
            texts = kept.iter().map(|(text, _)| text.clone()).chain(new).collect();
        }
        kept.first().map(|(_, score)| *score).context("nothing was scored")
    }
}

/// The best texts with their scores, best first, each once.
fn best(texts: Vec<String>, scores: Vec<f32>, keep: usize) -> Vec<(String, f32)> {
    let distinct: BTreeMap<String, f32> = texts.into_iter().zip(scores).collect();
    let mut all: Vec<(String, f32)> = distinct.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(keep);
    all
}

/// As the language model is shown them: worst first.
fn shown(kept: &[(String, f32)], scale: u32) -> Vec<Labelled> {
    let scores: Vec<f32> = kept.iter().rev().map(|(_, score)| *score).collect();
    let labels = relative_labels(&scores, scale);
    let labelled =
        |((text, score), label): (&(String, f32), u32)| Labelled { text: text.clone(), score: *score, label };
    kept.iter().rev().zip(labels).map(labelled).collect()
}

impl Contestant for Reference {
    fn name(&self) -> String {
        "the reference's schedule".into()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let pictures = Rc::clone(&self.pictures);
        let begin = Instant::now();
        let score = self.caption(&pictures[self.cost.turns % pictures.len()], self.cost.turns as u64)?;
        let seconds = begin.elapsed().as_secs_f64();
        self.cost.turns += 1;
        self.cost.score += f64::from(score);
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        self.cost.figures()
    }
}

/// Whole runs of a pack on pictures. The reference asks for one long list; the demo's model, which ends a long list early,
/// is asked for as many of its own answers one after another.
fn table(bench: &mut Bench, title: (&str, &str), pack: &str, pictures: Vec<RgbImage>, long_list: bool) -> Result<()> {
    bench.say("loading the models");
    let pictures = Rc::new(pictures);
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    let mut config = None;
    let options = Options { cancel: Arc::clone(&bench.stop), ..Options::default() };
    for (name, kind, all_steps) in [
        ("ours", Kind::Ours, true),
        ("ours again", Kind::Again, true),
        ("ours, ending when it converges", Kind::Ours, false),
    ] {
        // As many steps as patience has steps do not converge.
        if long_list && !all_steps {
            continue;
        }
        let mut session = Session::open(Pack::find(pack)?, &options, BackendChoice::Cpu, &mut |_| {})?;
        if all_steps {
            session.config(Modality::Image)?.patience = None;
        }
        let settings = session.config(Modality::Image)?.clone();
        config.get_or_insert(settings);
        let cost = Cost::default();
        contestants.push(Box::new(Ours { name, kind, session, pictures: Rc::clone(&pictures), cost }));
    }
    if let Some(config) = config {
        let pack = Pack::find(pack)?;
        let lines = if long_list { config.propose } else { pack.generator.lines };
        let reference = Reference::open(&pack, config, bench.threads(), &bench.stop, pictures, lines)?;
        contestants.push(Box::new(reference));
    }
    bench.measure(title, &mut contestants, &["the reference"]);
    Ok(())
}

/// A pack of models with random weights: a scorer of ViT-B/16's size and a language model of a billion weights.
fn true_size(bench: &Bench) -> Result<PathBuf> {
    let scorer = bench.checkpoint(&SIGLIP_B16)?;
    let generator = ONE_BILLION.file(&bench.models, &mut |what| bench.say(what))?;
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = bench.models.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    write("true-size.txt", captions(1000).join("\n"))?;
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let text = format!(
        r#"name = "true-size"
root = "."
description = "Random weights of true size, for speed"
licence = "MIT OR Apache-2.0"
[image]
scorer = "{}"
initial = "true-size.txt"
[generator]
path = "{}"
context = 4096
sequences = 50
lines = 1
[loop]
steps = 3
keep = 6
propose = 50
asks = 1
temperature = 1.0
top_p = 0.98
label_scale = 100
patience = 3
[prompt]
system = "You write captions."
user = """
{{% for item in items %}}{{{{ item.label }}}} {{{{ item.text }}}}
{{% endfor %}}"""
"#,
        name(&scorer),
        name(&generator)
    );
    write("true-size.toml", text)
}

/// Runs the tables of whole runs.
///
/// # Errors
/// If a model cannot be made or loaded.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.wanted("runs-demo") && !bench.stopped() {
        let scenes = worlds::scenes::<worlds::Pictures>(Split::HeldOut, SCENES, 2024);
        let pictures = scenes.iter().map(|scene| render::render(scene).image).collect();
        table(bench, ("runs-demo", "demo pack: captioning a picture, all steps"), "demo", pictures, false)?;
    }
    if bench.wanted("initial-set") && !bench.stopped() {
        initial::run(bench)?;
    }
    if bench.wanted("folder") && !bench.stopped() {
        folder::run(bench)?;
    }
    if bench.full && bench.wanted("runs-true-size") && !bench.stopped() {
        let pack = true_size(bench)?;
        let title = "ViT-B/16 and 1B random weights: a picture, 1,000 initial texts, 3 steps of 50";
        table(bench, ("runs-true-size", title), &pack.display().to_string(), pictures(8, 224), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_once_and_shown_worst_first() {
        let texts = ["b", "a", "c", "a"].map(str::to_owned).to_vec();
        let kept = best(texts, vec![0.2, 0.5, 0.1, 0.5], 2);
        assert_eq!(kept, [("a".to_owned(), 0.5), ("b".to_owned(), 0.2)]);
        let shown = shown(&kept, 100);
        assert_eq!((&shown[0].text[..], shown[0].label, shown[1].label), ("b", 0, 100));
    }

    #[test]
    fn the_schedules_of_the_demo_cost_what_they_must() {
        let pictures =
            Rc::new(vec![render::render(&worlds::scenes::<worlds::Pictures>(Split::HeldOut, 1, 1)[0]).image]);
        let options = Options { steps: Some(2), propose: Some(4), ..Options::default() };
        let mut session =
            Session::open(Pack::find("demo").unwrap(), &options, BackendChoice::Cpu, &mut |_| {}).unwrap();
        let (config, initial) =
            (session.config(Modality::Image).unwrap().clone(), session.mode(Modality::Image).unwrap().initial().len());
        let mut reference =
            Reference::open(&Pack::find("demo").unwrap(), config, 1, &Arc::default(), Rc::clone(&pictures), 1).unwrap();
        let cost = Cost::default();
        let mut ours = Ours { name: "ours", kind: Kind::Ours, session, pictures, cost };
        assert!(ours.turn().unwrap() > 0.0 && reference.turn().unwrap() > 0.0);
        // A picture once and new texts alone, against all of it in every step.
        assert!(ours.cost.images == 1 && ours.cost.texts <= 8, "{:?}", ours.cost);
        assert!(reference.cost.images == 3 && reference.cost.texts >= initial + 12, "{:?}", reference.cost);
        assert_eq!((ours.cost.steps, reference.cost.steps), (2, 2));
        assert_eq!(reference.figures().len(), ours.figures().len());
    }
}
