//! How many threads llama.cpp computes with: all cores, and fewer while others want them too.
//!
//! Its threads wait for each other after every operation without giving up their cores. Where there are more of them
//! than cores that are free, each waits until the scheduler lets the last one run: a small model becomes a hundred times
//! slower. That shows in the thread that computes with the others: it waits for a core instead of using it.

use std::time::{Duration, Instant};

/// Shares are measured over this long at least: a few turns of a scheduler.
const WINDOW: Duration = Duration::from_millis(30);
/// With less than this share of a core, there are too many threads, unless it is once in a while.
const ENOUGH: f64 = 0.8;
/// So many such shares in a row are no accident.
const SHORTAGE: usize = 2;
/// After so long with fewer, all are tried again; twice as long after every time that it was too early.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(240);

/// The number of threads, as it follows from what was seen.
#[derive(Debug)]
pub(crate) struct Threads {
    most: usize,
    now: usize,
    /// What the window has seen: time that went by, and time on a core.
    passed: Duration,
    used: Duration,
    /// Windows in a row with too little.
    short: usize,
    /// With fewer threads, all are tried again after this.
    pause: Duration,
    since: Duration,
}

impl Threads {
    /// All of `most`.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let nothing = Duration::ZERO;
        Self { most, now: most, passed: nothing, used: nothing, short: 0, pause: FIRST_PAUSE, since: nothing }
    }

    /// A piece of work of one of the threads took `passed`, of which it was `used` on a core. Returns how many there
    /// should be from now on, where that is another number.
    pub(crate) fn saw(&mut self, passed: Duration, used: Duration) -> Option<usize> {
        self.passed += passed;
        self.used += used;
        self.since += passed;
        let before = self.now;
        if self.now < self.most && self.since >= self.pause {
            self.now = self.most;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        } else if self.passed >= WINDOW {
            let share = self.used.as_secs_f64() / self.passed.as_secs_f64();
            self.short = if share < ENOUGH { self.short + 1 } else { 0 };
            if self.short >= SHORTAGE {
                self.now = ((self.now as f64 * share) as usize).max(1);
            }
        } else {
            return None;
        }
        (self.passed, self.used) = (Duration::ZERO, Duration::ZERO);
        if self.now == before {
            return None;
        }
        (self.since, self.short) = (Duration::ZERO, 0);
        Some(self.now)
    }
}

/// Time that this thread has been on a core; `None` where the system cannot say.
fn on_core() -> Option<Duration> {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
    }
    #[cfg(not(unix))]
    None
}

/// Does `work` on this thread; returns also how long it took and how much of that the thread was on a core.
pub(crate) fn timed<R>(work: impl FnOnce() -> R) -> (R, Option<(Duration, Duration)>) {
    let (from, began) = (on_core(), Instant::now());
    let result = work();
    let passed = began.elapsed();
    let used = from.zip(on_core()).map(|(from, to)| to.saturating_sub(from));
    (result, used.map(|used| (passed, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn threads_that_wait_for_cores_become_fewer_in_proportion() {
        let mut threads = Threads::new(8);
        assert_eq!(threads.saw(ms(200), ms(195)), None);
        assert_eq!(threads.saw(ms(200), ms(100)), None, "once is an accident");
        assert_eq!(threads.saw(ms(200), ms(195)), None);
        assert_eq!(threads.saw(ms(200), ms(100)), None);
        assert_eq!(threads.saw(ms(10), ms(1)), None, "too short to tell");
        assert_eq!(threads.saw(ms(190), ms(99)), Some(4));
        assert_eq!(threads.saw(ms(200), ms(190)), None);
        assert_eq!(threads.saw(ms(200), ms(10)), None);
        assert_eq!(threads.saw(ms(200), ms(10)), Some(1));
        assert_eq!(threads.saw(ms(200), ms(10)), None, "one there must be");
    }

    #[test]
    fn all_are_tried_again_later_and_later() {
        let mut threads = Threads::new(2);
        for pause in [5, 10, 20, 40, 80, 160, 240, 240] {
            assert_eq!(threads.saw(ms(100), ms(50)), None);
            assert_eq!(threads.saw(ms(100), ms(50)), Some(1));
            for _ in 1..pause {
                assert_eq!(threads.saw(ms(1000), ms(1000)), None);
            }
            assert_eq!(threads.saw(ms(1000), ms(1000)), Some(2), "after {pause} s");
        }
    }

    #[test]
    fn one_thread_is_left_alone() {
        let mut threads = Threads::new(0);
        for _ in 0..100 {
            assert_eq!(threads.saw(ms(1000), ms(100)), None);
        }
    }

    #[test]
    fn sleep_is_not_time_on_a_core() {
        let (slept, seen) = timed(|| std::thread::sleep(ms(50)));
        assert_eq!(slept, ());
        if let Some((passed, used)) = seen {
            assert!(passed >= ms(50) && used < ms(25), "{passed:?} {used:?}");
        }
    }
}
