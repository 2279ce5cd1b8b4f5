//! What became of all files, for people and for programs.

use super::{Job, Tally, locked};
use crate::output::Output;
use crate::progress::pace;
use crate::session::{Facts, Utilisation};
use anyhow::Result;
use mils_optim::Counts;
use serde_json::{Value, json};

/// What became of the files of a call.
pub(super) struct Summary<'a> {
    pub tally: &'a Tally,
    /// Of the runs of this call.
    pub counts: Counts,
    pub utilisation: Utilisation,
    /// From when the models were loaded.
    pub seconds: f64,
    /// `None` where no model was needed: all was done.
    pub facts: Option<&'a Facts>,
}

impl Job<'_> {
    /// For people: of many files, or of those that go into an output.
    pub(super) fn in_words(&self, summary: &Summary<'_>) -> Option<String> {
        let (tally, seconds) = (summary.tally, summary.seconds);
        let begun = self.begun();
        if self.files.len() == 1 && begun.is_none() {
            return None;
        }
        let mut text = format!("{} captioned", tally.captioned);
        for (count, what) in [(tally.failed, "failed"), (tally.skipped, "skipped")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text += &format!(" in {seconds:.1} s, {}", pace(tally.captioned as u64, seconds));
        if self.cancelled() {
            text += &format!("; interrupted, {} are left", self.left(tally));
            if let Some(begun) = begun {
                text += &format!(" and {begun} of them begun; the same command goes on");
            }
        }
        Some(text)
    }

    /// For programs, if they asked for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write_summary(&self, summary: &Summary<'_>) -> Result<()> {
        let Some(path) = &self.args.summary else { return Ok(()) };
        let mut output = Output::open(Some(path), false)?;
        output.write(format!("{:#}\n", self.in_json(summary)).as_bytes())?;
        output.finish()
    }

    fn in_json(&self, Summary { tally, counts, utilisation, seconds, facts }: &Summary<'_>) -> Value {
        let models = facts.map(|facts| {
            let names = &facts.names;
            json!({
                "pack": names.pack, "generator": names.generator, "backend": names.backend,
                "generator_on": names.generator_on,
            })
        });
        json!({
            "files": self.files.len() + self.done_before,
            "done_before": self.done_before,
            "captioned": tally.captioned,
            "failed": tally.failed,
            "skipped": tally.skipped,
            "left": self.left(tally),
            "begun": self.begun(),
            "interrupted": self.cancelled(),
            "seconds": seconds,
            "files_per_second": tally.captioned as f64 / seconds.max(f64::MIN_POSITIVE),
            "in_flight": facts.map(|facts| facts.in_flight),
            "utilisation": utilisation,
            "counts": super::counts(counts),
            "models": models,
        })
    }

    /// Files that have steps but no result, where there is an output that knows.
    fn begun(&self) -> Option<usize> {
        locked(&self.batch).as_ref().map(|batch| batch.found().1)
    }

    fn left(&self, tally: &Tally) -> usize {
        self.files.len().saturating_sub(tally.captioned + tally.failed + tally.skipped)
    }
}
