//! The side of whoever asks: a process is started, asked, and started anew when it dies.

use super::frame::{self, Message, VERSION, Wanted};
use crate::{Abilities, Job, RenderError, Renderer, picture};
use image::RgbImage;
use std::collections::VecDeque;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether the waiting is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a process that has closed its output may take to be gone, so that it can be told how it ended.
const LEAVE: Duration = Duration::from_secs(2);
/// Bytes of what a process said last on standard error.
const LAST: usize = 400;
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
    child: Child,
    input: ChildStdin,
    output: Receiver<std::io::Result<(Message, Vec<u8>)>>,
    said: Arc<Mutex<VecDeque<u8>>>,
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
        let mut child = Command::new(&options.program)
            .args(&options.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Fault::Dead(format!("it cannot be started: {e}")))?;
        let (Some(input), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Fault::Dead("it has no pipes".into()));
        };
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
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let last = Arc::clone(&said);
        std::thread::spawn(move || listen(stderr, &last));
        let mut process = Self { child, input, output, said, next: 0 };
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
                Ok(Err(broken)) => return Err(Fault::Dead(self.how(Some(&broken.to_string())))),
                Err(RecvTimeoutError::Disconnected) => return Err(Fault::Dead(self.how(None))),
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
            return Err(Fault::Dead(self.how(None)));
        }
        match self.wait(options.timeout, &options.cancel)? {
            (Message::Picture { id }, png) if id == self.next => Ok(png),
            (Message::Failed { id, problem }, _) if id == self.next => Err(Fault::Failed(problem)),
            _ => Err(Fault::Dead("it answers something else than it was asked".into())),
        }
    }

    /// How it ended, and what it said last.
    fn how(&mut self, broken: Option<&str>) -> String {
        let end = Instant::now() + LEAVE;
        let mut status = self.child.try_wait();
        while broken.is_none() && matches!(status, Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            status = self.child.try_wait();
        }
        let mut how = match (broken, status) {
            (Some(broken), _) => broken.to_owned(),
            (None, Ok(Some(status))) => status.to_string(),
            (None, _) => "it closed its output".to_owned(),
        };
        // What it said may still be on its way.
        std::thread::sleep(Duration::from_millis(20));
        let said: Vec<u8> = self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        if !said.is_empty() {
            how += &format!("; it said last: {}", mils_http::beginning(said));
        }
        how
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; a child that is not waited for stays in the system's table.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the last of what is said.
fn listen(mut from: impl Read, last: &Mutex<VecDeque<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        last.extend(&buffer[..count]);
        let surplus = last.len().saturating_sub(LAST);
        last.drain(..surplus);
    }
}
