//! `mils caption`: files in, captions out, whatever happens in between.

use crate::args::{CaptionArgs, Format};
use crate::report::{FileReport, Report};
use crate::session::{Options, Run, Session};
use crate::show::{Display, one_line};
use crate::trace::Trace;
use anyhow::{Context, Result, bail};
use mils_media::{DecodeLimits, RgbImage};
use mils_models::Pack;
use mils_optim::{Candidate, Event, StepRecord, StoppedBy};
use serde_json::json;
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

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// The first Ctrl-C asks the run to end well, the second ends the process.
fn on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(cancel)
}

/// Runs the command.
///
/// # Errors
/// If the models cannot be loaded, or a trace, a report or stdout cannot be written. Files that fail are reported on
/// stderr and in the exit code.
pub fn run(args: &CaptionArgs) -> Result<ExitCode> {
    let pack = Pack::find(&args.pack)?;
    let cancel = on_ctrl_c()?;
    let mut display = Display::new(args.quiet, args.verbose);
    // With one file there is nothing to do if it cannot be read: say so before loading models.
    let mut first = Some(read(&args.files[0]));
    if args.files.len() == 1
        && let Some(Err(error)) = &first
    {
        display.finish();
        fail(&args.files[0], error);
        return Ok(ExitCode::FAILURE);
    }
    let options = Options {
        steps: args.steps.map(|n| n as usize),
        keep: args.keep.map(|n| n as usize),
        propose: args.propose.map(|n| n as usize),
        temperature: args.temperature,
        seed: args.seed,
        cancel: Arc::clone(&cancel),
        ..Options::default()
    };
    if let Some(path) = &args.report {
        check_report(path)?;
    }
    let mut session = Session::open(pack, &options, args.backend, &mut |what| display.say(what))?;
    let mut trace = args.trace.as_deref().map(|path| Trace::create(path, &session)).transpose()?;
    let mut report = Report::default();
    let mut failures = 0;
    for file in &args.files {
        if cancel.load(Ordering::SeqCst) {
            break;
        }
        let image = first.take().unwrap_or_else(|| read(file));
        let name = file.display().to_string();
        display.begin(&name, session.config.steps);
        if let Some(trace) = &mut trace {
            trace.file(&name)?;
        }
        let result = image.and_then(|image| {
            let (run, steps) = one(&mut session, &image, &display, trace.as_mut(), &cancel)?;
            Ok((image, run, steps))
        });
        match result {
            Ok((image, run, steps)) => {
                let printed = display.bar_suspend(|| print(args, &name, &session, &run));
                if let Some(trace) = &mut trace {
                    trace.end(&run)?;
                }
                if args.report.is_some() {
                    report.files.push(FileReport::new(&name, &image, &run, &steps, &session)?);
                }
                match printed {
                    // Whoever read our output has seen enough; the trace and the report are still wanted.
                    Err(error) if is_broken_pipe(&error) => break,
                    printed => printed?,
                }
            }
            Err(error) => {
                failures += 1;
                display.bar_suspend(|| fail(file, &error));
                if let Some(trace) = &mut trace {
                    trace.failed(&one_line(&error))?;
                }
            }
        }
    }
    display.finish();
    if let Some(path) = args.report.as_ref().filter(|_| !report.files.is_empty()) {
        report.write(path, &session)?;
        if !args.quiet {
            anstream::eprintln!("report: {}", path.display());
        }
    }
    Ok(if cancel.load(Ordering::SeqCst) {
        ExitCode::from(INTERRUPTED)
    } else if failures > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A report that cannot be written should be known before the work, not after it.
fn check_report(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if path.is_dir() {
        bail!("cannot write the report {}: it is a folder", path.display());
    }
    tempfile::tempfile_in(folder).map(drop).with_context(|| format!("cannot write the report {}", path.display()))
}

fn read(file: &Path) -> Result<RgbImage> {
    Ok(mils_media::decode_image(file, &DecodeLimits::default())?)
}

fn fail(file: &Path, error: &anyhow::Error) {
    anstream::eprintln!("mils: {}: {}", file.display(), one_line(error));
}

/// One picture. A trace that cannot be written ends the run: its user asked for all of it.
fn one(
    session: &mut Session,
    image: &RgbImage,
    display: &Display,
    mut trace: Option<&mut Trace>,
    cancel: &AtomicBool,
) -> Result<(Run, Vec<StepView>)> {
    let mut steps = Vec::new();
    let mut problem = None;
    let run = session.caption(image, &mut |event| {
        display.event(event);
        if let Event::StepFinished { record, pool } = event {
            steps.push(StepView { record: (*record).clone(), pool: pool.to_vec() });
        }
        if let Some(trace) = trace.as_deref_mut()
            && let Err(error) = trace.event(event)
        {
            problem = Some(error);
            return ControlFlow::Break(());
        }
        if cancel.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match problem {
        Some(error) => Err(error),
        None => Ok((run, steps)),
    }
}

/// Whether whoever read our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The result on stdout.
fn print(args: &CaptionArgs, file: &str, session: &Session, run: &Run) -> Result<()> {
    let outcome = &run.outcome;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Text if args.files.len() == 1 => writeln!(out, "{}", outcome.best.text)?,
        Format::Text => writeln!(out, "{file}\t{}", outcome.best.text)?,
        Format::Json => {
            let counts = &outcome.counts;
            let value = json!({
                "file": file,
                "caption": outcome.best.text,
                "score": outcome.best.score,
                "steps": outcome.steps.len() - 1,
                "stopped_by": outcome.stopped_by,
                "counts": {
                    "scored": counts.scored, "cache_hits": counts.memo_hits, "unusable": counts.unusable,
                    "prompt_tokens": counts.usage.prompt_tokens, "reused_tokens": counts.usage.reused_tokens,
                    "generated_tokens": counts.usage.generated_tokens,
                },
                "seconds": run.seconds,
                "models": session.names,
                "settings": session.config,
                "temperature": session.temperature,
                "sampling": session.sampling,
                "interrupted": outcome.stopped_by == StoppedBy::Interrupted,
            });
            writeln!(out, "{value}")?;
        }
    }
    Ok(out.flush()?)
}
