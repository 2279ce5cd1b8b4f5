//! Workers that draw, fail, die, hang and talk nonsense.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

use mils_render::worker::WorkerOptions;
use mils_render::{Demo, Job, RenderError, Renderer, Worker};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEMO: &str = env!("CARGO_BIN_EXE_mils-demo-worker");

fn job(prompt: &str) -> Job<'_> {
    Job { width: 48, height: 64, ..Job::new(prompt) }
}

/// A worker that is a line of shell.
fn shell(line: &str) -> WorkerOptions {
    let arguments = vec!["-c".to_owned(), line.to_owned()];
    let (start, timeout) = (Duration::from_secs(20), Duration::from_secs(20));
    WorkerOptions { program: "/bin/sh".into(), arguments, start, timeout, ..WorkerOptions::default() }
}

#[test]
fn a_worker_draws_what_its_renderer_does() {
    let worker = Worker::open(WorkerOptions { program: DEMO.into(), ..WorkerOptions::default() }).unwrap();
    assert_eq!((worker.identity(), worker.abilities()), (format!("worker {}", Demo.identity()), Demo.abilities()));
    for prompt in ["a red car", "two big blue ducks, at night"] {
        assert_eq!(worker.render(&job(prompt)).unwrap(), Demo.render(&job(prompt)).unwrap());
    }
    let large = worker.render(&Job { width: 4000, ..job("a car") }).unwrap_err();
    assert!(matches!(&large, RenderError::Failed { said, .. } if said.contains("4000x64")), "{large}");
    assert!(worker.render(&job("a car")).is_ok(), "it goes on after a failure");
    assert!(worker.render(&Job { steps: Some(3), ..job("a car") }).unwrap_err().to_string().contains("steps"));
    assert_eq!(worker.started(), 1);
}

/// Says that it is ready, dies at the first job the first time, and draws when it is started again.
fn dies_first(folder: &Path) -> WorkerOptions {
    let mark = folder.join("died");
    // The first 9 bytes of a job are enough to know that there is one.
    shell(&format!(
        "if [ -e {mark} ]; then exec {DEMO}; fi; {DEMO} </dev/null; head -c 9 >/dev/null; touch {mark}; echo no memory >&2; kill -9 $$",
        mark = mark.display()
    ))
}

#[test]
fn a_worker_that_dies_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::open(dies_first(dir.path())).unwrap();
    assert_eq!(worker.render(&job("a red car")).unwrap(), Demo.render(&job("a red car")).unwrap());
    assert_eq!(worker.started(), 2);
}

#[test]
fn a_worker_that_always_dies_is_given_up_in_the_end() {
    let line = format!("{DEMO} </dev/null; head -c 9 >/dev/null; echo loading >&2; echo 'out of memory' >&2; exit 7");
    let worker = Worker::open(shell(&line)).unwrap();
    for last in [false, false, true] {
        let error = worker.render(&job("a car")).unwrap_err();
        assert_eq!(error.is_fatal(), last);
        let text = error.to_string();
        assert!(text.contains("exit status: 7; it said last: out of memory"), "{text}");
    }
    assert_eq!(worker.started(), 6, "each job is tried twice");
}

#[test]
fn what_is_no_worker_is_told_from_one_that_is_slow() {
    for (line, says) in [
        ("echo hello; sleep 5", "does it print to standard output?"),
        ("exit 3", "exit status: 3"),
        ("printf '\\002\\0\\0\\0\\0\\0\\0\\0{}'", "type"),
    ] {
        let text = Worker::open(shell(line)).err().unwrap().to_string();
        assert!(text.starts_with("/bin/sh: the worker has died") && text.contains(says), "{text}");
    }
    let absent = WorkerOptions { program: "/nowhere/worker".into(), ..WorkerOptions::default() };
    assert!(Worker::open(absent).err().unwrap().to_string().contains("cannot be started"));
    let start = Duration::from_millis(200);
    let slow = Worker::open(WorkerOptions { start, ..shell("sleep 30") }).err().unwrap();
    assert!(matches!(slow, RenderError::Slow { .. }), "{slow}");
    let line = format!("{DEMO} </dev/null; sleep 30");
    let worker = Worker::open(WorkerOptions { timeout: start, ..shell(&line) }).unwrap();
    let slow = worker.render(&job("a car")).unwrap_err();
    assert!(matches!(slow, RenderError::Slow { .. }) && !slow.is_fatal(), "{slow}");
}

#[test]
fn a_worker_that_is_cancelled_is_not_waited_for() {
    let cancel = Arc::new(AtomicBool::new(false));
    let line = format!("{DEMO} </dev/null; sleep 30");
    let worker = Worker::open(WorkerOptions { cancel: Arc::clone(&cancel), ..shell(&line) }).unwrap();
    let begin = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.store(true, Ordering::SeqCst);
    });
    assert!(matches!(worker.render(&job("a car")), Err(RenderError::Cancelled)));
    assert!(begin.elapsed() < Duration::from_secs(10));
}
