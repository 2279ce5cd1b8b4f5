//! Peers: other programs that compute the same. Each runs as a worker process that speaks JSON Lines, a request a line
//! on its stdin and an answer a line on its stdout; the first line is its greeting, with what it is made of. Workers are
//! scripts in Python, and a program of its own for candle.

mod candle;

pub use candle::{CANDLE, Candle};

use crate::harness::machine::cpu_seconds;
use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest that an answer may take: exporting a large model is slow.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a worker that was told to end may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// Lines of its stderr that are kept for messages.
const KEPT_LINES: usize = 5;

/// What is asked of a worker.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask<'a> {
    /// Load a checkpoint folder; what it derives from it may be kept in `cache`.
    Load {
        /// The folder.
        model: &'a Path,
        /// For files of the worker's own.
        cache: &'a Path,
    },
    /// Keep an input under a name. Raw numbers lie in a file: f32 pixels, samples or mels,
    /// or u32 token ids.
    Input {
        /// The name.
        id: &'a str,
        /// `pixels`, `samples`, `mels` or `tokens`.
        kind: &'a str,
        /// Its shape.
        shape: &'a [usize],
        /// The numbers.
        file: &'a Path,
    },
    /// Run it so often.
    Run {
        /// The input.
        id: &'a str,
        /// How often.
        repeats: usize,
    },
    /// Sample frames of a video, so often.
    Frames {
        /// The video.
        file: &'a Path,
        /// How many frames.
        count: usize,
        /// Decode all of it, rather than seek.
        all: bool,
        /// How often.
        repeats: usize,
    },
    /// Score captions, so often.
    Metrics {
        /// JSON with candidates and references.
        file: &'a Path,
        /// METEOR in place of BLEU, ROUGE-L and CIDEr.
        meteor: bool,
        /// How often.
        repeats: usize,
    },
    /// Run it and return the embeddings.
    Embed {
        /// The input.
        id: &'a str,
    },
}

#[derive(Deserialize)]
struct Greeting {
    versions: BTreeMap<String, String>,
}

/// Seconds that loading took.
#[derive(Deserialize)]
pub struct Loaded {
    /// By the worker's own clock.
    pub seconds: f64,
}

/// Seconds of every run.
#[derive(Deserialize)]
pub struct Ran {
    /// By the worker's own clock.
    pub seconds: Vec<f64>,
}

/// Seconds of every run, and the scores that came out.
#[derive(Deserialize)]
pub struct Scored {
    /// By the worker's own clock.
    pub seconds: Vec<f64>,
    /// By metric.
    pub scores: BTreeMap<String, f64>,
    /// The folder of METEOR's data.
    pub meteor: String,
}

/// Embeddings, row by row.
#[derive(Deserialize)]
pub struct Embedded {
    /// Rows and width.
    pub shape: [usize; 2],
    /// The numbers.
    pub data: Vec<f32>,
}

/// Nothing but that it was done.
#[derive(Deserialize)]
pub struct Done {}

/// A peer's process.
pub struct Worker {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Arc<Mutex<VecDeque<String>>>,
    /// What it is made of.
    pub versions: BTreeMap<String, String>,
}

impl Worker {
    /// Starts a worker and waits for its greeting.
    ///
    /// # Errors
    /// If it cannot be started, ends, or says that something is missing: one line.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        {
            // A Ctrl-C is for us: we end the worker when what there is has been printed.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let (send, lines) = channel();
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| send.send(l))
            });
        }
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok).filter(|l| !l.trim().is_empty()) {
                    let Ok(mut said) = said.lock() else { return };
                    said.push_back(line);
                    let surplus = said.len().saturating_sub(KEPT_LINES);
                    said.drain(..surplus);
                }
            });
        }
        let stdin = child.stdin.take();
        let mut worker = Self { name: name.into(), child, stdin, lines, said, versions: BTreeMap::new() };
        worker.versions = worker.answer::<Greeting>()?.versions;
        Ok(worker)
    }

    /// Its name among [`NAMES`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds that it has taken.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.process())
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If it has ended, answers with an error or something else than was asked for, or takes too long.
    pub fn ask<T: DeserializeOwned>(&mut self, ask: &Ask<'_>) -> Result<T> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        let sent = self.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()));
        match sent {
            Some(Ok(())) => self.answer(),
            // It has ended, maybe with a last word.
            _ => Err(self.ended()),
        }
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("no answer in {} s", PATIENCE.as_secs()),
            Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
        };
        let json: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("answered {line:.60?}, which is not JSON"))?;
        if let Some(error) = json.get("error") {
            bail!("{}", error.as_str().unwrap_or("an error without words"));
        }
        serde_json::from_value(json).with_context(|| format!("answered {line:.60?}"))
    }

    fn ended(&mut self) -> anyhow::Error {
        // Its stderr is read by another thread, which needs a moment.
        std::thread::sleep(Duration::from_millis(50));
        let said = self.said.lock().map(|s| s.back().cloned().unwrap_or_default()).unwrap_or_default();
        let status = self.child.try_wait().ok().flatten().map(|s| format!(" ({s})")).unwrap_or_default();
        anyhow!("the worker of {} has ended{status} {said}", self.name)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when there is nothing more to read.
        self.stdin = None;
        let begin = Instant::now();
        while begin.elapsed() < FAREWELL {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // It may have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which peers there are, in the order of the tables.
pub const NAMES: [&str; 6] = ["ort-f32", "torch-f32", "torch-bf16", CANDLE, PYAV, PYCOCO];
/// The one that decodes videos, and runs no models.
pub const PYAV: &str = "pyav";
/// The one that scores captions, and runs no models.
pub const PYCOCO: &str = "pycocoevalcap";

/// How peers are started.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Which are wanted.
    pub wanted: Vec<String>,
    /// The Python that has them.
    pub python: PathBuf,
    /// Threads of each.
    pub threads: usize,
    /// Where candle is.
    candle: Candle,
    /// Whether they were named, and not just all that are there.
    named: bool,
}

impl Peers {
    /// From what the command line says: `None` none, an empty list all.
    ///
    /// # Errors
    /// If there is no peer of a name.
    pub fn new(wanted: Option<&[String]>, python: Option<PathBuf>, threads: usize) -> Result<Self> {
        let named = wanted.is_some_and(|names| !names.is_empty());
        let wanted = match wanted {
            None => vec![],
            Some([]) => NAMES.map(str::to_owned).to_vec(),
            Some(names) => names.to_vec(),
        };
        if let Some(other) = wanted.iter().find(|w| !NAMES.contains(&w.as_str())) {
            bail!("--peers: there is no {other}; there are {}", NAMES.join(", "));
        }
        let python = python.or_else(|| std::env::var_os("MILS_BENCH_PYTHON").map(PathBuf::from));
        let python = python.unwrap_or_else(|| "python3".into());
        Ok(Self { wanted, python, threads, candle: Candle::default(), named })
    }

    /// Starts those that run models and are there; `say` is told of each before, and `missing` of those that are not
    /// there, a line each.
    pub fn start(&self, say: &dyn Fn(&str), missing: &mut dyn FnMut(String)) -> Vec<Worker> {
        let mut workers = Vec::new();
        for name in self.wanted.iter().filter(|name| ![PYAV, PYCOCO].contains(&name.as_str())) {
            let built = if name == CANDLE && !self.candle.is_built() { ", which is built first" } else { "" };
            say(&format!("starting {name}{built}"));
            match self.start_one(name) {
                Ok(worker) => workers.push(worker),
                Err(problem) => missing(format!("{name} is left out: {problem:#}")),
            }
        }
        workers
    }

    /// Starts one.
    ///
    /// # Errors
    /// If it is not there.
    pub fn start_one(&self, name: &str) -> Result<Worker> {
        if name == CANDLE {
            // Whoever asks for all that are there does not ask for a build.
            if !self.named && !self.candle.is_built() {
                bail!("it is not built; --peers={CANDLE} builds it");
            }
            return Worker::start(name, self.candle.command(self.threads)?);
        }
        let script = match name {
            PYAV => "peers/media.py",
            PYCOCO => "peers/metrics.py",
            _ => "peers/peer.py",
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let mut command = Command::new(&self.python);
        command.arg(script).arg(name).arg(self.threads.to_string());
        Worker::start(name, command)
    }
}

#[cfg(all(test, unix))]
mod tests;
