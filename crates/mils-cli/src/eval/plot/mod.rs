//! `mils eval plot`: scores and metrics over steps and settings, from a grid of runs or from results that are there.

mod figures;
mod grid;

use self::figures::{Finished, Group};
use self::grid::Grid;
use super::args::{EvalFormat, MeasureArgs};
use super::run::{evaluate, on};
use crate::args::EncoderArgs;
use crate::choose;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::output::replace;
use crate::plot::save;
use crate::progress::Progress;
use crate::show::tell;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const EXAMPLES: &str = "\
Examples:
  mils eval plot grid.toml -o ablation
  mils eval plot results/paper results/small -o plots --metrics cider,meteor --meteor ~/meteor

A grid is a TOML file: what all runs have in common, and what is varied, one thing at a time. Keys are
the options of `mils eval run` without their dashes:

  [run]
  data = \"coco\"
  root = \"coco\"
  pack = \"paper\"
  limit = 200
  metrics = [\"cider\", \"meteor\"]

  [axes]
  steps = [0, 1, 2, 5, 10]
  initial-size = [100, 1000, 10000]
  keep = [5, 20, 50]
  propose = [10, 50]
  pack = [\"small\", \"default\", \"paper\"]
  feedback = [\"true\", \"none\"]

Each value is a run in runs/ of the output; those that are there are not made again, and a killed one
goes on. Steps need no runs of their own: what was best after each is in the results. An axis becomes
AXIS.svg and .png (by value) and AXIS-steps.svg and .png (over steps), and a part of figures.json. A
pack stands for its language model and its scorer; --generator is an axis like others.

Exit codes: 0 done, 1 a run or a metric failed, 2 wrong usage, 130 interrupted.";

/// `mils eval plot`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PlotArgs {
    /// A grid, or folders of results
    #[arg(required = true, value_name = "GRID.toml|RESULTS")]
    pub sources: Vec<PathBuf>,

    /// Where runs and pictures go
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,

    /// Which metrics, of folders of results; a grid has its own.
    #[command(flatten)]
    pub measures: MeasureArgs,

    /// Where and how CLIPScore's encoder runs.
    #[command(flatten)]
    pub encoder: EncoderArgs,

    /// Bootstrap samples of the 95 % intervals; 0 gives none
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub bootstrap: u64,

    /// How figures are printed
    #[arg(long, value_enum, default_value_t = EvalFormat::Table)]
    pub format: EvalFormat,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// If the grid is wrong, a run fails, or a picture cannot be written.
pub(super) fn run(args: &PlotArgs) -> Result<ExitCode> {
    let grids = args.sources.iter().filter(|s| s.extension().is_some_and(|e| e == "toml")).count();
    let cancel = on_ctrl_c()?;
    let groups = match (&args.sources[..], grids) {
        ([grid], 1) => match of_grid(args, grid, &cancel)? {
            Some(groups) => groups,
            None => {
                if !args.quiet {
                    tell("mils: interrupted; what was made stays, and the same command goes on");
                }
                return Ok(ExitCode::from(INTERRUPTED));
            }
        },
        (folders, 0) => of_folders(args, folders)?,
        _ => bail!("give one grid, or folders of results"),
    };
    std::fs::create_dir_all(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;
    let write = |name: &str, text: String| {
        let path = args.output.join(name);
        replace(&path, [text]).with_context(|| format!("cannot write {}", path.display()))
    };
    write("figures.json", format!("{:#}\n", figures::json(&groups)))?;
    write("figures.md", figures::table(&groups))?;
    for group in &groups {
        for (name, charts) in group.charts() {
            for ending in ["svg", "png"] {
                save(&charts, &args.output.join(format!("{name}.{ending}")))?;
            }
        }
    }
    super::print(&match args.format {
        EvalFormat::Json => format!("{:#}\n", figures::json(&groups)),
        EvalFormat::Table => figures::table(&groups),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes what is missing of a grid; `None` if that was interrupted.
fn of_grid(args: &PlotArgs, path: &Path, cancel: &Arc<AtomicBool>) -> Result<Option<Vec<Group>>> {
    let grid = Grid::read(path, &args.output.join("runs"), args.quiet)?;
    let mut finished: Vec<Finished> = Vec::new();
    for (number, run) in grid.runs.iter().enumerate() {
        if !args.quiet {
            tell(&format!("run {} of {}: {}", number + 1, grid.runs.len(), run.output.display()));
        }
        let choice = choose::named(run.run.writer.pack.as_deref(), || run.data.modality())?;
        let Some(pack) = choice.with_models(args.quiet, cancel)? else { return Ok(None) };
        if evaluate(run, pack, cancel)?.is_none() {
            return Ok(None);
        }
        let progress = Progress::new(args.quiet, None);
        finished.push(Finished::read(&run.output, &on(run), &progress)?);
        progress.finish();
        if cancel.load(Ordering::SeqCst) {
            return Ok(None);
        }
    }
    Ok(Some(grid.groups(&finished)))
}

fn of_folders(args: &PlotArgs, folders: &[PathBuf]) -> Result<Vec<Group>> {
    let progress = Progress::new(args.quiet, None);
    let mut values = Vec::new();
    for folder in folders {
        let modality = figures::modality(folder)?;
        let on = super::run::On {
            measures: &args.measures,
            encoder: &args.encoder,
            modality,
            bootstrap: args.bootstrap,
            seed: 0,
        };
        let name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
        values.push((name, Finished::read(folder, &on, &progress)?));
    }
    progress.finish();
    Ok(vec![Group { axis: "run".into(), values, at: Vec::new() }])
}
