//! `mils eval run`: a data set captioned and scored as papers do it, into a folder of results.

mod args;
mod folder;
mod plan;
mod results;

pub use args::RunArgs;

pub(super) use folder::lines as read_lines;
pub(super) use plan::Item;
pub(super) use results::{Done, On, Scoring, corpus, mean_score, on};

use self::folder::{Folder, part_of_initial};
use self::plan::Plan;
use super::args::EvalFormat;
use crate::args::output::OutputArgs;
use crate::args::{CaptionArgs, Format};
use crate::caption;
use crate::choose;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::progress::Progress;
use crate::show::tell;
use anyhow::Result;
use mils_models::Pack;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the command.
///
/// # Errors
/// If the data set is not whole, models cannot be loaded, or a metric cannot be computed. Files that fail are counted.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    let choice = choose::named(args.run.writer.pack.as_deref(), || args.data.modality())?;
    let cancel = on_ctrl_c()?;
    let Some(pack) = choice.with_models(args.quiet, &cancel)? else { return Ok(ExitCode::from(INTERRUPTED)) };
    let Some(done) = evaluate(args, pack, &cancel)? else {
        if !args.quiet {
            tell("mils: interrupted; what was captioned stays, and the same command goes on");
        }
        return Ok(ExitCode::from(INTERRUPTED));
    };
    super::print(&match args.format {
        EvalFormat::Json => format!("{:#}\n", done.report),
        EvalFormat::Table => done.table.clone(),
    })?;
    Ok(if done.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Captions what is not captioned yet, and scores all; `None` if that was interrupted.
///
/// # Errors
/// As [`run`].
pub(super) fn evaluate(args: &RunArgs, pack: Pack, cancel: &Arc<AtomicBool>) -> Result<Option<Done>> {
    let progress = Progress::new(args.quiet, None);
    let plan = Plan::make(args, &progress)?;
    let folder = Folder::begin(args, &plan, &pack, &progress)?;
    let merged = folder.merge(&args.merge, &plan, &args.root)?;
    if merged > 0 {
        progress.note(&format!("{merged} captions were taken over"));
    }
    let initial = part_of_initial(&folder, args, &pack)?;
    progress.finish();
    let mut run = args.run.clone();
    run.initial = initial.map(|path| path.display().to_string());
    run.feedback = args.feedback.into();
    let captions = CaptionArgs {
        files: plan.files(),
        recursive: false,
        shard: None,
        results: OutputArgs { output: Some(folder.captions()), ..OutputArgs::default() },
        modality: args.data.modality().into(),
        run,
        format: Format::Text,
        trace: None,
        report: None,
        summary: None,
        verbose: false,
        quiet: args.quiet,
    };
    // What failed is said there, and counted below.
    caption::caption(&captions, pack, Arc::clone(cancel))?;
    if cancel.load(Ordering::SeqCst) {
        return Ok(None);
    }
    let progress = Progress::new(args.quiet, None);
    let done = Scoring::new(&on(args), &plan.items, &progress).all(args.data.data_set(), &plan, &folder)?;
    progress.finish();
    Ok((!cancel.load(Ordering::SeqCst)).then_some(done))
}
