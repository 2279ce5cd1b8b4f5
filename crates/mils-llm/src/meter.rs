//! How long something has been at work, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stopwatch that one thread starts and stops and others read.
#[derive(Debug)]
pub struct Meter {
    begin: Instant,
    /// Nanoseconds of finished work.
    done: AtomicU64,
    /// When the work in progress began, in nanoseconds after `begin`; 0: none is.
    since: AtomicU64,
}

impl Meter {
    /// One that has seen no work.
    pub fn new() -> Self {
        Self { begin: Instant::now(), done: AtomicU64::new(0), since: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        // 584 years fit.
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Times a piece of work. One at a time.
    pub fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let from = self.now();
        self.since.store(from, Ordering::Relaxed);
        let result = work();
        self.done.fetch_add(self.now() - from, Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
        result
    }

    /// All work so far, with what is in progress; between two readings of its parts a few microseconds may be off.
    pub fn read(&self) -> Duration {
        let (done, since) = (self.done.load(Ordering::Relaxed), self.since.load(Ordering::Relaxed));
        let running = if since > 0 { self.now().saturating_sub(since) } else { 0 };
        Duration::from_nanos(done + running)
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_waiting_does_not() {
        let meter = Meter::new();
        let wait = || std::thread::sleep(Duration::from_millis(20));
        wait();
        assert_eq!(meter.read(), Duration::ZERO);
        meter.time(|| {
            wait();
            assert!(meter.read() >= Duration::from_millis(20), "what is in progress counts");
        });
        let after = meter.read();
        wait();
        assert_eq!(meter.read(), after);
    }
}
