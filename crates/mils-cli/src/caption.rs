//! `mils caption`: files in, captions out, whatever happens in between.

use crate::args::{CaptionArgs, Format};
use crate::batch::{Batch, Keeper, StepDone};
use crate::choose::{self, Choice};
use crate::flight::{Flown, News, Runway};
use crate::inputs::leading;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::media::{self, Input, Media};
use crate::report::{self, FileReport, Report};
use crate::scorers::Mode;
use crate::session::{Endpoint, Facts, Options, Session, decimal};
use crate::show::{Display, one_line, tell};
use crate::sources;
use crate::trace::Trace;
use anyhow::{Context, Result, anyhow, bail};
use mils_models::{Modality, Pack};
use mils_optim::{Candidate, Event, StepRecord, StoppedBy, Usage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the report wants to know of each step.
pub struct StepView {
    /// The summary.
    pub record: StepRecord,
    /// The kept texts, best first.
    pub pool: Vec<Candidate>,
}

/// Runs the command.
///
/// # Errors
/// If the models cannot be loaded, or a report or stdout cannot be written. Files that fail, and a trace that fails
/// midway, are reported on stderr and in the exit code.
pub fn run(args: &CaptionArgs) -> Result<ExitCode> {
    // Questions come first: until then Ctrl-C has nothing to save.
    let choice = match &args.pack {
        Some(name) => Choice::Installed(Box::new(Pack::find(name)?)),
        None => choose::pack(leading(args.modality, &args.files))?,
    };
    let cancel = on_ctrl_c()?;
    let Some(pack) = choice.with_models(args.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let display = Display::new(args.quiet, args.verbose);
    let (trace, steps, failed) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
    let (files, batch) = (Vec::new(), Mutex::default());
    let steps_failed = AtomicBool::new(false);
    let mut job = Job { args, files, cancel, display, batch, trace, steps, steps_failed, failed };
    let result = job.run(pack);
    job.display.finish();
    result
}

/// One call of the command: what the threads of its files share.
struct Job<'a> {
    args: &'a CaptionArgs,
    /// What is to be captioned.
    files: Vec<PathBuf>,
    cancel: Arc<AtomicBool>,
    display: Display,
    /// The output, if it is a file.
    batch: Mutex<Option<Batch>>,
    trace: Mutex<Option<Trace>>,
    /// What the report wants to know, by the file's number.
    steps: Mutex<HashMap<usize, Vec<StepView>>>,
    /// Steps cannot be kept, as was said.
    steps_failed: AtomicBool,
    /// Something failed that did not stop the rest.
    failed: AtomicBool,
}

/// How a file ended.
type Ended = Result<Flown>;

/// What is known of the first file before models are loaded: what it is, and the picture if it is one.
type First = Result<(Modality, Option<Media>)>;

/// What has a place in the order of the files.
struct Results<'a> {
    /// For their names and settings.
    facts: &'a Facts,
    report: Report,
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
            return Ok(code);
        }
        // Whatever is known to fail is said before models are loaded: a single file that cannot be read, and outputs
        // that cannot be written.
        let first = self.first(&pack, &self.files[0]);
        if let ([file], Err(error)) = (&self.files[..], &first) {
            return self.fail(file, error).map(|()| ExitCode::FAILURE);
        }
        if let Some(path) = &args.report {
            report::check(path)?;
        }
        self.trace = Mutex::new(args.trace.as_deref().map(Trace::open).transpose()?);
        let modality = first.as_ref().ok().map(|(modality, _)| *modality);
        let Some(mut session) = self.open(pack, modality)? else { return Ok(ExitCode::from(INTERRUPTED)) };
        self.display.expect(self.files.len(), session.in_flight());
        self.trace(|trace| trace.begin(&session));
        let facts = session.facts();
        let mut results =
            Results { facts: &facts, report: Report::default(), waiting: BTreeMap::new(), next: 0, printed: Ok(()) };
        self.caption_all(&mut session, first, &mut results);
        self.display.finish();
        // The trace and the report are wanted even when whoever read the results has seen enough.
        let reported = self.write_report(&results.report, &facts);
        match results.printed {
            Err(error) if is_broken_pipe(&error) => {}
            printed => printed?,
        }
        reported?;
        self.end_of_batch()?;
        Ok(if self.cancelled() {
            ExitCode::from(INTERRUPTED)
        } else if self.failed.load(Ordering::SeqCst) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    /// Finds the files, and what an earlier run has done of them. `Some` if nothing is left to do.
    fn gather(&mut self, pack: &Pack) -> Result<Option<ExitCode>> {
        let args = self.args;
        self.display.say("looking for the files");
        let found = sources::find(&args.files, args.recursive)?;
        self.files = found.files;
        if let Some(shard) = args.shard {
            self.files.retain(|file| shard.has(file));
        }
        args.check_inputs(&self.files).map_err(|problem| anyhow!(problem))?;
        let all = self.files.len();
        if all == 0 {
            let share = if args.shard.is_some() { " of this share" } else { "" };
            bail!("no pictures, videos or sounds{share} in what was named ({} other files)", found.others);
        }
        let Some(path) = &args.output else { return Ok(None) };
        let batch = Batch::open(path, &self.identity(pack), args.overwrite)?;
        // A file that is named twice has one result.
        let mut seen = HashSet::new();
        self.files.retain(|file| !batch.is_done(&file.display().to_string()) && seen.insert(file.clone()));
        let done = all - self.files.len();
        let ((_, begun), none) = (batch.found(), self.files.is_empty());
        *locked(&self.batch) = Some(batch);
        if done + begun > 0 && !args.quiet {
            self.display.line(&format!("{}: {done} of {all} files are done, and {begun} begun", path.display()));
        }
        if none {
            self.end_of_batch()?;
        }
        Ok(none.then_some(ExitCode::SUCCESS))
    }

    /// What must be the same for the steps of an earlier run to be of use.
    fn identity(&self, pack: &Pack) -> Value {
        let args = self.args;
        let file = || pack.generator_path().map(|path| path.display().to_string()).unwrap_or_default();
        let generator = args.generator.clone().unwrap_or_else(file);
        json!({
            "pack": pack.name, "generator": generator, "generator_model": args.generator_model, "steps": args.steps,
            "keep": args.keep, "propose": args.propose, "temperature": args.temperature.map(decimal),
            "seed": args.seed, "modality": args.modality.given(),
        })
    }

    /// Where every file is done, there is nothing to take up.
    fn end_of_batch(&self) -> Result<()> {
        let whole = !self.cancelled() && !self.failed.load(Ordering::SeqCst);
        let batch = locked(&self.batch).take();
        batch.filter(|_| whole).map_or(Ok(()), Batch::finish)
    }

    fn first(&self, pack: &Pack, file: &Path) -> First {
        let modality = self.args.modality.of(file)?;
        pack.task(modality)?;
        Ok((modality, media::check(file, modality)?))
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Loads the models; `None` if that was interrupted, when there is no best so far.
    fn open(&self, pack: Pack, first: Option<Modality>) -> Result<Option<Session>> {
        let args = self.args;
        let options = Options {
            first,
            steps: args.steps.map(|n| n as usize),
            keep: args.keep.map(|n| n as usize),
            propose: args.propose.map(|n| n as usize),
            temperature: args.temperature,
            seed: args.seed,
            precision: args.encoder.dtype.into(),
            math: args.encoder.math,
            files: self.files.len(),
            in_flight: args.in_flight.map(|n| n as usize),
            sequences: args.sequences.map(|n| n as usize),
            endpoint: args.generator.clone().map(|url| Endpoint { url, model: args.generator_model.clone() }),
            cancel: Arc::clone(&self.cancel),
            ..Options::default()
        };
        match Session::open(pack, &options, args.encoder.backend, &mut |what| self.display.say(what)) {
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
            self.trace(|trace| trace.file(&name(number)));
            let known = locked(&first).take().filter(|_| number == 0);
            Some(match known {
                Some(Ok((_, Some(media)))) => Ok(Input::Media(media)),
                Some(Ok((modality, None))) => Ok(Input::File(file.clone(), modality)),
                Some(Err(error)) => Err(error),
                None => self.args.modality.of(file).map(|modality| Input::File(file.clone(), modality)),
            })
        };
        let observer = |number: usize, mode: &Mode, event: &Event<'_>| {
            self.display.event(number, mode.config.steps, event);
            if let (Event::StepFinished { record, pool }, true) = (event, self.args.report.is_some()) {
                let view = StepView { record: (*record).clone(), pool: pool.to_vec() };
                locked(&self.steps).entry(number).or_default().push(view);
            }
            self.trace(|trace| trace.event(&name(number), event));
            if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let news = |news: News<'_>| match news {
            News::Doing(what) => self.display.say(what),
            News::Opened(mode) => {
                if let Some(licence) = mode.licence.filter(|_| !self.args.quiet) {
                    self.display.line(&format!("mils: the weights of {} are {licence}", mode.scorer));
                }
                self.trace(|trace| trace.scorer(mode));
            }
        };
        let mut usage = Usage::default();
        let keeper = locked(&self.batch).is_some().then_some(self as &dyn Keeper);
        let runway = Runway { next: &next, observer: &observer, news: &news, keeper };
        let utilisation = session.caption_all(&runway, &mut |number, ended| {
            if let Ok(flown) = &ended {
                usage += flown.run.outcome.counts.usage;
            }
            self.ended(results, number, ended);
            // Where a result cannot be printed, no further one can.
            if results.printed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let seconds = begin.elapsed().as_secs_f64();
        self.trace(|trace| trace.total(results.next, seconds, utilisation));
        let percent = |share: f64| share * 100.0;
        self.display.summary(&format!(
            "{} in {seconds:.1} s, {} at a time: language model busy {:.0} %, encoder busy {:.0} %; {:.0} % of the \
             prompts' tokens were not computed again",
            if results.next == 1 { "1 file".to_owned() } else { format!("{} files", results.next) },
            session.in_flight(),
            percent(utilisation.generator),
            percent(utilisation.scorer),
            percent(usage.reused_tokens as f64 / usage.prompt_tokens.max(1) as f64),
        ));
    }

    /// A file has ended: the trace has it at once, its result is printed in the order of the files.
    fn ended(&self, results: &mut Results<'_>, number: usize, ended: Ended) {
        let name = self.files[number].display().to_string();
        match &ended {
            Ok(flown) => self.trace(|trace| trace.end(&name, flown)),
            Err(error) => self.trace(|trace| trace.failed(&name, &one_line(error))),
        }
        self.display.end(number);
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
        let flown = match ended {
            Ok(flown) => flown,
            Err(error) => return self.fail(file, &error),
        };
        let (name, outcome) = (file.display().to_string(), &flown.run.outcome);
        let printed = if let Some(batch) = &mut *locked(&self.batch) {
            // What was interrupted is not done.
            let done = outcome.stopped_by != StoppedBy::Interrupted;
            if done { batch.result(&result(&name, results.facts, &flown)) } else { Ok(()) }
        } else if results.printed.is_ok() {
            self.print(&match self.args.format {
                Format::Text if self.files.len() == 1 => outcome.best.text.clone(),
                Format::Text => format!("{name}\t{}", outcome.best.text),
                Format::Json => result(&name, results.facts, &flown).to_string(),
            })
        } else {
            Ok(())
        };
        if self.args.report.is_some() {
            let steps = locked(&self.steps).remove(&number).unwrap_or_default();
            results.report.files.push(FileReport::new(&name, &flown, &steps)?);
        }
        printed
    }

    /// Writes to the trace, if there is one. One that cannot be written is said once, and captions go on without it.
    fn trace(&self, write: impl FnOnce(&mut Trace) -> Result<()>) {
        let mut trace = locked(&self.trace);
        let Some(Err(error)) = trace.as_mut().map(write) else { return };
        *trace = None;
        self.failed.store(true, Ordering::SeqCst);
        self.display.bar_suspend(|| tell(&format!("mils: {}; going on without it", one_line(&error))));
    }

    /// Says that a file failed; in JSON also to whoever reads the results.
    fn fail(&self, file: &Path, error: &anyhow::Error) -> Result<()> {
        self.failed.store(true, Ordering::SeqCst);
        let (name, error) = (file.display().to_string(), one_line(error));
        self.display.bar_suspend(|| tell(&format!("mils: {name}: {error}")));
        if let Some(batch) = &mut *locked(&self.batch) {
            return batch.result(&json!({"file": name, "error": error}));
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

    fn write_report(&self, report: &Report, facts: &Facts) -> Result<()> {
        let Some(path) = self.args.report.as_ref().filter(|_| !report.files.is_empty()) else { return Ok(()) };
        report.write(path, facts)?;
        if !self.args.quiet {
            tell(&format!("report: {}", path.display()));
        }
        Ok(())
    }
}

impl Keeper for Job<'_> {
    fn begun(&self, number: usize) -> Vec<StepDone> {
        let name = self.files[number].display().to_string();
        locked(&self.batch).as_mut().map(|batch| batch.begun(&name)).unwrap_or_default()
    }

    /// A step that cannot be kept is said once; what it costs is that it is done again.
    fn step(&self, number: usize, step: &StepDone) {
        let name = self.files[number].display().to_string();
        let kept = locked(&self.batch).as_mut().map(|batch| batch.step(&name, step));
        if let Some(Err(error)) = kept.filter(|_| !self.steps_failed.swap(true, Ordering::SeqCst)) {
            self.failed.store(true, Ordering::SeqCst);
            self.display.bar_suspend(|| tell(&format!("mils: {}; going on without", one_line(&error))));
        }
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

/// The result of a file as JSON.
fn result(file: &str, facts: &Facts, Flown { mode, run, .. }: &Flown) -> Value {
    let outcome = &run.outcome;
    let names = &facts.names;
    let counts = &outcome.counts;
    json!({
        "file": file,
        "modality": mode.modality,
        "caption": outcome.best.text,
        "score": outcome.best.score,
        // Without the initial set's.
        "steps": outcome.steps.len().saturating_sub(1),
        "stopped_by": outcome.stopped_by,
        "counts": {
            "scored": counts.scored, "cache_hits": counts.memo_hits, "unusable": counts.unusable,
            "prompt_tokens": counts.usage.prompt_tokens, "reused_tokens": counts.usage.reused_tokens,
            "generated_tokens": counts.usage.generated_tokens,
        },
        "seconds": run.seconds,
        "utilisation": run.utilisation,
        "in_flight": facts.in_flight,
        "models": {
            "pack": names.pack, "scorer": mode.scorer, "generator": names.generator, "backend": names.backend,
            "generator_on": names.generator_on,
        },
        "settings": mode.config,
        "temperature": decimal(facts.temperature),
        "sampling": facts.sampling,
        "interrupted": outcome.stopped_by == StoppedBy::Interrupted,
    })
}
