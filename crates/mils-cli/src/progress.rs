//! A line on stderr for what takes long.

use crate::show::tell;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What is done sooner needs no line.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many in which time, by the unit that makes it more than one.
pub fn pace(count: u64, seconds: f64) -> String {
    let each = count as f64 / seconds.max(1e-9);
    match each {
        _ if each >= 1.0 || count == 0 => format!("{each:.1} a second"),
        _ if each * 60.0 >= 1.0 => format!("{:.1} a minute", each * 60.0),
        _ => format!("{:.1} an hour", each * 3600.0),
    }
}

/// Shows how far a command is, on a terminal and after a while.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    /// Of what is counted, where it is known.
    total: Option<u64>,
    done: u64,
    began: Option<Instant>,
}

impl Progress {
    /// `quiet` shows nothing. `total` is how many will be [`Progress::count`]ed.
    pub fn new(quiet: bool, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        // The template is fixed and valid; without it the line would only be plainer.
        if let Ok(style) = ProgressStyle::with_template("{spinner:.green} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        if !quiet {
            let later = bar.clone();
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                if !later.is_finished() {
                    later.set_draw_target(ProgressDrawTarget::stderr());
                    later.enable_steady_tick(Duration::from_millis(120));
                }
            });
        }
        Self { bar, quiet, total, done: 0, began: None }
    }

    /// What is being done.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// So many more of `what` are done, in the plural.
    pub fn count(&mut self, more: usize, what: &str) {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.done += more as u64;
        let seconds = began.elapsed().as_secs_f64();
        let pace = if seconds > 0.5 { format!(" · {}", pace(self.done, seconds)) } else { String::new() };
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        self.say(&format!("{}{of} {what}{pace}{}", self.done, self.left(seconds)));
    }

    /// How long the rest takes at this pace, once that can be told.
    fn left(&self, seconds: f64) -> String {
        let Some(left) = self.total.and_then(|total| total.checked_sub(self.done)) else { return String::new() };
        if seconds < 2.0 || self.done == 0 {
            return String::new();
        }
        let left = Duration::from_secs_f64(seconds / self.done as f64 * left as f64);
        format!(" · {} left", HumanDuration(left))
    }

    /// So many will be counted.
    pub fn expect(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Counting begins: what came before does not count for the pace.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Says that something failed, above the line.
    pub fn tell(&self, text: &str) {
        self.bar.suspend(|| tell(text));
    }

    /// Says what is good to know, above the line.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.tell(text);
        }
    }

    /// Does something that prints, with the line out of the way.
    pub fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::pace;

    #[test]
    fn a_pace_is_in_a_unit_that_can_be_read() {
        assert_eq!(pace(10, 4.0), "2.5 a second");
        assert_eq!(pace(10, 40.0), "15.0 a minute");
        assert_eq!(pace(1, 1800.0), "2.0 an hour");
        assert_eq!(pace(0, 1.0), "0.0 a second");
        assert!(pace(1, 0.0).ends_with("a second"));
    }
}
