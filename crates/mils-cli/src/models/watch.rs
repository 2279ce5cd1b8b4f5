//! Progress of files that are fetched or hashed: a bar for each, and one for all.

use crate::show::tell;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mils_models::download::{Remote, Watch};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bars on a terminal; elsewhere nothing.
pub(super) struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    files: Mutex<HashMap<(String, String), ProgressBar>>,
    /// What was noted last.
    noted: Mutex<String>,
    quiet: bool,
    cancel: Arc<AtomicBool>,
}

impl Bars {
    /// `total` bytes are expected; `quiet` shows nothing but what is wrong.
    pub(super) fn new(quiet: bool, total: u64, cancel: &Arc<AtomicBool>) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let multi = MultiProgress::with_draw_target(target);
        let all = multi.add(ProgressBar::new(total));
        style(
            &all,
            "{spinner:.green} {decimal_bytes} of {decimal_total_bytes} · {decimal_bytes_per_sec} · {eta} left {wide_msg}",
        );
        all.enable_steady_tick(Duration::from_millis(120));
        Self { multi, all, files: Mutex::default(), noted: Mutex::default(), quiet, cancel: Arc::clone(cancel) }
    }

    /// What is done now that has no bar of its own.
    pub(super) fn say(&self, what: &str) {
        self.all.set_message(format!("· {what}"));
    }

    /// More was done that is no file's.
    pub(super) fn add(&self, bytes: u64) {
        self.all.inc(bytes);
    }

    /// More is to be done than was expected.
    pub(super) fn expect(&self, bytes: u64) {
        self.all.inc_length(bytes);
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        for (_, bar) in self.files().drain() {
            bar.finish_and_clear();
        }
        self.all.finish_and_clear();
    }

    /// A poisoned lock still guards bars that are only shown.
    fn files(&self) -> MutexGuard<'_, HashMap<(String, String), ProgressBar>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The templates are fixed and valid; without one a bar would only be plainer.
fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn key(file: &Remote) -> (String, String) {
    (file.repo.clone(), file.file.clone())
}

impl Watch for Bars {
    fn began(&self, file: &Remote, total: Option<u64>, have: u64) {
        let mut files = self.files();
        let bar = files.entry(key(file)).or_insert_with(|| {
            let bar = self.multi.insert_before(&self.all, ProgressBar::no_length());
            style(&bar, "  {bar:24} {decimal_bytes:>10} of {decimal_total_bytes:<10} {wide_msg}");
            bar.set_message(format!("{}/{}", file.repo, file.file));
            // What was expected of all counts it already, where its size was known.
            if let (None, Some(total)) = (file.size, total) {
                self.all.inc_length(total);
            }
            bar
        });
        // It may be begun anew, with less than there was.
        let before = bar.position();
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(have);
        self.all.set_position((self.all.position() + have).saturating_sub(before));
    }

    fn got(&self, file: &Remote, bytes: u64) {
        if let Some(bar) = self.files().get(&key(file)) {
            bar.inc(bytes);
            self.all.inc(bytes);
        }
    }

    fn note(&self, text: &str) {
        // Several files that are fetched at a time meet the same trouble.
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.quiet && *noted != text {
            text.clone_into(&mut noted);
            self.multi.suspend(|| tell(&format!("mils: {text}")));
        }
    }

    fn done(&self, file: &Remote) {
        if let Some(bar) = self.files().remove(&key(file)) {
            bar.finish_and_clear();
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_anew_is_not_counted_twice() {
        let bars = Bars::new(true, 100, &Arc::default());
        let known = Remote { size: Some(60), ..Remote::new("org/name", "main", "a") };
        let unknown = Remote::new("org/name", "main", "b");
        bars.began(&known, Some(60), 10);
        bars.got(&known, 20);
        assert_eq!((bars.all.position(), bars.all.length()), (30, Some(100)));
        bars.began(&known, Some(60), 0);
        assert_eq!(bars.all.position(), 0);
        bars.began(&unknown, Some(7), 0);
        bars.got(&unknown, 7);
        bars.done(&unknown);
        assert_eq!((bars.all.position(), bars.all.length()), (7, Some(107)));
        assert!(!bars.cancelled());
    }
}
