//! `mils bank build`: a language model writes captions about each label of a list.

use super::BankFormat;
use super::journal::{Journal, Said, path_of};
use crate::args::generator::GeneratorArgs;
use crate::args::{number, same_file, temperature};
use crate::backend::{BackendChoice, generator_placement};
use crate::choose;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::models::ModalityName;
use crate::output::replace;
use crate::progress::Progress;
use crate::session::{Options, Writer, decimal, open_writer};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use mils_bank::{Cleaner, Counts, Labels, Limits, read_labels};
use mils_llm::EndpointOptions;
use mils_models::{Modality, Pack};
use mils_optim::prompt::PromptTemplate;
use mils_optim::{Generator, Labelled, Request, UnusableReason};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

const BUILD_EXAMPLES: &str = "\
Examples:
  mils bank build --modality image -o mine.txt
  mils bank build --modality sound --labels machines.txt --per-label 20 -o machines-set.txt
  mils bank build --modality image --generator http://localhost:8080/v1 -o mine.txt
  mils caption photo.jpg --initial mine.txt

The pack's language model is asked for captions about each label, several labels at a time. Labels
are the project's own lists for the modality (models/banks/labels), or files with one a line; lines
that begin with # are left out. What cannot be used of the answers, and what differs from another
text in case, spaces and punctuation alone, is counted and left out.

What was said so far is kept in OUT.steps: killed or interrupted at any moment, the same command
goes on. The set is written at the end, whole.

Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.";

/// Labels that are asked about at a time.
const AT_ONCE: usize = 8;

/// `mils bank build`.
#[derive(Debug, Args)]
#[command(after_help = BUILD_EXAMPLES)]
pub struct BuildArgs {
    /// What the captions are of
    #[arg(long, value_enum)]
    pub modality: ModalityName,

    /// Where to write the set
    #[arg(long, short, value_name = "OUT.txt")]
    pub output: PathBuf,

    /// Labels, one a line; can be given several times [default: the project's lists for the modality]
    #[arg(long, value_name = "FILE")]
    pub labels: Vec<PathBuf>,

    /// Captions that are asked for about each label
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number(1..=1000), allow_negative_numbers = true)]
    pub per_label: u32,

    /// Begin the set anew, whatever there is of it
    #[arg(long)]
    pub overwrite: bool,

    /// Which language model writes.
    #[command(flatten)]
    pub writer: GeneratorArgs,

    /// Answers written side by side, over all labels [default: the pack's, or what suits the model and the machine]
    #[arg(long, value_name = "N", value_parser = number(1..=192), allow_negative_numbers = true)]
    pub sequences: Option<u32>,

    /// Sampling temperature, 0 to 10
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: f32,

    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Where the language model runs; auto takes a GPU if llama.cpp finds one (see `mils devices`)
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// How what was done is printed
    #[arg(long, value_enum, default_value_t = BankFormat::Text)]
    pub format: BankFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl BuildArgs {
    /// No output may go over an input.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        let steps = path_of(&self.output);
        match self.labels.iter().find(|file| same_file(file, &self.output) || same_file(file, &steps)) {
            Some(file) => Err(format!("--output would overwrite the labels {}", file.display())),
            None => Ok(()),
        }
    }

    /// What must be the same for an unfinished set to be taken up.
    fn identity(&self, pack: &Pack) -> Value {
        let file = || pack.generator_path().map(|path| path.display().to_string()).unwrap_or_default();
        json!({
            "modality": Modality::from(self.modality), "per_label": self.per_label, "seed": self.seed,
            "temperature": decimal(self.temperature), "generator": self.writer.generator.clone().unwrap_or_else(file),
            "generator_model": self.writer.generator_model,
        })
    }
}

/// The labels that are asked about, each once.
fn labels(args: &BuildArgs) -> Result<Vec<String>> {
    let modality = Modality::from(args.modality);
    if args.labels.is_empty() {
        let folder = mils_models::labels_folder(modality).ok_or_else(|| {
            anyhow!("the project's lists of labels for {modality}s are not installed; name files with --labels")
        })?;
        return Ok(Labels::read(&folder)?.all());
    }
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for file in &args.labels {
        all.extend(read_labels(file)?.into_iter().filter(|label| seen.insert(label.clone())));
    }
    Ok(all)
}

/// What the language model is asked: the label comes last, so that all before it is computed once.
fn template(modality: Modality) -> Result<PromptTemplate> {
    let (of, says) = match modality {
        Modality::Image => ("pictures", "what can be seen"),
        Modality::Video => ("short videos", "what can be seen and what happens"),
        Modality::Sound => ("sound recordings", "what can be heard"),
    };
    let system = format!("You write captions of {of} that you imagine.");
    let user = format!(
        "Write {{{{ count }}}} different caption{{{{ \"s\" if count > 1 }}}} as a numbered list, and nothing else. Each is \
         one line of 5 to 15 words that says {says}, without naming the {of} themselves. Let places, company, \
         circumstances and the wording vary.\nThe subject: {{{{ items[0].text }}}}"
    );
    Ok(PromptTemplate::new(&system, &user)?)
}

/// Runs the command.
///
/// # Errors
/// If the labels cannot be read, the language model cannot be had or fails, or the set cannot be written.
pub(super) fn run(args: &BuildArgs) -> Result<ExitCode> {
    let labels = labels(args)?;
    let choice = choose::named(args.writer.pack.as_deref(), || args.modality.into())?;
    let cancel = on_ctrl_c()?;
    let interrupted = Ok(ExitCode::from(INTERRUPTED));
    let Some(mut pack) = choice.with_models(args.quiet, &cancel)? else { return interrupted };
    if args.output.exists() && !path_of(&args.output).exists() && !args.overwrite {
        bail!("{} is there already; name another file, or give --overwrite", args.output.display());
    }
    let journal = Journal::open(&args.output, &args.identity(&pack), args.overwrite)?;
    // Answers of equal length that make up what is asked for. What the pack says is about its own language model.
    let wanted = args.per_label as usize;
    let most = if args.writer.generator.is_some() { EndpointOptions::default().lines } else { pack.generator.lines };
    pack.generator.lines = wanted.div_ceil(wanted.div_ceil(most.max(1)));
    let progress = Progress::new(args.quiet, None);
    let mut job = Job { args, labels, cancel, progress, journal, begin: Instant::now(), writer: String::new() };
    let built = job.ask_all(&pack);
    job.progress.finish();
    match built {
        Err(_) if job.cancelled() => {}
        built => built.context("what was said so far is kept, and the same command goes on")?,
    }
    if job.cancelled() {
        let (done, all) = (job.done(), job.labels.len());
        job.progress.note(&format!("mils: interrupted after {done} of {all} labels; the same command goes on"));
        return interrupted;
    }
    job.finish().map(|()| ExitCode::SUCCESS)
}

/// One call of the command.
struct Job<'a> {
    args: &'a BuildArgs,
    labels: Vec<String>,
    cancel: Arc<AtomicBool>,
    progress: Progress,
    journal: Journal,
    begin: Instant,
    /// The language model's name.
    writer: String,
}

/// A label's number and what was said about it.
type Answer = (usize, Result<Said>);

impl Job<'_> {
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Labels that are done.
    fn done(&self) -> usize {
        self.labels.iter().filter(|label| self.journal.done.contains_key(*label)).count()
    }

    /// Asks about every label that is not done.
    fn ask_all(&mut self, pack: &Pack) -> Result<()> {
        let args = self.args;
        let todo: Vec<usize> =
            (0..self.labels.len()).filter(|&i| !self.journal.done.contains_key(&self.labels[i])).collect();
        if todo.is_empty() {
            return Ok(());
        }
        let done = self.labels.len() - todo.len();
        if done > 0 {
            self.progress.note(&format!("mils: {done} of {} labels are done", self.labels.len()));
        }
        self.progress.say("loading the language model");
        let endpoint = args.writer.endpoint();
        let options = Options {
            sequences: args.sequences.map(|n| n as usize),
            endpoint,
            cancel: Arc::clone(&self.cancel),
            ..Options::default()
        };
        let threads = AT_ONCE.min(todo.len());
        // An endpoint has its calls over all who ask.
        let side_by_side = if options.endpoint.is_some() { 1 } else { threads };
        let placement = generator_placement(args.backend);
        let propose = args.per_label as usize;
        let Writer { mut generator, name, .. } =
            open_writer(pack, args.temperature, side_by_side, placement, &options, propose)?;
        generator.set_template(Arc::new(template(args.modality.into())?));
        self.writer = name;
        self.progress.expect(todo.len() as u64);
        self.progress.begin();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (outbox, inbox) = channel::<Answer>();
        let (labels, cancel) = (&self.labels, &self.cancel);
        let (journal, progress) = (&mut self.journal, &mut self.progress);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (mut generator, outbox) = (generator.another(), outbox.clone());
                let (next, stop, todo) = (&next, &stop, &todo);
                scope.spawn(move || {
                    let ended = || stop.load(Ordering::SeqCst) || cancel.load(Ordering::SeqCst);
                    while let Some(&label) = todo.get(next.fetch_add(1, Ordering::SeqCst)) {
                        if ended() {
                            return;
                        }
                        let said = ask(&mut generator, &labels[label], label, args);
                        // What was cut off is asked again.
                        if ended() || outbox.send((label, said)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(outbox);
            let kept = inbox.iter().try_for_each(|(label, said)| -> Result<()> {
                let said = said.with_context(|| format!("label `{}`", labels[label]))?;
                journal.keep(&labels[label], said)?;
                progress.count(1, "labels");
                Ok(())
            });
            stop.store(true, Ordering::SeqCst);
            kept
        })
    }

    /// Writes the set and says what came of it.
    fn finish(self) -> Result<()> {
        let mut cleaner = Cleaner::new(Limits::default());
        let mut texts = Vec::new();
        let mut unusable: BTreeMap<String, usize> = BTreeMap::new();
        let mut tokens = 0;
        for said in self.labels.iter().filter_map(|label| self.journal.done.get(label)) {
            texts.extend(said.texts.iter().filter_map(|text| cleaner.take(text)));
            for reason in &said.unusable {
                *unusable.entry(named(*reason)).or_default() += 1;
            }
            tokens += said.tokens;
        }
        if texts.is_empty() {
            bail!("the language model said nothing usable about {} labels; take another one", self.labels.len());
        }
        let place = || format!("cannot write {}", self.args.output.display());
        replace(&self.args.output, texts.iter().flat_map(|text| [text.as_str(), "\n"])).with_context(place)?;
        let counts = cleaner.counts();
        let silent =
            self.labels.iter().filter(|label| self.journal.done.get(*label).is_some_and(|s| s.texts.is_empty()));
        let silent = silent.count();
        let seconds = self.begin.elapsed().as_secs_f64();
        let text = match self.args.format {
            BankFormat::Json => json!({
                "output": self.args.output.display().to_string(), "modality": Modality::from(self.args.modality),
                "labels": self.labels.len(), "labels_without_texts": silent, "texts": counts.kept,
                "duplicates": counts.duplicates, "too_long": counts.too_long, "empty": counts.empty,
                "unusable": unusable, "generated_tokens": tokens, "generator": self.writer, "seconds": seconds,
            })
            .to_string(),
            BankFormat::Text => {
                let mut text = summary(&self.args.output.display().to_string(), counts);
                let other: usize = unusable.values().sum();
                if other > 0 {
                    let each: Vec<String> = unusable.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
                    text += &format!("; {other} answers' parts were of no use ({})", each.join(", "));
                }
                text += &format!("; {} labels", self.labels.len());
                if silent > 0 { text + &format!(", {silent} of them without a text") } else { text }
            }
        };
        self.journal.finish()?;
        let mut out = stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the result")
    }
}

/// What came of texts, for people.
pub(super) fn summary(output: &str, counts: Counts) -> String {
    let mut text = format!("{output}: {} texts", counts.kept);
    for (count, what) in
        [(counts.duplicates, "were there already"), (counts.too_long, "were too long"), (counts.empty, "were empty")]
    {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// As traces call it.
fn named(reason: UnusableReason) -> String {
    serde_json::to_value(reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn ask(generator: &mut impl Generator, label: &str, number: usize, args: &BuildArgs) -> Result<Said> {
    let pool = [Labelled { text: label.to_owned(), score: 0.0, label: 0 }];
    // Each label has random numbers of its own, wherever the run was taken up.
    let seed = args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64);
    let request = Request { step: 1, pool: &pool, count: args.per_label as usize, seed };
    let said = generator.propose(&request).map_err(|error| anyhow!("{error}"))?;
    Ok(said.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_ends_with_the_label() {
        for modality in Modality::ALL {
            let pool = [Labelled { text: "barn owl".into(), score: 0.0, label: 0 }];
            let messages = template(modality).unwrap().render(&pool, 4).unwrap();
            assert!(messages.user.starts_with("Write 4 different captions") && messages.user.ends_with(": barn owl"));
            assert!(template(modality).unwrap().render(&pool, 1).unwrap().user.contains("1 different caption as"));
        }
    }
}
