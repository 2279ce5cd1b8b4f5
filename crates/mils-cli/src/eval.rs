//! `mils eval`: captions measured against references, and two systems against each other.

mod args;
mod measure;
mod plot;
mod run;
mod sight;

pub use args::{CaptionsArgs, CompareArgs, EvalCommand};
pub use plot::PlotArgs;
pub use run::RunArgs;

use self::args::{EvalFormat, SourceArgs};
use self::measure::Tools;
use self::sight::Sight;
use crate::media::ModalityChoice;
use crate::output::Output;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use mils_eval::evaluate::{Corpus, Series, Words};
use mils_eval::read::{self, Entries};
use mils_eval::stats::{Difference, bootstrap, compare};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, or does not belong to the others, or a metric cannot be computed.
pub fn run(command: &EvalCommand) -> Result<ExitCode> {
    match command {
        EvalCommand::Captions(args) => captions(args),
        EvalCommand::Compare(args) => comparison(args),
        EvalCommand::Run(args) => run::run(args),
        EvalCommand::Plot(args) => plot::run(args),
    }
}

/// Reads references and says what is worth knowing of them.
fn references(source: &SourceArgs, progress: &Progress) -> Result<Entries> {
    progress.say("reading references");
    let options = read::Options { split: source.split.clone() };
    let references = read::references(&source.references, &options)?;
    warn(&references, progress);
    Ok(references)
}

fn warn(entries: &Entries, progress: &Progress) {
    /// More lines than this nobody reads.
    const MOST: usize = 10;
    for warning in entries.warnings.iter().take(MOST) {
        progress.tell(&format!("mils: {warning}"));
    }
    if let more @ 1.. = entries.warnings.len().saturating_sub(MOST) {
        progress.tell(&format!("mils: and {more} more"));
    }
}

fn corpus(candidates: &Path, references: &Entries, source: &SourceArgs, progress: &Progress) -> Result<Corpus> {
    progress.say("reading candidates");
    let read = read::candidates(candidates)?;
    warn(&read, progress);
    let place = || format!("{} against {}", candidates.display(), source.references.display());
    Corpus::join(&read, references, source.mismatch.into()).with_context(place)
}

/// What metrics take, with pictures from the folder that was named.
fn tools<'a>(source: &'a SourceArgs, progress: &'a Progress) -> Tools<'a> {
    Tools::new(&source.measures, move |corpus| {
        let Some(folder) = &source.images else {
            bail!("CLIPScore needs the pictures: name their folder with --images, and an encoder with --scorer");
        };
        let files = sight::find(corpus, folder, progress)?;
        let scorer = source.measures.scorer.as_deref();
        Sight::open(scorer, &source.encoder, &files, ModalityChoice::Auto, progress)
    })
}

fn captions(args: &CaptionsArgs) -> Result<ExitCode> {
    let progress = Progress::new(args.source.quiet, None);
    let references = references(&args.source, &progress)?;
    let corpus = corpus(&args.candidates, &references, &args.source, &progress)?;
    progress.say("cutting texts into words");
    let words = Words::of(&corpus);
    let measured = tools(&args.source, &progress).measure(&corpus, &words, &progress)?;
    let intervals: Vec<_> = if args.bootstrap == 0 {
        Vec::new()
    } else {
        progress.say("drawing bootstrap samples");
        measured.series.iter().map(|s| bootstrap(s, args.bootstrap, args.seed)).collect()
    };
    if let Some(path) = &args.per_item {
        per_item(path, &corpus, &measured.series)?;
    }
    progress.finish();
    let scores: Map<String, Value> = measured.scores().into_iter().map(|(name, score)| (name, json!(score))).collect();
    match args.source.format {
        EvalFormat::Json => {
            let mut report = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "candidates": args.candidates,
                "references": args.source.references,
                "split": args.source.split,
                "items": corpus.ids.len(),
                "failed": corpus.failed(),
                "left_out": corpus.left_out,
                "metrics": scores,
            });
            for (name, detail) in &measured.details {
                report[name] = detail.clone();
            }
            if !intervals.is_empty() {
                let all = measured.series.iter().zip(&intervals).map(|(s, i)| (s.name.clone(), json!([i.low, i.high])));
                report["intervals_95"] = Value::Object(all.collect());
            }
            print(&format!("{report:#}\n"))?;
        }
        EvalFormat::Table => {
            let mut out = String::new();
            for (name, score) in measured.scores() {
                let at = measured.series.iter().position(|s| s.name == name);
                let interval = at.and_then(|at| intervals.get(at));
                let interval = interval.map(|i| format!("  [{:.4} {:.4}]", i.low, i.high)).unwrap_or_default();
                out.push_str(&format!("{name:<14} {score:>8.4}{interval}\n"));
            }
            print(&out)?;
            let left = if corpus.left_out > 0 { format!(", {} left out", corpus.left_out) } else { String::new() };
            progress.note(&format!("{} items, {} failed{left}", corpus.ids.len(), corpus.failed()));
        }
    }
    for note in &measured.notes {
        progress.note(note);
    }
    Ok(ExitCode::SUCCESS)
}

fn comparison(args: &CompareArgs) -> Result<ExitCode> {
    let progress = Progress::new(args.source.quiet, None);
    let references = references(&args.source, &progress)?;
    let a = corpus(&args.a, &references, &args.source, &progress)?;
    let b = corpus(&args.b, &references, &args.source, &progress)?;
    if a.ids != b.ids {
        bail!(
            "{} and {} are not of the same items ({} and {}); compare what both have, or count what is missing with \
             --mismatch fail",
            args.a.display(),
            args.b.display(),
            a.ids.len(),
            b.ids.len()
        );
    }
    let mut tools = tools(&args.source, &progress);
    progress.say("cutting texts into words");
    let words = Words::of(&a);
    let measured_a = tools.measure(&a, &words, &progress)?;
    let measured_b = tools.measure(&b, &words.with_candidates(&b), &progress)?;
    progress.say("drawing samples");
    let one = |(a, b): (&Series, &Series)| (a.name.clone(), compare(a, b, args.samples, args.seed));
    let all: Vec<(String, Difference)> = measured_a.series.iter().zip(&measured_b.series).map(one).collect();
    progress.finish();
    match args.source.format {
        EvalFormat::Json => {
            let metrics: Map<String, Value> = all.iter().map(|(name, d)| (name.clone(), json!(d))).collect();
            let report = json!({
                "a": args.a, "b": args.b, "references": args.source.references, "items": a.ids.len(),
                "failed": {"a": a.failed(), "b": b.failed()}, "samples": args.samples, "seed": args.seed,
                "metrics": metrics,
            });
            print(&format!("{report:#}\n"))?;
        }
        EvalFormat::Table => {
            let mut out =
                format!("{:<14} {:>8} {:>8} {:>9}  {:<19} {:>7}\n", "", "A", "B", "B - A", "95 % interval", "p");
            for (name, d) in &all {
                let Difference { a, b, difference, interval, p } = d;
                let interval = format!("[{:+.4} {:+.4}]", interval.low, interval.high);
                out.push_str(&format!("{name:<14} {a:>8.4} {b:>8.4} {difference:>+9.4}  {interval:<19} {p:>7.4}\n"));
            }
            print(&out)?;
        }
    }
    for note in &measured_a.notes {
        progress.note(note);
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of JSON for each item.
fn per_item(path: &Path, corpus: &Corpus, series: &[Series]) -> Result<()> {
    let mut out = Output::open(Some(path), false)?;
    for (at, id) in corpus.ids.iter().enumerate() {
        let mut line = json!({"id": id, "caption": corpus.candidates[at]});
        if let Some(error) = &corpus.errors[at] {
            line["error"] = json!(error);
        }
        for one in series {
            line[&one.name] = json!(one.item(at));
        }
        out.write(format!("{line}\n").as_bytes())?;
    }
    out.finish()
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
