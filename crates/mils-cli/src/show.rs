//! What a run looks like on a terminal: a progress line and the score table, all on stderr.

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mils_optim::{Candidate, Event, StepRecord};
use std::io::{IsTerminal, Write};
use std::time::Duration;

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

/// Shows the progress of one or several files.
pub struct Display {
    bar: ProgressBar,
    table: bool,
    steps: usize,
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
        Self { bar, table: !quiet && (terminal || verbose), steps: 0 }
    }

    /// What is being done.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if self.table {
            self.line(&format!("{DIM}{what}{DIM:#}"));
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
    pub fn begin(&mut self, file: &str, steps: usize) {
        self.steps = steps;
        if self.table {
            self.line(&format!("{BOLD}{file}{BOLD:#}"));
        }
    }

    /// Shows an event of the loop.
    pub fn event(&self, event: &Event<'_>) {
        match event {
            Event::Proposing { step, pool } => {
                let best = pool.last().map(|c| c.score).unwrap_or_default();
                self.bar
                    .set_message(format!("step {step}/{} · best {best:.4} · the language model writes", self.steps));
            }
            Event::Proposed { step, fresh, .. } => {
                self.bar.set_message(format!("step {step}/{} · scoring {fresh} new captions", self.steps));
            }
            Event::StepFinished { record, pool } if self.table => self.line(&table(record, pool)),
            _ => {}
        }
    }

    /// Takes the progress line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The best texts after a step; those that it brought are green.
fn table(record: &StepRecord, pool: &[Candidate]) -> String {
    let what = if record.step == 0 { "start".to_owned() } else { format!("step {}", record.step) };
    let mut out = format!(
        "{DIM}{what:<8} {} scored, {} kept, {} unusable or known · mean of the kept {:.4}{DIM:#}",
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
}
