//! What all speed benchmarks share: their settings, progress, peers, and where tables go.

use crate::checkpoint::Recipe;
use crate::harness::report::{self, Fact, Report};
use crate::harness::{Contestant, Limits, measure};
use crate::peer::{Peers, Worker};
use crate::roofline::KernelTable;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use mils_cli::backend::BackendChoice;
use mils_gpu::{Activations, Gpu};
use mils_graph::Backend;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Settings of the speed benchmarks.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Measure peers too: all that are there, or these of ort-f32, torch-f32, torch-bf16, candle
    /// (built when it is named), pyav, pycocoevalcap
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, value_delimiter = ',',
          default_missing_value = "")]
    pub peers: Option<Vec<String>>,
    /// The Python that has the peers [default: $MILS_BENCH_PYTHON, or python3]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Threads of ours and of every peer [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Most rounds of a table
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Begin no round of a table after so many seconds, except to have three
    #[arg(long, value_name = "S", default_value_t = 90)]
    pub seconds: u32,
    /// Only tables whose name has one of these in it, as clip-b32 or images-8
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// The row that ratios are over [default: ort-f32, torch-f32 or ours, the first that is there]
    #[arg(long, value_name = "ROW")]
    pub baseline: Option<String>,
    /// Which devices ours run on beside the CPU: `auto` a real GPU, `gpu` a software driver's too, `cpu` none
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Larger models and sets too, which take long
    #[arg(long)]
    pub full: bool,
    /// Write everything, each sample too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the tables
    #[arg(long, value_name = "FILE.svg|png")]
    pub plot: Option<PathBuf>,
    /// Where models with random weights are kept [default: target/bench-models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
}

/// A call of the benchmarks under way.
pub struct Bench {
    /// What has been measured.
    pub report: Report,
    /// Whether to take the larger ones too.
    pub full: bool,
    /// Set by Ctrl-C.
    pub stop: Arc<AtomicBool>,
    /// How peers are started.
    pub peers: Peers,
    /// For models and files made of them.
    pub models: PathBuf,
    args: BenchArgs,
    /// Names of tables that there are, as far as benchmarks have come.
    asked: RefCell<BTreeSet<String>>,
    bar: ProgressBar,
    headed: bool,
}

/// What is built and made lies there: below the workspace, wherever this is started.
pub(crate) fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root).join("target")
}

impl Bench {
    /// Settles threads and peers. To be made before anything is computed: threads are settled once a process.
    ///
    /// # Errors
    /// If an option makes no sense.
    pub fn new(args: BenchArgs, stop: Arc<AtomicBool>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let threads = args.threads.map_or(cores, usize::from);
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("cannot start threads")?;
        // `--peers` alone is one empty name.
        let wanted: Option<Vec<String>> =
            args.peers.as_ref().map(|names| names.iter().filter(|n| !n.is_empty()).cloned().collect());
        let peers = Peers::new(wanted.as_deref(), args.python.clone(), threads)?;
        for path in args.json.iter().chain(&args.plot) {
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !folder.is_dir() {
                bail!("there is no folder {} to write {} into", folder.display(), path.display());
            }
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        let models = args.models.clone().unwrap_or_else(|| target().join("bench-models"));
        let report = Report::new(threads);
        Ok(Self { report, full: args.full, stop, peers, models, args, asked: RefCell::default(), bar, headed: false })
    }

    /// Threads of everyone.
    pub fn threads(&self) -> usize {
        self.peers.threads
    }

    /// Tells what is going on, on a terminal.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Tells what was left out, and keeps it for the report.
    pub fn note(&mut self, note: String) {
        self.bar.suspend(|| eprintln!("mils-bench: {note}"));
        self.report.notes.push(note);
    }

    /// Whether Ctrl-C was pressed.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether a table was asked for.
    pub fn wanted(&self, id: &str) -> bool {
        self.asked.borrow_mut().insert(id.to_owned());
        self.named(id)
    }

    /// Whether `--only` names it.
    fn named(&self, id: &str) -> bool {
        self.args.only.is_empty() || self.args.only.iter().any(|part| id.contains(part.as_str()))
    }

    /// Whether any of these was.
    pub fn any_wanted(&self, ids: &[String]) -> bool {
        // Not `any`, which would not get to know them all.
        ids.iter().filter(|id| self.wanted(id)).count() > 0
    }

    /// Where ours may run.
    pub fn backend(&self) -> BackendChoice {
        self.args.backend
    }

    /// A checkpoint's folder, made where it is not there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn checkpoint(&self, recipe: &Recipe) -> Result<PathBuf> {
        recipe.folder(&self.models, &mut |what| self.say(what))
    }

    /// The folder of CLAP's checkpoint.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sound_checkpoint(&self) -> Result<PathBuf> {
        crate::sounds::checkpoint(&self.models, &mut |what| self.say(what))
    }

    /// Starts the peers that were asked for and are there.
    pub fn start_peers(&mut self) -> Vec<(String, Rc<RefCell<Worker>>)> {
        let mut missing = Vec::new();
        let workers = self.peers.start(&|what| self.say(what), &mut |line| missing.push(line));
        missing.into_iter().for_each(|line| self.note(line));
        let named = |worker: Worker| (worker.name().to_owned(), Rc::new(RefCell::new(worker)));
        let workers: Vec<_> = workers.into_iter().map(named).collect();
        for (name, worker) in &workers {
            self.report.peers.insert(name.clone(), worker.borrow().versions.clone());
        }
        workers
    }

    /// The GPU, if ours are to run there, in f32 and, where it can, with activations in f16.
    ///
    /// # Errors
    /// If it was asked for and there is none.
    pub fn gpus(&mut self) -> Result<Vec<Gpu>> {
        let gpu = match self.args.backend {
            BackendChoice::Cpu => None,
            BackendChoice::Gpu => Some(Gpu::open().map_err(|error| anyhow!("--backend gpu: {error}"))?),
            BackendChoice::Auto => Gpu::open().ok().filter(|gpu| !gpu.is_software()),
        };
        self.report.gpu = gpu.as_ref().map(|gpu| {
            let software = if gpu.is_software() { " (a software driver)" } else { "" };
            format!("{}{software}", gpu.name())
        });
        let half = gpu.as_ref().and_then(|_| Gpu::open_with(Activations::F16).ok());
        Ok(gpu.into_iter().chain(half.filter(|gpu| gpu.activations() == Activations::F16)).collect())
    }

    /// Keeps the times of a run's kernels and prints them.
    pub fn kernels(&mut self, table: KernelTable) {
        let head = self.head();
        self.bar.suspend(|| println!("{head}{table}"));
        self.report.kernels.push(table);
    }

    /// Measures a table and prints it. Ratios are over the first of `baselines` that is the name of a row, or the
    /// beginning of one.
    pub fn measure(&mut self, title: (&str, &str), contestants: &mut [Box<dyn Contestant>], baselines: &[&str]) {
        let limits = Limits { rounds: self.args.rounds.into(), seconds: self.args.seconds.into(), warm_up: 2 };
        let names: Vec<String> = contestants.iter().map(|c| c.name()).collect();
        let own = self.args.baseline.as_deref().into_iter();
        let baseline = own.chain(baselines.iter().copied()).find_map(|b| names.iter().find(|n| n.starts_with(b)));
        let bar = self.bar.clone();
        let mut say = |who: &str| bar.set_message(format!("{}: {who}", title.0));
        let table = measure(title, contestants, baseline.map(String::as_str), limits, &self.stop, &mut say);
        self.push(table);
    }

    /// Keeps a figure that is not a time, and prints it.
    pub fn fact(&mut self, id: &'static str, what: &'static str, value: f64) {
        let head = self.head();
        self.bar.suspend(|| println!("{head}{what}: {value:.3}\n"));
        self.report.facts.push(Fact { id, what, value });
    }

    /// What stands above the first figures.
    fn head(&mut self) -> String {
        let said = std::mem::replace(&mut self.headed, true);
        if said { String::new() } else { format!("{}\n", self.report.head()) }
    }

    /// Keeps a table and prints it.
    pub fn push(&mut self, table: crate::harness::Table) {
        let head = self.head();
        self.bar.suspend(|| println!("{head}{}", report::text(&table)));
        self.report.tables.push(table);
    }

    /// Writes what was asked for. To be called however the benchmarks ended.
    ///
    /// # Errors
    /// If a file cannot be written, or no table had the name that was asked for.
    pub fn finish(mut self) -> Result<()> {
        self.bar.finish_and_clear();
        self.report.interrupted = self.stopped();
        let report = &self.report;
        let nothing = report.tables.is_empty() && report.facts.is_empty() && report.kernels.is_empty();
        if nothing && !self.report.interrupted && !self.asked.borrow().iter().any(|id| self.named(id)) {
            let there: Vec<String> = self.asked.take().into_iter().collect();
            let only = self.args.only.join(",");
            bail!("--only {only}: no table has that in its name; there are {}", there.join(", "));
        }
        if let Some(path) = &self.args.json {
            self.report.write(path)?;
        }
        if let Some(path) = &self.args.plot {
            crate::harness::plot::draw(&self.report, path)?;
        }
        Ok(())
    }
}
