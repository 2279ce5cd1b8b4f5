//! How long something has been at work, readable from any thread.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A stopwatch that any thread starts and stops. Time in which several are at work counts once.
#[derive(Debug)]
pub struct Meter(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Time in which somebody was at work, up to `since`.
    done: Duration,
    /// When the work in progress began.
    since: Instant,
    /// Who is at work.
    working: usize,
}

impl Meter {
    /// One that has seen no work.
    pub fn new() -> Self {
        Self(Mutex::new(State { done: Duration::ZERO, since: Instant::now(), working: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic between two of its changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Times a piece of work.
    pub fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let _shift = Shift::begin(self);
        work()
    }

    /// All work so far, with what is in progress.
    pub fn read(&self) -> Duration {
        let state = self.state();
        state.done + if state.working > 0 { state.since.elapsed() } else { Duration::ZERO }
    }
}

/// Somebody's time at work, also where it ends in a panic.
struct Shift<'a>(&'a Meter);

impl<'a> Shift<'a> {
    fn begin(meter: &'a Meter) -> Self {
        let mut state = meter.state();
        if state.working == 0 {
            state.since = Instant::now();
        }
        state.working += 1;
        Self(meter)
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.working -= 1;
        if state.working == 0 {
            let worked = state.since.elapsed();
            state.done += worked;
        }
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

    #[test]
    fn time_in_which_several_work_counts_once() {
        let meter = Meter::new();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| meter.time(|| std::thread::sleep(Duration::from_millis(30))));
            }
        });
        assert!(meter.read() >= Duration::from_millis(30) && meter.read() <= begin.elapsed());
    }
}
