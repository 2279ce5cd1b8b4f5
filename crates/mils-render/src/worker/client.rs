//! The side of whoever asks: a process is started, asked, and started anew when it dies.

use super::frame::{self, Message, VERSION, Wanted};
use crate::process::Attended;
use crate::{Abilities, Job, RenderError, Renderer, picture};
use image::RgbImage;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether the waiting is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// So many jobs in a row may end with the death of the process before others are not worth asking for.
const DEATHS: usize = 3;

/// Which process, and how it is asked.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take until it is ready: models are loaded then.
    pub start: Duration,
    /// How long one picture may take.
    pub timeout: Duration,
    /// Set by another thread to end the waiting.
    pub cancel: Arc<AtomicBool>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::new(),
            arguments: Vec::new(),
            start: Duration::from_secs(600),
            timeout: Duration::from_secs(600),
            cancel: Arc::default(),
        }
    }
}

/// A renderer in a process of its own, which draws one picture at a time.
pub struct Worker {
    options: WorkerOptions,
    name: String,
    abilities: Abilities,
    process: Mutex<Option<Process>>,
    /// Jobs in a row that ended with its death.
    deaths: AtomicUsize,
    started: AtomicUsize,
}

/// A process that is running. It ends with this.
struct Process {
    child: Attended,
    input: ChildStdin,
    output: Receiver<std::io::Result<(Message, Vec<u8>)>>,
    next: u64,
}

/// Why a process gave nothing.
enum Fault {
    /// It is gone, or speaks no sense.
    Dead(String),
    Slow,
    Cancelled,
    Failed(String),
}

impl Worker {
    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, dies, takes too long, or speaks another protocol.
    pub fn open(options: WorkerOptions) -> Result<Self, RenderError> {
        let (process, name, abilities) = Process::start(&options).map_err(|fault| error(&options, fault, true))?;
        let (process, deaths, started) = (Mutex::new(Some(process)), AtomicUsize::new(0), AtomicUsize::new(1));
        Ok(Self { options, name, abilities, process, deaths, started })
    }

    /// How often the process was started.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        // A process that was left within a job is asked with another number: its old answer is passed over.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the process, which is started if there is none.
    fn ask(&self, slot: &mut Option<Process>, job: &Job<'_>, source: &[u8]) -> Result<Vec<u8>, Fault> {
        let process = match slot {
            Some(process) => process,
            None => {
                let (process, name, _) = Process::start(&self.options)?;
                self.started.fetch_add(1, Ordering::Relaxed);
                if name != self.name {
                    return Err(Fault::Dead(format!("it was {}, and is {name} now", self.name)));
                }
                slot.insert(process)
            }
        };
        let answer = process.render(&self.options, job, source);
        if matches!(answer, Err(Fault::Dead(_) | Fault::Slow | Fault::Cancelled)) {
            // What is at work on something that nobody waits for would keep the next one waiting.
            *slot = None;
        }
        answer
    }
}

impl Renderer for Worker {
    fn identity(&self) -> String {
        format!("worker {}", self.name)
    }

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities.check(job)?;
        let source = job.source.map(|source| picture::to_png(source.image)).transpose()?.unwrap_or_default();
        let mut slot = self.process();
        // Once more where it dies: that may have been of what came before.
        let answer = match self.ask(&mut slot, job, &source) {
            Err(Fault::Dead(_)) => self.ask(&mut slot, job, &source),
            answer => answer,
        };
        let dead = matches!(answer, Err(Fault::Dead(_)));
        let deaths = if dead { self.deaths.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        self.deaths.store(deaths, Ordering::Relaxed);
        let png = answer.map_err(|fault| error(&self.options, fault, deaths >= DEATHS))?;
        picture::checked(picture::decode(&png)?, job)
    }
}

fn error(options: &WorkerOptions, fault: Fault, fatal: bool) -> RenderError {
    let program = options.program.display().to_string();
    match fault {
        Fault::Dead(problem) => RenderError::Crashed { program, problem, fatal },
        Fault::Slow => {
            let problem = format!("the worker has given no answer in {} s.", options.timeout.as_secs_f32());
            RenderError::Slow { at: program, problem }
        }
        Fault::Cancelled => RenderError::Cancelled,
        Fault::Failed(said) => RenderError::Failed { at: program, said: mils_http::beginning(&said) },
    }
}

impl Process {
    fn start(options: &WorkerOptions) -> Result<(Self, String, Abilities), Fault> {
        let started = Attended::start(Command::new(&options.program).args(&options.arguments));
        let (child, input, stdout) = started.map_err(|e| Fault::Dead(format!("it cannot be started: {e}")))?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            while let Some(frame) = frame::read(&mut stdout).transpose() {
                let broken = frame.is_err();
                if sender.send(frame).is_err() || broken {
                    return;
                }
            }
        });
        let mut process = Self { child, input, output, next: 0 };
        match process.wait(options.start, &options.cancel)? {
            (Message::Ready { version: VERSION, name, abilities }, _) => Ok((process, name, abilities)),
            (Message::Ready { version, .. }, _) => {
                Err(Fault::Dead(format!("it speaks version {version} of the protocol, and {VERSION} is needed")))
            }
            _ => Err(Fault::Dead("it does not begin with `ready`".into())),
        }
    }

    /// The next frame.
    fn wait(&mut self, timeout: Duration, cancel: &AtomicBool) -> Result<(Message, Vec<u8>), Fault> {
        let end = Instant::now() + timeout;
        loop {
            match self.output.recv_timeout(GLANCE) {
                Ok(Ok(frame)) => return Ok(frame),
                Ok(Err(broken)) => return Err(Fault::Dead(self.child.how(Some(&broken.to_string())))),
                Err(RecvTimeoutError::Disconnected) => return Err(Fault::Dead(self.child.how(None))),
                Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::SeqCst) => return Err(Fault::Cancelled),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Err(Fault::Slow),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn render(&mut self, options: &WorkerOptions, job: &Job<'_>, source: &[u8]) -> Result<Vec<u8>, Fault> {
        self.next += 1;
        let wanted = Message::Render(Box::new(Wanted::of(self.next, job)));
        if frame::write(&mut self.input, &wanted, source).is_err() {
            return Err(Fault::Dead(self.child.how(None)));
        }
        match self.wait(options.timeout, &options.cancel)? {
            (Message::Picture { id }, png) if id == self.next => Ok(png),
            (Message::Failed { id, problem }, _) if id == self.next => Err(Fault::Failed(problem)),
            _ => Err(Fault::Dead("it answers something else than it was asked".into())),
        }
    }
}
