//! `mils blend`: pictures, videos, sounds and texts in, one picture out.
//!
//! Each file is captioned as `mils caption` does it, the language model makes one prompt of the captions and texts, and
//! `mils generate`'s search draws and refines that. Of several prompts that the language model makes, the one is taken
//! whose embedding lies nearest to the weighted sum of the inputs' (those that are taken away count against it).

use crate::choose;
use crate::generate::args::{RendererArgs, SearchArgs};
use crate::generate::judge::Target;
use crate::generate::search::Search;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::media::{Input, ModalityChoice, Senses, Taken};
use crate::output::replace;
use crate::session::{Options, Session, decimal};
use crate::show::Display;
use anyhow::{Context, Result, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use mils_encoder::{AnyEncoder, Embeddings};
use mils_models::{Modality, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Event, Labelled, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

/// Prompts of which one is taken.
const CHOICES: usize = 16;
/// What is known of the inputs, in the folder.
const INPUTS: &str = "inputs.json";

const EXAMPLES: &str = "\
Examples:
  mils blend beach.jpg rain.ogg -o rainy-beach/ --renderer http://localhost:7860 --renderer-kind a1111
  mils blend street.mp4 --text 'as a woodcut' -o woodcut/ --renderer http://localhost:8188 --workflow flux.json
  mils blend room.jpg - chair.jpg -o empty-room/ --renderer http://localhost:7860 --renderer-kind a1111
                                              (the room without what the second picture shows)
  mils blend a.jpg b.jpg --weight 1 --weight 0.3 -o mostly-a/ --renderer http://localhost:8080/v1
  mils blend models/demo/samples/3-castles.png models/demo/samples/4-clock.png -o castle-clock/ --pack demo

With --target mean pictures are compared with the inputs themselves and not with the prompt: their
embeddings' weighted mean, by the encoder of pictures, which has pictures, videos and texts in one space.

Weights are those of the FILEs and then of the --texts, in their order. The folder gets what that of
`mils generate` gets, and inputs.json: each input's caption, and the prompt that was made of them.
Killed at any moment, the same command goes on; files that were captioned by then are not again once
all of them were.

Exit codes: 0 done, 1 a file, the renderer or a model failed, 2 wrong usage, 130 interrupted.";

/// `mils blend`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BlendArgs {
    /// Pictures, videos and sounds, told by their content; one that stands after a - is taken away
    #[arg(value_name = "FILE|-")]
    pub files: Vec<PathBuf>,

    /// A text that is blended in; can be given several times
    #[arg(long = "text", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub texts: Vec<String>,

    /// A text that is taken away; can be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub without: Vec<String>,

    /// How much an input counts, one for each FILE and then for each --text [default: all the same]
    #[arg(long = "weight", value_name = "W", value_parser = weight, allow_negative_numbers = true)]
    pub weights: Vec<f32>,

    /// What pictures are compared with
    #[arg(long, value_enum, default_value_t = TargetChoice::Prompt)]
    pub target: TargetChoice,

    /// The folder for the pictures and everything else
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,

    /// What draws, and how.
    #[command(flatten)]
    pub drawing: RendererArgs,

    /// How the search goes.
    #[command(flatten)]
    pub search: SearchArgs,
}

/// What pictures are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetChoice {
    /// The prompt that was made of the inputs
    Prompt,
    /// The weighted mean of the inputs' own embeddings; sounds, which encoders of pictures do not hear, count by their captions
    Mean,
}

fn weight(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| *value > 0.0 && *value <= 1e6);
    value.ok_or_else(|| {
        format!("`{text}` is no weight; expected more than 0 (what is to be taken away stands after a -)")
    })
}

/// What is blended: a file, whose caption is yet to be found, or a text.
struct Ingredient {
    file: Option<(PathBuf, Taken)>,
    text: String,
    weight: f32,
    minus: bool,
}

/// What an input was taken for, in words.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Said {
    file: Option<String>,
    caption: String,
    weight: f64,
    /// Whether it is taken away.
    minus: bool,
}

/// What a folder knows of its inputs.
#[derive(Debug, Deserialize, Serialize)]
struct Inputs {
    key: Value,
    inputs: Vec<Said>,
    prompt: String,
}

impl BlendArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        let named = self.named()?;
        let plus = named.iter().filter(|(_, minus)| !minus).count() + self.texts.len();
        if plus == 0 {
            return Err("there is nothing to blend; name FILEs, or give --text".into());
        }
        let (given, inputs) = (self.weights.len(), named.len() + self.texts.len());
        if given > 0 && given != inputs {
            return Err(format!(
                "{given} weights for {inputs} inputs; give one for each FILE and then for each --text"
            ));
        }
        if self.output.as_os_str() == "-" || self.output.is_file() {
            return Err(format!("--output is a folder, and {} is none", self.output.display()));
        }
        self.drawing.check()
    }

    /// The files, and whether each is taken away.
    fn named(&self) -> Result<Vec<(&Path, bool)>, String> {
        let (mut named, mut minus) = (Vec::new(), false);
        for file in &self.files {
            match (file.as_os_str() == "-", minus) {
                (true, true) => return Err("two - in a row; after a - stands what is to be taken away".into()),
                (true, false) => minus = true,
                (false, _) => named.push((file.as_path(), std::mem::take(&mut minus))),
            }
        }
        if minus { Err("after a - stands what is to be taken away".into()) } else { Ok(named) }
    }

    fn ingredients(&self) -> Result<Vec<Ingredient>> {
        let weight = |i: usize| self.weights.get(i).copied().unwrap_or(1.0);
        let named = self.named().map_err(|problem| anyhow::anyhow!(problem))?;
        let mut all = Vec::new();
        for (i, (file, minus)) in named.iter().enumerate() {
            let taken = ModalityChoice::Auto.of(file).with_context(|| file.display().to_string())?;
            let (file, text) = (Some((file.to_path_buf(), taken)), String::new());
            all.push(Ingredient { file, text, weight: weight(i), minus: *minus });
        }
        for (i, text) in self.texts.iter().enumerate() {
            let (text, weight) = (text.clone(), weight(named.len() + i));
            all.push(Ingredient { file: None, text, weight, minus: false });
        }
        let minus =
            self.without.iter().map(|text| Ingredient { file: None, text: text.clone(), weight: 1.0, minus: true });
        all.extend(minus);
        Ok(all)
    }
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, a model or the renderer fails, or the folder cannot be written.
pub fn run(args: &BlendArgs) -> Result<ExitCode> {
    let ingredients = args.ingredients()?;
    let first = ingredients.iter().find_map(|i| i.file.as_ref()).map_or(Modality::Image, |(_, taken)| taken.modality);
    let choice = choose::named(args.search.writer.pack.as_deref(), || first)?;
    let cancel = on_ctrl_c()?;
    let Some(pack) = choice.with_models(args.search.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    std::fs::create_dir_all(&args.output).with_context(|| format!("cannot write to {}", args.output.display()))?;
    let place = args.output.join(INPUTS);
    let key = key(args, &ingredients, &pack);
    let known = std::fs::read(&place).ok().and_then(|bytes| serde_json::from_slice::<Inputs>(&bytes).ok());
    let (said, prompt) = match known.filter(|known| known.key == key && !args.search.overwrite) {
        Some(known) => (known.inputs, known.prompt),
        None => {
            let display = Display::new(args.search.quiet, args.search.verbose);
            let made = merged(args, &ingredients, &pack, first, &display, &cancel);
            display.finish();
            let (inputs, prompt) = match made {
                _ if cancel.load(Ordering::SeqCst) => return Ok(ExitCode::from(INTERRUPTED)),
                made => made?,
            };
            let known = Inputs { key, inputs, prompt };
            let text = serde_json::to_string_pretty(&known)? + "\n";
            replace(&place, [text]).with_context(|| format!("cannot write {}", place.display()))?;
            (known.inputs, known.prompt)
        }
    };
    let mean = |encoder: &mut AnyEncoder| mean(&ingredients, &said, encoder);
    let target: Option<(&str, &Target<'_>)> =
        (args.target == TargetChoice::Mean).then_some(("the mean of what was blended", &mean));
    Search::with_pack(&prompt, target, &args.output, &args.drawing, &args.search, pack, cancel)
}

/// What makes other captions, or another prompt of them.
fn key(args: &BlendArgs, ingredients: &[Ingredient], pack: &Pack) -> Value {
    let of = |i: &Ingredient| {
        let file = i.file.as_ref().map(|(path, _)| {
            let meta = std::fs::metadata(path).ok();
            let changed = meta.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
            json!([path.display().to_string(), meta.map(|m| m.len()), changed.map(|t| t.as_millis() as u64)])
        });
        json!([file, i.text, decimal(i.weight), i.minus])
    };
    let all: Vec<Value> = ingredients.iter().map(of).collect();
    let search = &args.search;
    json!([
        all,
        pack.name,
        search.seed,
        search.writer.generator,
        search.writer.generator_model,
        search.temperature.map(decimal)
    ])
}

/// Captions of the files, and the prompt that is made of all inputs.
fn merged(
    args: &BlendArgs,
    ingredients: &[Ingredient],
    pack: &Pack,
    first: Modality,
    display: &Display,
    cancel: &Arc<AtomicBool>,
) -> Result<(Vec<Said>, String)> {
    let search = &args.search;
    let endpoint = search.writer.endpoint();
    let options = Options {
        first: Some(first),
        seed: search.seed,
        temperature: search.temperature,
        precision: search.encoder.dtype.into(),
        math: search.encoder.math,
        files: ingredients.len(),
        in_flight: Some(1),
        endpoint,
        cancel: Arc::clone(cancel),
        ..Options::default()
    };
    let mut session = Session::open(pack.clone(), &options, search.encoder.backend, &mut |doing| display.doing(doing))?;
    let mut said = Vec::with_capacity(ingredients.len());
    for (number, ingredient) in ingredients.iter().enumerate() {
        let caption = match &ingredient.file {
            Some((path, taken)) => caption(&mut session, (number, path), *taken, display, cancel)?,
            None => ingredient.text.clone(),
        };
        let file = ingredient.file.as_ref().map(|(path, _)| path.display().to_string());
        if !search.quiet {
            let sign = if ingredient.minus { "-" } else { "+" };
            let of = file.as_deref().unwrap_or("text");
            display.line(&format!("{sign} {caption} ({of})"));
        }
        said.push(Said { file, caption, weight: decimal(ingredient.weight), minus: ingredient.minus });
    }
    display.say("making one prompt of it");
    let prompts = prompts(&mut session, pack, &said, search.seed)?;
    ensure!(!cancel.load(Ordering::SeqCst), "cancelled");
    let prompt = nearest(&prompts, &said, &mut session)?;
    if !search.quiet {
        display.line(&format!("= {prompt}"));
    }
    Ok((said, prompt))
}

fn caption(
    session: &mut Session,
    (number, path): (usize, &Path),
    taken: Taken,
    display: &Display,
    cancel: &AtomicBool,
) -> Result<String> {
    let name = path.display().to_string();
    display.begin(number, &name);
    let mode = session.mode(taken.modality)?;
    let media = Input::File(path.to_owned(), taken).read(&mode.senses).with_context(|| name.clone())?;
    let run = session.caption(&media, &mut |event: &Event<'_>| {
        display.event(number, mode.config.steps, event);
        if cancel.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    ensure!(!cancel.load(Ordering::SeqCst), "cancelled");
    display.end(number, false);
    Ok(run.outcome.best.text)
}

/// What the language model makes of the inputs.
fn prompts(session: &mut Session, pack: &Pack, said: &[Said], seed: u64) -> Result<Vec<String>> {
    let drawing = pack.drawing();
    let prompt = drawing.blend;
    // A language model that knows captions alone cannot merge them; what is to be left out it can leave out.
    let mut joined = Vec::new();
    if drawing.captions {
        joined.push(join(said));
        if !said.iter().any(|said| said.minus) {
            return Ok(joined);
        }
    }
    let without: Vec<&str> = said.iter().filter(|said| said.minus).map(|said| said.caption.as_str()).collect();
    let template = PromptTemplate::new(&prompt.system, &prompt.user)
        .with_context(|| format!("pack `{}`, [blend]", pack.name))?
        .about(&without.join("; "));
    let most = said.iter().filter(|said| !said.minus).map(|said| said.weight).fold(0.0, f64::max);
    let item = |said: &Said| {
        let share = said.weight / most.max(f64::MIN_POSITIVE);
        Labelled { text: said.caption.clone(), score: share as f32, label: (share * 100.0).round() as u32 }
    };
    let mut items: Vec<Labelled> = said.iter().filter(|said| !said.minus).map(item).collect();
    // The heaviest last, as lists are shown.
    items.sort_by_key(|item| item.label);
    let proposals = session.propose(template, &Request { step: 1, pool: &items, count: CHOICES, seed })?;
    if proposals.texts.is_empty() {
        let words: Vec<&str> = proposals.unusable.iter().map(|unusable| unusable.text.trim()).collect();
        let words: String = words.join(" / ").chars().take(200).collect();
        bail!("the language model made no prompt of the inputs; it said: {words:?}");
    }
    Ok(proposals.texts.into_iter().chain(joined).collect())
}

/// Captions one after the other, the heaviest first.
fn join(said: &[Said]) -> String {
    let mut plus: Vec<&Said> = said.iter().filter(|said| !said.minus).collect();
    plus.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    plus.iter().map(|said| said.caption.as_str()).collect::<Vec<_>>().join(", ")
}

/// The prompt that lies nearest to the weighted sum of the inputs.
fn nearest(prompts: &[String], said: &[Said], session: &mut Session) -> Result<String> {
    let captions: Vec<String> = said.iter().map(|said| said.caption.clone()).collect();
    let captions = session.embed_texts(Modality::Image, &captions)?;
    let rows = session.embed_texts(Modality::Image, prompts)?;
    let best =
        sums(said, &captions, &rows).into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
    best.and_then(|(at, _)| prompts.get(at)).cloned().context("no prompt to take")
}

/// Of each prompt, the weighted sum of its cosines with the inputs.
fn sums(said: &[Said], captions: &Embeddings, prompts: &Embeddings) -> Vec<f64> {
    let mut sums = vec![0.0; prompts.len()];
    for (i, said) in said.iter().enumerate() {
        let weight = if said.minus { -said.weight } else { said.weight };
        for (sum, cosine) in sums.iter_mut().zip(captions.dots(i, prompts)) {
            *sum += weight * f64::from(cosine);
        }
    }
    sums
}

/// The weighted sum of the inputs' own embeddings, of length 1.
fn mean(ingredients: &[Ingredient], said: &[Said], encoder: &mut AnyEncoder) -> Result<Embeddings> {
    let senses = Senses::of(encoder);
    let mut sum: Vec<f32> = Vec::new();
    for (ingredient, said) in ingredients.iter().zip(said) {
        let row = match &ingredient.file {
            Some((path, taken)) if taken.modality != Modality::Sound => {
                let name = || path.display().to_string();
                Input::File(path.clone(), *taken).read(&senses).with_context(name)?.embed(encoder)?
            }
            _ => encoder.embed_texts(std::slice::from_ref(&said.caption))?,
        };
        let weight = if said.minus { -ingredient.weight } else { ingredient.weight };
        sum.resize(row.dim(), 0.0);
        sum.iter_mut().zip(row.row(0)).for_each(|(sum, value)| *sum += weight * value);
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    ensure!(length > 1e-6, "the inputs cancel each other out; there is nothing to draw");
    Ok(Embeddings::new(sum.len(), sum.into_iter().map(|value| value / length).collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(more: &[&str]) -> Result<BlendArgs, String> {
        let cli = Cli::try_parse_from(["mils", "blend", "-o", "out"].iter().chain(more)).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Blend(args) => args.check().map(|()| *args),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn what_stands_after_a_minus_is_taken_away() {
        let args = parse(&[
            "a.png", "-", "b.png", "c.png", "--text", "x", "--weight", "1", "--weight", "2", "--weight", "3",
            "--weight", "4",
        ])
        .unwrap();
        let named: Vec<_> =
            args.named().unwrap().into_iter().map(|(file, minus)| (file.to_str().unwrap(), minus)).collect();
        assert_eq!(named, [("a.png", false), ("b.png", true), ("c.png", false)]);
        for (wrong, says) in [
            (&["-", "a.png"][..], "nothing to blend"),
            (&["a.png", "-"], "after a -"),
            (&["a.png", "-", "-", "b.png"], "two -"),
            (&["a.png", "b.png", "--weight", "1"], "1 weights for 2 inputs"),
            (&["a.png", "--weight", "-1"], "no weight"),
            (&[], "nothing to blend"),
        ] {
            let problem = parse(wrong).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
    }

    #[test]
    fn the_sum_of_inputs_is_weighted_and_signed() {
        let said = |weight, minus| Said { file: None, caption: String::new(), weight, minus };
        let all = [said(2.0, false), said(1.0, true)];
        let captions = Embeddings::new(2, vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let prompts = Embeddings::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8]).unwrap();
        let found = sums(&all, &captions, &prompts);
        assert!((found[0] - 2.0).abs() < 1e-6 && (found[1] + 1.0).abs() < 1e-6 && (found[2] - 0.4).abs() < 1e-6);
    }
}
