//! `mils caption`: files in, captions out, whatever happens in between.

use crate::args::{CaptionArgs, Format};
use crate::inputs::read_picture;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::report::{self, FileReport, Report};
use crate::session::{Options, Run, Session, decimal};
use crate::show::{Display, one_line, tell};
use crate::trace::Trace;
use anyhow::{Context, Result};
use mils_media::RgbImage;
use mils_models::Pack;
use mils_optim::{Candidate, Event, StepRecord, StoppedBy};
use serde_json::{Value, json};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    let pack = Pack::find(&args.pack)?;
    let cancel = on_ctrl_c()?;
    let display = Display::new(args.quiet, args.verbose);
    let mut job = Job { args, cancel, display, trace: None, report: Report::default(), failed: false };
    let result = job.run(pack);
    job.display.finish();
    result
}

/// One call of the command.
struct Job<'a> {
    args: &'a CaptionArgs,
    cancel: Arc<AtomicBool>,
    display: Display,
    trace: Option<Trace>,
    report: Report,
    /// Something failed that did not stop the rest.
    failed: bool,
}

impl Job<'_> {
    fn run(&mut self, pack: Pack) -> Result<ExitCode> {
        let args = self.args;
        // Whatever is known to fail is said before models are loaded: a single picture that cannot be read, and
        // outputs that cannot be written.
        let mut first = Some(read_picture(&args.files[0]));
        if let ([file], Some(Err(error))) = (&args.files[..], &first) {
            return self.fail(file, error).map(|()| ExitCode::FAILURE);
        }
        if let Some(path) = &args.report {
            report::check(path)?;
        }
        self.trace = args.trace.as_deref().map(Trace::open).transpose()?;
        let Some(mut session) = self.open(pack)? else { return Ok(ExitCode::from(INTERRUPTED)) };
        self.trace(|trace| trace.begin(&session));
        let mut printed = Ok(());
        for file in &args.files {
            // Where a result cannot be printed, no further one can.
            if self.cancelled() || printed.is_err() {
                break;
            }
            let image = first.take().unwrap_or_else(|| read_picture(file));
            printed = self.file(&mut session, file, image);
        }
        self.display.finish();
        // The trace and the report are wanted even when whoever read the results has seen enough.
        let reported = self.write_report(&session);
        match printed {
            Err(error) if is_broken_pipe(&error) => {}
            printed => printed?,
        }
        reported?;
        Ok(if self.cancelled() {
            ExitCode::from(INTERRUPTED)
        } else if self.failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Loads the models; `None` if that was interrupted, when there is no best so far.
    fn open(&self, pack: Pack) -> Result<Option<Session>> {
        let args = self.args;
        let options = Options {
            steps: args.steps.map(|n| n as usize),
            keep: args.keep.map(|n| n as usize),
            propose: args.propose.map(|n| n as usize),
            temperature: args.temperature,
            seed: args.seed,
            precision: args.encoder.dtype.into(),
            cancel: Arc::clone(&self.cancel),
            ..Options::default()
        };
        match Session::open(pack, &options, args.encoder.backend, &mut |what| self.display.say(what)) {
            Err(_) if self.cancelled() => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// One file, from reading to printing.
    ///
    /// # Errors
    /// If the result cannot be printed. A file that fails is no error here.
    fn file(&mut self, session: &mut Session, file: &Path, image: Result<RgbImage>) -> Result<()> {
        let name = file.display().to_string();
        self.display.begin(&name, session.config.steps);
        self.trace(|trace| trace.file(&name));
        let done = image.and_then(|image| {
            let (run, steps) = self.caption(session, &image)?;
            Ok((image, run, steps))
        });
        let (image, run, steps) = match done {
            Ok(done) => done,
            Err(error) => {
                self.trace(|trace| trace.failed(&one_line(&error)));
                return self.fail(file, &error);
            }
        };
        self.trace(|trace| trace.end(&run));
        let line = match self.args.format {
            Format::Text if self.args.files.len() == 1 => run.outcome.best.text.clone(),
            Format::Text => format!("{name}\t{}", run.outcome.best.text),
            Format::Json => result(&name, session, &run).to_string(),
        };
        let printed = self.print(&line);
        if self.args.report.is_some() {
            self.report.files.push(FileReport::new(&name, &image, &run, &steps, session)?);
        }
        printed
    }

    /// Runs the loop on one picture, with the display and the trace looking on.
    fn caption(&mut self, session: &mut Session, image: &RgbImage) -> Result<(Run, Vec<StepView>)> {
        let mut steps = Vec::new();
        let run = session.caption(image, &mut |event| {
            self.display.event(event);
            if let Event::StepFinished { record, pool } = event {
                steps.push(StepView { record: (*record).clone(), pool: pool.to_vec() });
            }
            self.trace(|trace| trace.event(event));
            if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok((run, steps))
    }

    /// Writes to the trace, if there is one. One that cannot be written is said once, and captions go on without it.
    fn trace(&mut self, write: impl FnOnce(&mut Trace) -> Result<()>) {
        let Some(Err(error)) = self.trace.as_mut().map(write) else { return };
        self.trace = None;
        self.failed = true;
        self.display.bar_suspend(|| tell(&format!("mils: {}; going on without it", one_line(&error))));
    }

    /// Says that a file failed; in JSON also to whoever reads the results.
    fn fail(&mut self, file: &Path, error: &anyhow::Error) -> Result<()> {
        self.failed = true;
        let (name, error) = (file.display().to_string(), one_line(error));
        self.display.bar_suspend(|| tell(&format!("mils: {name}: {error}")));
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

    fn write_report(&self, session: &Session) -> Result<()> {
        let Some(path) = self.args.report.as_ref().filter(|_| !self.report.files.is_empty()) else { return Ok(()) };
        self.report.write(path, session)?;
        if !self.args.quiet {
            tell(&format!("report: {}", path.display()));
        }
        Ok(())
    }
}

/// Whether whoever read our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The result of a file as JSON.
fn result(file: &str, session: &Session, run: &Run) -> Value {
    let outcome = &run.outcome;
    let counts = &outcome.counts;
    json!({
        "file": file,
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
        "models": session.names,
        "settings": session.config,
        "temperature": decimal(session.temperature),
        "sampling": session.sampling,
        "interrupted": outcome.stopped_by == StoppedBy::Interrupted,
    })
}
