//! `mils caption`: files in, captions out, whatever happens in between.

mod gather;
mod summary;

use summary::Summary;

use crate::args::{CaptionArgs, Format};
use crate::batch::{Batch, Keeper, StepDone};
use crate::choose;
use crate::flight::{Flown, News, Runway};
use crate::inputs::leading;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::log::Log;
use crate::media::{self, Input, Media, Taken};
use crate::metadata::Metadata;
use crate::output;
use crate::report::{Embedding, Site, Subject, copied};
use crate::scorers::Mode;
use crate::session::{Doing, Facts, Options, Session, StepSeconds, decimal};
use crate::show::{Display, one_line, tell};
use crate::trace::Trace;
use anyhow::{Context, Result};
use mils_models::{Modality, Pack};
use mils_optim::{Counts, Event, StepRecord, StoppedBy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Runs the command.
///
/// # Errors
/// If the models cannot be loaded, or a report or stdout cannot be written. Files that fail, and a trace that fails
/// midway, are reported on stderr and in the exit code.
pub fn run(args: &CaptionArgs) -> Result<ExitCode> {
    // Questions come first: until then Ctrl-C has nothing to save.
    let choice = choose::named(args.run.writer.pack.as_deref(), || leading(args.modality, &args.files))?;
    args.run.initial()?;
    let cancel = on_ctrl_c()?;
    let Some(pack) = choice.with_models(args.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    caption(args, pack, cancel)
}

/// Captions with a pack that is there, until `cancel` is set.
///
/// # Errors
/// As [`run`].
pub(crate) fn caption(args: &CaptionArgs, pack: Pack, cancel: Arc<AtomicBool>) -> Result<ExitCode> {
    let initial = args.run.initial()?;
    let display = Display::new(args.quiet, args.verbose);
    let (log, failed) = (Mutex::default(), AtomicBool::new(false));
    let (files, batch) = (Vec::new(), Mutex::default());
    let (steps_failed, results_failed) = (AtomicBool::new(false), AtomicBool::new(false));
    let metadata = Metadata::of(&args.results);
    let mut job = Job {
        args,
        metadata,
        files,
        done_before: 0,
        initial,
        cancel,
        display,
        batch,
        log,
        steps_failed,
        results_failed,
        failed,
    };
    let result = job.run(pack);
    job.display.finish();
    // Also where the models could not be loaded: what was taken up is to be left as it was found.
    let closed = locked(&job.batch).take().map_or(Ok(()), Batch::finish);
    result.and_then(|code| closed.map(|()| code))
}

/// One call of the command: what the threads of its files share.
struct Job<'a> {
    args: &'a CaptionArgs,
    /// What is written beside the files and into them.
    metadata: Metadata,
    /// What is to be captioned.
    files: Vec<PathBuf>,
    /// Other files that were named and need nothing.
    done_before: usize,
    /// The initial set that was asked for.
    initial: Option<PathBuf>,
    cancel: Arc<AtomicBool>,
    display: Display,
    /// The output, if it is a file.
    batch: Mutex<Option<Batch>>,
    /// The trace, and what the report wants to know.
    log: Mutex<Log>,
    /// Steps cannot be kept, as was said.
    steps_failed: AtomicBool,
    /// The last result could not be written, as was said.
    results_failed: AtomicBool,
    /// Something failed that did not stop the rest.
    failed: AtomicBool,
}

/// How a file ended.
type Ended = Result<Flown>;

/// What is known of the first file before models are loaded: what it is, and the picture if it is one.
type First = Result<(Taken, Option<Media>)>;

/// A file has what is to be written into it.
#[derive(Debug)]
struct Described;

impl std::error::Error for Described {}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it has a description")
    }
}

/// How many files ended in which way.
#[derive(Default)]
struct Tally {
    captioned: usize,
    failed: usize,
    /// They had a description.
    skipped: usize,
}

/// What has a place in the order of the files.
struct Results<'a> {
    /// For their names and settings.
    facts: &'a Facts,
    report: Option<Site>,
    tally: Tally,
    /// Files that ended before one that stands before them.
    waiting: BTreeMap<usize, Ended>,
    /// The next file to be told of.
    next: usize,
    printed: Result<()>,
}

impl Job<'_> {
    fn run(&mut self, pack: Pack) -> Result<ExitCode> {
        let args = self.args;
        if let Some(code) = self.gather(&pack)? {
            let (counts, utilisation) = Default::default();
            self.write_summary(&Summary { tally: &Tally::default(), counts, utilisation, seconds: 0.0, facts: None })?;
            return Ok(code);
        }
        // Whatever is known to fail is said before models are loaded: a single file that cannot be read, and outputs
        // that cannot be written.
        let first = self.first(&pack, &self.files[0]);
        if let ([file], Err(error)) = (&self.files[..], &first) {
            return self.fail(file, error).map(|()| ExitCode::FAILURE);
        }
        if let Some(path) = &args.summary {
            output::check(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let report = args.report.as_deref().map(|path| Site::open(path, Embedding::default())).transpose()?;
        self.log = Mutex::new(Log::new(args.trace.as_deref().map(Trace::open).transpose()?, report.is_some()));
        let modality = first.as_ref().ok().map(|(taken, _)| taken.modality);
        let Some(mut session) = self.open(pack, modality)? else { return Ok(ExitCode::from(INTERRUPTED)) };
        self.display.expect(self.files.len(), session.in_flight());
        self.log(|log| log.begin(&session));
        let facts = session.facts();
        let tally = Tally::default();
        let mut results = Results { facts: &facts, report, tally, waiting: BTreeMap::new(), next: 0, printed: Ok(()) };
        self.caption_all(&mut session, first, &mut results);
        self.display.finish();
        // The trace and the report are wanted even when whoever read the results has seen enough.
        let reported = self.finish_report(results.report.take());
        match results.printed {
            Err(error) if is_broken_pipe(&error) => {}
            printed => printed?,
        }
        reported?;
        Ok(if self.cancelled() {
            ExitCode::from(INTERRUPTED)
        } else if self.failed.load(Ordering::SeqCst) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn first(&self, pack: &Pack, file: &Path) -> First {
        let taken = self.taken(file)?;
        pack.task(taken.modality)?;
        Ok((taken, media::check(file, taken)?))
    }

    /// What a file is taken for; [`Described`] is the error where there is nothing to do.
    fn taken(&self, file: &Path) -> Result<Taken> {
        let taken = self.args.modality.of(file)?;
        let begun = || locked(&self.batch).as_ref().is_some_and(|batch| batch.is_begun(&file.display().to_string()));
        if !self.metadata.is_beside() && !begun() && self.metadata.is_described(file)? {
            return Err(Described.into());
        }
        Ok(taken)
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Loads the models; `None` if that was interrupted, when there is no best so far.
    fn open(&self, pack: Pack, first: Option<Modality>) -> Result<Option<Session>> {
        let args = self.args;
        let run = &args.run;
        let options = Options {
            first,
            steps: run.steps.map(|n| n as usize),
            keep: run.keep.map(|n| n as usize),
            propose: run.propose.map(|n| n as usize),
            temperature: run.temperature,
            seed: run.seed,
            feedback: run.feedback,
            precision: run.encoder.dtype.into(),
            math: run.encoder.math,
            files: self.files.len(),
            in_flight: run.in_flight.map(|n| n as usize),
            sequences: run.sequences.map(|n| n as usize),
            endpoint: run.writer.endpoint(),
            initial: self.initial.clone(),
            embeddings: crate::kept::store(&mut |note| self.display.doing(Doing::Note(note))),
            cancel: Arc::clone(&self.cancel),
        };
        match Session::open(pack, &options, run.encoder.backend, &mut |doing| self.display.doing(doing)) {
            Err(_) if self.cancelled() => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// All files, some at a time, with the display and the trace looking on.
    fn caption_all(&self, session: &mut Session, first: First, results: &mut Results<'_>) {
        let files = &self.files;
        let first = Mutex::new(Some(first));
        let begin = Instant::now();
        let name = |number: usize| files[number].display().to_string();
        let next = |number: usize| {
            let file = files.get(number).filter(|_| !self.cancelled())?;
            self.display.begin(number, &name(number));
            let known = locked(&first).take().filter(|_| number == 0);
            let input = match known {
                Some(Ok((_, Some(media)))) => Ok(Input::Media(media)),
                Some(Ok((taken, None))) => Ok(Input::File(file.clone(), taken)),
                Some(Err(error)) => Err(error),
                None => self.taken(file).map(|taken| Input::File(file.clone(), taken)),
            };
            let modality = input.as_ref().ok().map(Input::modality);
            self.log(|log| log.file((number, &name(number)), modality));
            Some(input)
        };
        let observer = |number: usize, mode: &Mode, event: &Event<'_>, seconds: StepSeconds| {
            self.display.event(number, mode.config.steps, event);
            self.log(|log| log.event((number, &name(number)), event, seconds));
            if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let news = |news: News<'_>| match news {
            News::Doing(doing) => self.display.doing(doing),
            News::Opened(mode) => {
                if let Some(licence) = mode.licence.filter(|_| !self.args.quiet) {
                    self.display.line(&format!("mils: the weights of {} are {licence}", mode.scorer));
                }
                self.log(|log| log.scorer(mode));
            }
        };
        let mut counts = Counts::default();
        let keeper = locked(&self.batch).is_some().then_some(self as &dyn Keeper);
        let runway = Runway { next: &next, observer: &observer, news: &news, keeper };
        let utilisation = session.caption_all(&runway, &mut |number, ended| {
            if let Ok(flown) = &ended {
                counts += flown.run.outcome.counts;
            }
            self.ended(results, number, ended);
            // Where a result cannot be printed, no further one can.
            if results.printed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let seconds = begin.elapsed().as_secs_f64();
        self.log(|log| log.total(results.next, seconds, utilisation));
        self.display.finish();
        let percent = |share: f64| share * 100.0;
        let summary = Summary { tally: &results.tally, counts, utilisation, seconds, facts: Some(results.facts) };
        if let Err(error) = self.write_summary(&summary) {
            self.complain(&one_line(&error));
        }
        let usage = counts.usage;
        self.display.summary(
            self.in_words(&summary).as_deref(),
            &format!(
                "{} in {seconds:.1} s, {} at a time: language model busy {:.0} %, encoder busy {:.0} %; {:.0} % of the \
                 prompts' tokens were not computed again",
                if results.next == 1 { "1 file".to_owned() } else { format!("{} files", results.next) },
                session.in_flight(),
                percent(utilisation.generator),
                percent(utilisation.scorer),
                percent(usage.reused_tokens as f64 / usage.prompt_tokens.max(1) as f64),
            ),
        );
    }

    /// A file has ended: the trace has it at once, its result is printed in the order of the files.
    fn ended(&self, results: &mut Results<'_>, number: usize, ended: Ended) {
        let name = self.files[number].display().to_string();
        match &ended {
            Ok(flown) => self.log(|log| log.end((number, &name), flown)),
            Err(error) if error.is::<Described>() => {}
            Err(error) => self.log(|log| log.failed((number, &name), &one_line(error))),
        }
        let failed = ended.as_ref().is_err_and(|error| !error.is::<Described>());
        self.display.end(number, failed);
        if locked(&self.batch).is_some() {
            // Nobody waits for the others: what is done is kept.
            return self.settle(results, number, ended);
        }
        results.waiting.insert(number, ended);
        while let Some(ended) = results.waiting.remove(&results.next) {
            self.settle(results, results.next, ended);
        }
    }

    /// Tells of a file. The first result that cannot be told is what the command fails with, whatever comes after it.
    fn settle(&self, results: &mut Results<'_>, number: usize, ended: Ended) {
        results.next += 1;
        let printed = self.tell(results, number, ended);
        if results.printed.is_ok() {
            results.printed = printed;
        }
    }

    /// Prints a file's result and puts it into the report.
    fn tell(&self, results: &mut Results<'_>, number: usize, ended: Ended) -> Result<()> {
        let file = &self.files[number];
        let described = ended.as_ref().is_err_and(|error| error.is::<Described>());
        let reported = if described { Ok(()) } else { self.report(results, number, &ended) };
        let flown = match ended {
            Ok(flown) => flown,
            Err(error) if error.is::<Described>() => {
                results.tally.skipped += 1;
                return Ok(());
            }
            Err(error) => {
                results.tally.failed += 1;
                return self.fail(file, &error).and(reported);
            }
        };
        let (name, outcome) = (file.display().to_string(), &flown.run.outcome);
        let mut value = result(&name, results.facts, &flown);
        // What was interrupted is not done.
        let done = outcome.stopped_by != StoppedBy::Interrupted;
        if done {
            match self.write_metadata(file, &value) {
                Ok(()) => results.tally.captioned += 1,
                Err(error) => {
                    results.tally.failed += 1;
                    let error = one_line(&error);
                    self.complain(&format!("{name}: {error}"));
                    value["error"] = error.into();
                }
            }
        }
        let printed = if locked(&self.batch).is_some() {
            if done {
                self.keep(&value);
            }
            Ok(())
        } else if results.printed.is_ok() {
            self.print(&match self.args.format {
                Format::Text if self.files.len() == 1 => outcome.best.text.clone(),
                Format::Text => format!("{name}\t{}", outcome.best.text),
                Format::Json => value.to_string(),
            })
        } else {
            Ok(())
        };
        printed.and(reported)
    }

    /// Puts a file's run into the report.
    fn report(&self, results: &mut Results<'_>, number: usize, ended: &Ended) -> Result<()> {
        let (Some(site), Some(run)) = (&mut results.report, locked(&self.log).run(number)) else { return Ok(()) };
        let media = match ended {
            Ok(flown) => Ok(&*flown.media),
            Err(error) => Err(copied(error)),
        };
        let subject = Subject { media, file: Some(&self.files[number]), modality: run.modality };
        site.add(&run, &subject).map(drop)
    }

    /// Writes what is to be beside a file or in it. An output that does not have its result yet will know that it was
    /// begun: a caption that is there already is no reason then to pass over the file.
    fn write_metadata(&self, file: &Path, result: &Value) -> Result<()> {
        if !self.metadata.is_wanted() {
            return Ok(());
        }
        self.keep_step(&file.display().to_string(), &StepDone::default());
        self.metadata.write(file, result)
    }

    /// Writes a result into the output. Where that fails it is said once, and the run goes on: it is tried again.
    fn keep(&self, result: &Value) {
        let kept = locked(&self.batch).as_mut().map_or(Ok(()), |batch| batch.result(result));
        let failed = self.results_failed.swap(kept.is_err(), Ordering::SeqCst);
        if let (Err(error), false) = (kept, failed) {
            self.complain(&format!("{}; going on, and trying again with the next result", one_line(&error)));
        }
    }

    /// A step that cannot be kept is said once; what it costs is that it is done again.
    fn keep_step(&self, name: &str, step: &StepDone) {
        let kept = locked(&self.batch).as_mut().map(|batch| batch.step(name, step));
        if let Some(Err(error)) = kept.filter(|_| !self.steps_failed.swap(true, Ordering::SeqCst)) {
            self.complain(&format!("{}; going on without", one_line(&error)));
        }
    }

    /// Says that something failed that does not stop the rest.
    fn complain(&self, what: &str) {
        self.failed.store(true, Ordering::SeqCst);
        self.display.line(&format!("mils: {what}"));
    }

    /// Writes to the trace, if there is one. One that cannot be written is said once, and captions go on without it.
    fn log(&self, write: impl FnOnce(&mut Log) -> Result<()>) {
        let Err(error) = write(&mut locked(&self.log)) else { return };
        self.complain(&format!("{}; going on without it", one_line(&error)));
    }

    /// Says that a file failed; in JSON also to whoever reads the results.
    fn fail(&self, file: &Path, error: &anyhow::Error) -> Result<()> {
        let (name, error) = (file.display().to_string(), one_line(error));
        self.complain(&format!("{name}: {error}"));
        if locked(&self.batch).is_some() {
            self.keep(&json!({"file": name, "error": error}));
            return Ok(());
        }
        match self.args.format {
            Format::Text => Ok(()),
            Format::Json => self.print(&json!({"file": name, "error": error}).to_string()),
        }
    }

    /// A line on stdout.
    fn print(&self, line: &str) -> Result<()> {
        self.display.bar_suspend(|| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot print the result")
        })
    }

    fn finish_report(&self, report: Option<Site>) -> Result<()> {
        let expected = self.cancelled().then_some(self.files.len());
        let finished = report.map_or(Ok(None), |report| report.finish(expected))?;
        if let Some(finished) = finished.filter(|_| !self.args.quiet) {
            tell(&format!("report: {}", finished.page.path.display()));
        }
        Ok(())
    }
}

impl Keeper for Job<'_> {
    fn begun(&self, number: usize) -> Vec<StepDone> {
        let name = self.files[number].display().to_string();
        locked(&self.batch).as_ref().map(|batch| batch.begun(&name)).unwrap_or_default()
    }

    fn step(&self, number: usize, step: &StepDone) {
        self.keep_step(&self.files[number].display().to_string(), step);
    }
}

/// What a lock guards. A thread that died with it held has left it whole: nothing here is changed in two steps.
fn locked<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether whoever read our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What a run, or several, took.
fn counts(of: &Counts) -> Value {
    json!({
        "scored": of.scored, "cache_hits": of.memo_hits, "unusable": of.unusable,
        "prompt_tokens": of.usage.prompt_tokens, "reused_tokens": of.usage.reused_tokens,
        "generated_tokens": of.usage.generated_tokens,
    })
}

/// What a step has come to; the first is the initial set's.
fn step(of: &StepRecord) -> Value {
    json!({
        "step": of.step, "caption": of.best.text, "score": of.best.score, "mean_kept": of.mean_kept, "scored": of.scored,
    })
}

/// The result of a file as JSON.
fn result(file: &str, facts: &Facts, Flown { mode, run, .. }: &Flown) -> Value {
    let outcome = &run.outcome;
    let names = &facts.names;
    json!({
        "file": file,
        "modality": mode.modality,
        "caption": outcome.best.text,
        "score": outcome.best.score,
        // Without the initial set's.
        "steps": outcome.steps.len().saturating_sub(1),
        "stopped_by": outcome.stopped_by,
        "history": outcome.steps.iter().map(step).collect::<Vec<_>>(),
        "counts": counts(&outcome.counts),
        "encoder": run.encoder,
        "seconds": run.seconds,
        "utilisation": run.utilisation,
        "in_flight": facts.in_flight,
        "models": {
            "pack": names.pack, "scorer": mode.scorer, "generator": names.generator, "backend": names.backend,
            "generator_on": names.generator_on, "generator_parameters": facts.generator_parameters,
        },
        "settings": mode.config,
        "temperature": decimal(facts.temperature),
        "sampling": facts.sampling,
        "interrupted": outcome.stopped_by == StoppedBy::Interrupted,
    })
}
