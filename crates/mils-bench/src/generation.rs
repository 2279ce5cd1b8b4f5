//! Generation: fifty candidates from a prompt of about a thousand tokens, in parallel sequences off one prefill, beside
//! the reference's way, one sequence that writes one long list. Same file, same llama.cpp, same prompts.

use crate::bench::Bench;
use crate::gguf::{Llama, ONE_BILLION, Stored};
use crate::harness::{Contestant, Extra, Kind};
use anyhow::{Context, Result, anyhow};
use mils_cli::backend::BackendChoice;
use mils_cli::session::{Options, Session};
use mils_demo_world::{Split, render, worlds};
use mils_llm::{LlamaGenerator, LlamaOptions};
use mils_models::{Modality, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Event, Generator, Labelled, Proposals, Request, Usage};
use serde::Deserialize;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Candidates wanted.
const COUNT: usize = 50;
/// Tokens of the prompt.
const PROMPT: usize = 1000;
/// Tokens that are set aside beside a prompt and an answer's lines of up to 64.
const SLACK: usize = 600;
/// Scenes and steps of the measurement of prefix reuse.
const SCENES: usize = 6;

/// A language model and how it is asked.
struct Model {
    path: PathBuf,
    system: String,
    user: String,
    temperature: f32,
    top_p: f32,
    /// Texts to show.
    texts: Vec<String>,
}

impl Model {
    fn open(&self, sequences: usize, lines: usize, threads: usize, cancel: &Arc<AtomicBool>) -> Result<LlamaGenerator> {
        let options = LlamaOptions {
            context: (PROMPT + SLACK + lines * 64) as u32,
            sequences,
            lines,
            temperature: self.temperature,
            top_p: self.top_p,
            threads: Some(threads),
            cancel: Arc::clone(cancel),
            ..LlamaOptions::default()
        };
        Ok(LlamaGenerator::open(&self.path, options, PromptTemplate::new(&self.system, &self.user)?)?)
    }

    /// A list of `length` texts to show; another number gives other texts from the first on, so that no prompt has
    /// more than the instructions in common with the one before.
    fn pool(&self, length: usize, number: usize) -> Vec<Labelled> {
        let text = |i: usize| self.texts[(number * 37 + i) % self.texts.len()].clone();
        let label = |i: usize| (i * 100 / length.max(2).saturating_sub(1)).min(100) as u32;
        (0..length).map(|i| Labelled { text: text(i), score: i as f32 / length as f32, label: label(i) }).collect()
    }

    /// How many texts make a prompt of about [`PROMPT`] tokens.
    fn fitting(&self, threads: usize, cancel: &Arc<AtomicBool>) -> Result<usize> {
        let mut generator = self.open(1, 1, threads, cancel)?;
        let mut tokens =
            |length| ask(&mut generator, &self.pool(length, 0), 1, 0).map(|p| p.usage.prompt_tokens as f64);
        let (few, more) = (tokens(2)?, tokens(8)?);
        let each = ((more - few) / 6.0).max(1.0);
        Ok((((PROMPT as f64 - few) / each).round() as usize + 2).max(2))
    }
}

fn ask(generator: &mut LlamaGenerator, pool: &[Labelled], count: usize, seed: u64) -> Result<Proposals> {
    generator.propose(&Request { step: 1, pool, count, seed }).map_err(|e| anyhow!("{e}"))
}

/// One way of asking, with what it cost so far.
struct Way {
    name: String,
    kind: Kind,
    generator: LlamaGenerator,
    pools: Rc<dyn Fn(usize) -> Vec<Labelled>>,
    turns: usize,
    seconds: f64,
    usage: Usage,
    usable: usize,
}

impl Contestant for Way {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        let pool = (self.pools)(self.turns);
        let begin = Instant::now();
        let answer = ask(&mut self.generator, &pool, COUNT, self.turns as u64)?;
        let seconds = begin.elapsed().as_secs_f64();
        self.turns += 1;
        self.seconds += seconds;
        self.usage += answer.usage;
        self.usable += answer.texts.iter().collect::<HashSet<_>>().len();
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        let each = |total: f64| total / self.turns.max(1) as f64;
        let Usage { prompt_tokens, reused_tokens, generated_tokens } = self.usage;
        let usable = self.usable.max(1) as f64;
        vec![
            Extra::new("prompt computed", each((prompt_tokens - reused_tokens) as f64), 0),
            Extra::new("generated", each(generated_tokens as f64), 0),
            Extra::new("usable, distinct", each(self.usable as f64), 1),
            Extra::new("ms a usable one", self.seconds * 1e3 / usable, 1),
        ]
    }
}

/// `llama-batched-bench` of llama.cpp: the same batch of sequences off a shared prompt, without sampling.
struct BatchedBench {
    model: PathBuf,
    threads: usize,
    tokens: usize,
}

/// What it prints with `--output-format jsonl`.
#[derive(Deserialize)]
struct BatchedLine {
    t: f64,
}

/// Its last line that is JSON.
fn batched_seconds(output: &str) -> Result<f64> {
    let line = output.lines().rev().find(|l| l.trim_start().starts_with('{')).context("it printed no figures")?;
    Ok(serde_json::from_str::<BatchedLine>(line).context("it printed other figures than expected")?.t)
}

impl Contestant for BatchedBench {
    fn name(&self) -> String {
        "llama-batched-bench".into()
    }

    fn kind(&self) -> Kind {
        Kind::Peer
    }

    fn turn(&mut self) -> Result<f64> {
        let mut command = Command::new("llama-batched-bench");
        command.arg("-m").arg(&self.model).args(["-c", "8192", "-pps", "--output-format", "jsonl"]);
        command.args(["-npp", &PROMPT.to_string(), "-ntg", &self.tokens.to_string(), "-npl", &COUNT.to_string()]);
        command.args(["-t", &self.threads.to_string(), "-tb", &self.threads.to_string()]);
        let output = command.stdin(Stdio::null()).output().context("cannot start it")?;
        if !output.status.success() {
            anyhow::bail!("it ended with {}", output.status);
        }
        batched_seconds(&String::from_utf8_lossy(&output.stdout))
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn table(bench: &mut Bench, (id, title): (&str, &str), model: &Model, line: Option<usize>) -> Result<()> {
    let threads = bench.threads();
    bench.say("sizing the prompt");
    let length = model.fitting(threads, &bench.stop)?;
    let numbers: Vec<Vec<Labelled>> = (0..64).map(|n| model.pool(length, n)).collect();
    let pools: Rc<dyn Fn(usize) -> Vec<Labelled>> = Rc::new(move |n| numbers[n % 64].clone());
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for (name, kind, sequences, lines) in [
        ("ours, 50 sequences", Kind::Ours, COUNT, 1),
        ("ours again", Kind::Again, COUNT, 1),
        ("ours, 8 sequences of 7", Kind::Ours, 8, 7),
        ("one list of 50", Kind::Peer, 1, COUNT),
    ] {
        let generator = model.open(sequences, lines, threads, &bench.stop)?;
        let pools = Rc::clone(&pools);
        let (turns, seconds, usage, usable) = (0, 0.0, Usage::default(), 0);
        contestants.push(Box::new(Way { name: name.into(), kind, generator, pools, turns, seconds, usage, usable }));
    }
    if let Some(tokens) = line.filter(|_| !bench.peers.wanted.is_empty() && on_path("llama-batched-bench")) {
        contestants.push(Box::new(BatchedBench { model: model.path.clone(), threads, tokens }));
    }
    bench.measure((id, title), &mut contestants, &["one list"]);
    Ok(())
}

/// The demo's generator as its pack has it.
fn demo() -> Result<Model> {
    let pack = Pack::find("demo")?;
    let task = pack.task(Modality::Image)?;
    Ok(Model {
        path: pack.generator_path()?,
        system: task.prompt.system.clone(),
        user: task.prompt.user.clone(),
        temperature: task.settings.temperature,
        top_p: task.settings.top_p,
        texts: task.initial_texts()?,
    })
}

/// A model of a billion random weights: only its times mean something.
fn one_billion(stored: Stored, models: &Path, say: &mut dyn FnMut(&str)) -> Result<Model> {
    Ok(Model {
        path: Llama { stored, ..ONE_BILLION }.file(models, say)?,
        system: "You write captions.".into(),
        user: "{% for item in items %}{{ item.label }} {{ item.text }}\n{% endfor %}".into(),
        temperature: 1.0,
        top_p: 0.98,
        texts: crate::checkpoint::captions(100),
    })
}

/// Share of prompt tokens that were in the cache already, over the steps of runs of the demo, one ask a step.
fn prefix_reuse(bench: &mut Bench) -> Result<()> {
    bench.say("measuring prefix reuse");
    let options = Options { cancel: Arc::clone(&bench.stop), ..Options::default() };
    let mut session = Session::open(Pack::find("demo")?, &options, BackendChoice::Cpu, &mut |_| {})?;
    let config = session.config(Modality::Image)?;
    (config.asks, config.patience) = (1, None);
    let (mut first, mut later) = (Usage::default(), Usage::default());
    for scene in &worlds::scenes::<worlds::Pictures>(Split::HeldOut, SCENES, 7) {
        if bench.stopped() {
            break;
        }
        session.run(&render::render(scene).image.into(), None, &mut |event| {
            if let Event::StepFinished { record, .. } = event {
                let part = if record.step <= 1 { &mut first } else { &mut later };
                *part += record.usage;
            }
            ControlFlow::Continue(())
        })?;
    }
    let share = |u: Usage| u.reused_tokens as f64 / u.prompt_tokens.max(1) as f64;
    bench.fact("prefix-reuse-first", "share of prompt tokens not recomputed, a run's first step", share(first));
    bench.fact("prefix-reuse-later", "share of prompt tokens not recomputed, later steps", share(later));
    Ok(())
}

/// Runs the tables of generation.
///
/// # Errors
/// If a model cannot be made or loaded.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.wanted("generation-demo") && !bench.stopped() {
        let title = ("generation-demo", "demo generator: 50 candidates from a prompt of about 1,000 tokens");
        table(bench, title, &demo()?, None)?;
    }
    if bench.wanted("prefix-reuse") && !bench.stopped() {
        prefix_reuse(bench)?;
    }
    for (id, stored) in
        [("generation-1b-q4", Stored::Q4), ("generation-1b-q8", Stored::Q8), ("generation-1b-bf16", Stored::Bf16)]
    {
        if bench.wanted(id) && !bench.stopped() {
            let models = bench.models.clone();
            let model = one_billion(stored, &models, &mut |what| bench.say(what))?;
            let (tokens, name) = (ONE_BILLION.line, stored.name());
            let title = format!("1B random weights, {name}: 50 candidates of {tokens} tokens, prompt of about 1,000");
            table(bench, (id, &title), &model, Some(tokens))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_their_first_text_on() {
        let texts = (0..100).map(|i| format!("text {i}")).collect();
        let empty = String::new;
        let (path, system, user) = (PathBuf::new(), empty(), empty());
        let model = Model { path, system, user, temperature: 1.0, top_p: 1.0, texts };
        let (a, b) = (model.pool(10, 0), model.pool(10, 1));
        assert_ne!(a[0].text, b[0].text);
        assert_eq!((a[0].label, a[9].label, a.len()), (0, 100, 10));
        assert_eq!(model.pool(1, 3).len(), 1);
    }

    #[test]
    fn the_figures_of_batched_bench_are_read() {
        let output =
            "loading\n{\"pp\": 1000, \"tg\": 14, \"t_pp\": 2.0, \"t_tg\": 1.5, \"t\": 3.5, \"speed\": 1}\n\nbye\n";
        assert_eq!(batched_seconds(output).unwrap(), 3.5);
        assert!(batched_seconds("nothing").is_err() && batched_seconds("{\"x\": 1}").is_err());
        assert!(on_path("sh") || !cfg!(unix));
    }

    #[test]
    fn both_ways_of_asking_the_demo_model_give_candidates() {
        let model = demo().unwrap();
        let pool = model.pool(4, 1);
        for (sequences, lines) in [(4, 1), (1, 4)] {
            let answer = ask(&mut model.open(sequences, lines, 1, &Arc::default()).unwrap(), &pool, 4, 1).unwrap();
            assert!(answer.usage.generated_tokens > 4 && !answer.texts.is_empty(), "{answer:?}");
        }
    }
}
