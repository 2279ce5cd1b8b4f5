//! Reports: what runs did, as HTML that loads nothing from elsewhere. `mils caption --report` makes one of the runs that
//! it makes, `mils report` of traces; both from the same records.

pub mod chart;
pub mod exhibit;
pub mod index;
pub mod page;
pub mod reader;
pub mod run;
pub mod site;

pub use exhibit::{Embedding, Subject};
pub use run::{FileRun, Runs};
pub use site::{Finished, Site, Written};

use crate::args::same_file;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::output::is_stream;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use reader::Traces;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::{MAIN_SEPARATOR_STR, Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// MiB of a file that `--embed-media` puts into a page where it is not said how many.
const EMBEDDED: &str = "32";

const EXAMPLES: &str = "\
Examples:
  mils caption photos/ -r -o captions.jsonl --trace run.jsonl
  mils report run.jsonl                     (run-report/index.html and a page a file; of one file run.html)
  mils report run.jsonl -o report.html      (all on one page)
  mils report run.jsonl -o report/          (an index, and a page a file)
  mils report monday.jsonl tuesday.jsonl -o week/
  mils report run.jsonl --embed-media=100   (videos and long sounds are put into the pages, up to 100 MiB each)
  mils report run.jsonl --format json | jq .bytes

A page has what was described, with a player, how the caption came to be, the texts with their
scores at every step, what could not be used, and where the time went. Nothing is loaded from
elsewhere: pictures, and sounds up to 1 MiB, are in the page; videos and longer sounds are played
from where they are, if the page lies near them.

Traces may be of runs that go on, or that were killed; those that were interrupted or failed are
reported too. Files are looked for where the run found them, then from here, then beside the trace.

Exit codes: 0 done, 1 a trace cannot be read or the report not be written, 2 wrong usage,
130 interrupted (the pages made so far have an index).";

/// How what was written is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// The path of the page, or of the index
    Text,
    /// One JSON object a line for each file that is written: `path`, `bytes`, and what it is of
    Json,
}

/// `mils report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Traces that `mils caption --trace` has written
    #[arg(required = true, value_name = "TRACE.jsonl")]
    pub traces: Vec<PathBuf>,

    /// Where to: a file for one page, or a folder (written with a / at its end, if it is yet to be made) for an index and
    /// a page a file [default: beside the first trace; a folder, unless there is only one file]
    #[arg(long, short, value_name = "OUT.html|DIR/")]
    pub output: Option<PathBuf>,

    /// One page, however many files there are
    #[arg(long)]
    pub single: bool,

    /// Put videos and sounds into the pages, up to so many MiB each [default: sounds up to 1 MiB]
    #[arg(long, value_name = "MIB", num_args = 0..=1, require_equals = true, default_missing_value = EMBEDDED,
          value_parser = clap::value_parser!(u64).range(0..=1024))]
    pub embed_media: Option<u64>,

    /// How what was written is printed
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl ReportArgs {
    /// What can only be told of several arguments together: a report does not go over a trace.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        let Some(output) = &self.output else { return Ok(()) };
        match self.traces.iter().find(|trace| same_file(trace, output)) {
            Some(trace) => Err(format!("--output would overwrite the trace {}", trace.display())),
            None => Ok(()),
        }
    }

    /// Where the report of so many files goes.
    fn place(&self, files: usize) -> PathBuf {
        let Some(output) = &self.output else {
            let first = self.traces.first().map(PathBuf::as_path).unwrap_or_else(|| Path::new("trace"));
            return if files == 1 || self.single { beside(first, ".html") } else { beside(first, "-report") };
        };
        let one = self.single && site::is_folder(output);
        if one { output.join("index.html") } else { output.clone() }
    }
}

/// The path of a trace with another end; that of a folder ends with a separator.
fn beside(trace: &Path, end: &str) -> PathBuf {
    let mut name = trace.file_stem().unwrap_or_default().to_owned();
    name.push(end);
    if !end.starts_with('.') {
        name.push(MAIN_SEPARATOR_STR);
    }
    trace.with_file_name(name)
}

/// Runs the command.
///
/// # Errors
/// If a trace cannot be read, or the report cannot be written.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let cancel = on_ctrl_c()?;
    let mut progress = Progress::new(args.quiet, None);
    progress.say("reading the traces");
    let traces = Traces::open(&args.traces)?;
    // Once to know what is wrong before anything is written, and how many files there are; once to write.
    let found = traces.read(&mut |_, _| Ok(go_on(&cancel)))?;
    if cancel.load(Ordering::SeqCst) {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if found.files == 0 {
        bail!("{}: no file was begun in it; there is nothing to report", args.traces[0].display());
    }
    if found.cut > 0 {
        let traces = if found.cut == 1 { "a trace ends".into() } else { format!("{} traces end", found.cut) };
        progress.note(&format!("mils: {traces} within a line: its run goes on, or was killed"));
    }
    let path = args.place(found.files);
    if let Some(folder) = args.output.as_deref().filter(|output| args.single && site::is_folder(output)) {
        let place = || format!("cannot write the report {}", path.display());
        std::fs::create_dir_all(folder).with_context(place)?;
    }
    let mut site = Site::open(&path, Embedding { most: args.embed_media.map(|mib| mib << 20) })?;
    progress.expect(found.files as u64);
    let mut out = Told { format: args.format, printed: Ok(()) };
    traces.read(&mut |trace, run| {
        let file = exhibit::find(&run.file, &run.facts, trace);
        let media = media(&run, file.as_deref());
        let subject = Subject { media: media.as_ref().map_err(copied), file: file.as_deref(), modality: run.modality };
        if let Some(page) = site.add(&run, &subject)? {
            out.tell(&progress, &json!({"path": shown(&page.path), "bytes": page.bytes, "file": run.file}));
        }
        progress.count(1, "files");
        Ok(go_on(&cancel))
    })?;
    let interrupted = cancel.load(Ordering::SeqCst);
    let finished = site.finish(interrupted.then_some(found.files))?;
    progress.finish();
    if let Some(Finished { page, files, unfinished, failed }) = finished {
        match args.format {
            // Whoever has the report itself needs no path.
            ReportFormat::Text if is_stream(&page.path) => {}
            ReportFormat::Text => out.print(&progress, &shown(&page.path)),
            ReportFormat::Json => out.print(
                &progress,
                &json!({
                    "path": shown(&page.path), "bytes": page.bytes, "files": files, "unfinished": unfinished, "failed": failed,
                    "interrupted": interrupted,
                })
                .to_string(),
            ),
        }
    }
    out.printed?;
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn go_on(cancel: &AtomicBool) -> ControlFlow<()> {
    if cancel.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What is shown of a file, or why nothing is.
fn media(run: &FileRun, file: Option<&Path>) -> Result<crate::media::Media> {
    let file = file.with_context(|| format!("there is no file {} any more", run.file))?;
    let modality = run.modality.context("it was not told what it is")?;
    exhibit::read(file, modality)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// An error that is looked at in two places.
pub(crate) fn copied(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", crate::show::one_line(error))
}

/// What is printed of what was written. What cannot be printed ends nothing: the report is what is wanted.
struct Told {
    format: ReportFormat,
    printed: Result<()>,
}

impl Told {
    /// A file that was written, in JSON.
    fn tell(&mut self, progress: &Progress, line: &Value) {
        if self.format == ReportFormat::Json {
            self.print(progress, &line.to_string());
        }
    }

    fn print(&mut self, progress: &Progress, line: &str) {
        if self.printed.is_ok() {
            self.printed = progress.suspend(|| {
                let mut out = stdout().lock();
                writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot print what was written")
            });
        }
    }
}
