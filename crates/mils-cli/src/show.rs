//! What a run looks like on a terminal: a progress line and the score table, all on stderr.

use crate::progress::pace;
use crate::session::Doing;
use anstyle::{AnsiColor, Style};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mils_optim::{Candidate, Event, StepRecord};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rows of the score table.
const ROWS: usize = 5;
const DIM: Style = Style::new().dimmed();
const NEW: Style = AnsiColor::Green.on_default();
const BOLD: Style = Style::new().bold();

/// An error and its causes on one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // Errors that quote their cause in their own message would say it twice.
        if !parts.iter().any(|p| p.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// A line on stderr. Where that is closed or full, nobody is left to tell.
pub fn tell(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Shows the progress of one or several files, from whichever threads they are captioned on.
pub struct Display {
    bar: ProgressBar,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    /// Files in all, and at a time.
    files: usize,
    in_flight: usize,
    files_now: Mutex<Files>,
}

/// How far the files are.
#[derive(Default)]
struct Files {
    done: usize,
    failed: usize,
    /// Since when.
    since: Option<Instant>,
    /// Those under way, by number: the name, and what is being done.
    open: BTreeMap<usize, (String, String)>,
}

impl Display {
    /// `quiet` shows nothing; `verbose` shows the table even where stderr is no terminal.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is fixed and valid; without it the bar would only be plainer.
        if let Ok(style) = ProgressStyle::with_template("{spinner:.green} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, quiet, verbose, terminal, files: 1, in_flight: 1, files_now: Mutex::default() }
    }

    /// What is to come. Of several files there is a bar.
    pub fn expect(&mut self, files: usize, in_flight: usize) {
        (self.files, self.in_flight) = (files, in_flight);
        // As above.
        let bar = "{spinner:.green} {elapsed:>4} {bar:12.green/dim} {pos}/{len} {wide_msg}";
        if let (2.., Ok(style)) = (files, ProgressStyle::with_template(bar)) {
            self.bar.set_length(files as u64);
            self.bar.set_style(style.progress_chars("━━─"));
        }
    }

    /// Whether score tables are shown: those of several files come mixed, which not everybody wants to see.
    fn table(&self) -> bool {
        !self.quiet && (self.verbose || self.terminal && self.in_flight == 1)
    }

    /// What is being done.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if self.table() {
            self.line(&format!("{DIM}{what}{DIM:#}"));
        }
    }

    /// What is being done, how far it is, or what there is to know of it.
    pub fn doing(&self, doing: Doing<'_>) {
        match doing {
            Doing::Begins(what) => self.say(what),
            Doing::Goes(what) => self.bar.set_message(what.to_owned()),
            Doing::Note(what) if !self.quiet => self.line(&format!("mils: {what}")),
            Doing::Note(_) => {}
        }
    }

    /// Prints lines above the progress line.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| tell(text));
    }

    /// Does something that prints, with the progress line out of the way.
    pub fn bar_suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    /// A new file begins.
    pub fn begin(&self, number: usize, file: &str) {
        self.update(|files| drop(files.open.insert(number, (file.to_owned(), "reading".into()))));
        if self.table() && self.in_flight == 1 {
            self.line(&format!("{BOLD}{file}{BOLD:#}"));
        }
    }

    /// A file is done, or has failed.
    pub fn end(&self, number: usize, failed: bool) {
        self.update(|files| {
            files.open.remove(&number);
            files.done += 1;
            files.failed += usize::from(failed);
        });
    }

    /// Shows an event of a file's loop of so many steps.
    pub fn event(&self, number: usize, steps: usize, event: &Event<'_>) {
        let status = match event {
            Event::Proposing { step, pool } => {
                let best = pool.last().map(|c| c.score).unwrap_or_default();
                format!("step {step}/{steps} · best {best:.4} · the language model writes")
            }
            Event::Proposed { step, fresh, .. } => {
                format!("step {step}/{steps} · scoring {fresh} new captions")
            }
            Event::StepFinished { record, pool } if self.table() => {
                let name = if self.in_flight > 1 { self.name(number) } else { String::new() };
                return self.line(&table(&name, record, pool));
            }
            _ => return,
        };
        self.status(number, &status);
    }

    /// Says what is being done for a file.
    pub fn status(&self, number: usize, status: &str) {
        self.update(|files| {
            if let Some((_, doing)) = files.open.get_mut(&number) {
                status.clone_into(doing);
            }
        });
    }

    fn name(&self, number: usize) -> String {
        // A poisoned lock still guards texts that are only shown.
        let files = self.files_now.lock().unwrap_or_else(PoisonError::into_inner);
        files.open.get(&number).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn update(&self, change: impl FnOnce(&mut Files)) {
        let mut files = self.files_now.lock().unwrap_or_else(PoisonError::into_inner);
        files.since.get_or_insert_with(Instant::now);
        change(&mut files);
        self.bar.set_position(files.done as u64);
        self.bar.set_message(progress(&files, self.files));
    }

    /// What the whole came to; how busy the models were, for those who want to see tables.
    pub fn summary(&self, text: Option<&str>, busy: &str) {
        if let Some(text) = text.filter(|_| !self.quiet) {
            self.line(text);
        }
        if self.table() {
            self.line(&format!("{DIM}{busy}{DIM:#}"));
        }
    }

    /// Takes the progress line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What stands beside the bar: of one file all; of several how fast they are, and where each is, as far as the line goes.
fn progress(files: &Files, all: usize) -> String {
    let mut parts = Vec::new();
    // A pace is worth something after some files.
    if let (Some(since), 3..) = (files.since, files.done) {
        let (each, left) = (since.elapsed() / small(files.done), all.saturating_sub(files.done));
        parts.push(format!("{:#} left", HumanDuration(each.saturating_mul(small(left)))));
        parts.push(pace(files.done as u64, since.elapsed().as_secs_f64()));
    }
    if files.failed > 0 {
        parts.push(format!("{} failed", files.failed));
    }
    match files.open.len() {
        0 | 1 if all == 1 => parts.extend(files.open.values().map(|(_, doing)| doing.clone())),
        _ => parts.extend(files.open.values().map(|(name, doing)| {
            let name = Path::new(name).file_name().map_or(name.into(), |n| n.to_string_lossy());
            format!("{name} {}", doing.split(" · ").next().unwrap_or_default())
        })),
    }
    parts.join(" · ")
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The best texts after a step; those that it brought are green. The file's name stands first, if it is given.
fn table(file: &str, record: &StepRecord, pool: &[Candidate]) -> String {
    let what = if record.step == 0 { "start".to_owned() } else { format!("step {}", record.step) };
    let file = if file.is_empty() { String::new() } else { format!("{BOLD}{file}{BOLD:#} ") };
    let mut out = format!(
        "{file}{DIM}{what:<8} {} scored, {} kept, {} unusable or known · mean of the kept {:.4}{DIM:#}",
        record.scored, record.entered, record.unusable, record.mean_kept
    );
    for candidate in pool.iter().take(ROWS) {
        let style = if candidate.step == record.step && record.step > 0 { NEW } else { Style::new() };
        out.push_str(&format!("\n  {:.4}  {style}{}{style:#}", candidate.score, candidate.text));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn errors_are_one_line_without_repetition() {
        let inner = std::io::Error::other("disk\n  full");
        let error = Err::<(), _>(inner).context("cannot write x").unwrap_err();
        assert_eq!(one_line(&error), "cannot write x: disk full");
    }

    #[test]
    fn the_progress_line_says_where_each_file_is() {
        let mut files = Files::default();
        files.open.insert(0, ("a/x.png".into(), "step 2/8 · best 0.5000 · the language model writes".into()));
        assert_eq!(progress(&files, 1), "step 2/8 · best 0.5000 · the language model writes");
        files.open.insert(3, ("y.png".into(), "reading".into()));
        files.done = 2;
        (files.done, files.failed) = (2, 1);
        assert_eq!(progress(&files, 9), "1 failed · x.png step 2/8 · y.png reading");
        files.since = Instant::now().checked_sub(Duration::from_secs(10));
        (files.done, files.failed) = (5, 0);
        let line = progress(&files, 65);
        assert!(line.starts_with("2m left · 30.0 a minute · x.png") || line.contains("29.9 a minute"), "{line}");
    }
}
