//! A process that is asked over its standard input and output. What it says on standard error is kept, to be quoted where it
//! dies; it ends with its handle, and on Unix so does what it has started.

use std::collections::VecDeque;
use std::io::{Error, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that has closed its output may take to be gone, so that it can be told how it ended.
const LEAVE: Duration = Duration::from_secs(2);
/// Bytes of what a process said last on standard error.
const LAST: usize = 400;

/// A process that is running. It is killed when this goes.
pub struct Attended {
    child: Child,
    said: Arc<Mutex<VecDeque<u8>>>,
}

impl Attended {
    /// Starts a process, with pipes to and from it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<(Self, ChildStdin, ChildStdout), Error> {
        #[cfg(unix)]
        {
            // A group of its own: Ctrl-C is for us, who end it when its answers are no longer of use.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let said = Arc::<Mutex<VecDeque<u8>>>::default();
        let own = Self { child, said };
        let (Some(input), Some(output), Some(errors)) = pipes else { return Err(Error::other("it has no pipes")) };
        let last = Arc::clone(&own.said);
        std::thread::spawn(move || listen(errors, &last));
        Ok((own, input, output))
    }

    /// How it ended, and what it said last. `broken` is what is wrong with it where it has not ended.
    pub fn how(&mut self, broken: Option<&str>) -> String {
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

    /// Waits until it has ended, as it does where its input has: so long at most.
    pub fn leave(&mut self, within: Duration) {
        let end = Instant::now() + within;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        // Whatever can be told of it was told; what it has started would go on without it.
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process_group};
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
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
