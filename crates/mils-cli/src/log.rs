//! What happens in a run, as records: for the trace, if one is written, and for the report, if one is made.

use crate::flight::Flown;
use crate::report::{FileRun, Runs};
use crate::scorers::Mode;
use crate::session::{Session, StepSeconds, Utilisation};
use crate::trace::{EndFacts, Of, Record, RunFacts, Trace, records};
use anyhow::{Context, Result};
use mils_models::Modality;
use mils_optim::Event;
use std::collections::HashMap;

/// Who is told of what happens.
#[derive(Default)]
pub struct Log {
    trace: Option<Trace>,
    /// For the report: the runs of files under way, and those that have ended, by the file's number.
    runs: Option<(Runs, HashMap<usize, FileRun>)>,
}

/// A file of the run: its number, from 0, and its name.
pub type Named<'a> = (usize, &'a str);

fn of<'a>((number, name): Named<'a>) -> Of<'a> {
    Of { file: name.into(), number }
}

impl Log {
    /// For a trace, and for a report.
    pub fn new(trace: Option<Trace>, report: bool) -> Self {
        Self { trace, runs: report.then(Default::default) }
    }

    /// The run of a file that has ended; once.
    pub fn run(&mut self, number: usize) -> Option<FileRun> {
        let mut run = self.runs.as_mut()?.1.remove(&number)?;
        // Those that begin at a time do so in any order; reports have them in that of their names.
        run.place = number + 1;
        Some(run)
    }

    /// The session begins to caption.
    ///
    /// # Errors
    /// If the trace cannot be written; it is not tried again. So with all that follow.
    pub fn begin(&mut self, session: &Session) -> Result<()> {
        self.write(&Record::Run(RunFacts::of(session)))
    }

    /// Writes any record: for what is no session's.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn record(&mut self, record: &Record<'_>) -> Result<()> {
        self.write(record)
    }

    /// Things of a modality can be described.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn scorer(&mut self, mode: &Mode) -> Result<()> {
        self.write(&Record::Scorer(mode.into()))
    }

    /// A file begins.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn file(&mut self, file: Named<'_>, modality: Option<Modality>) -> Result<()> {
        self.write(&Record::File { of: of(file), modality })
    }

    /// Something happens in a file's loop, so many seconds after its last step.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn event(&mut self, file: Named<'_>, event: &Event<'_>, seconds: StepSeconds) -> Result<()> {
        if self.trace.is_none() && self.runs.is_none() {
            return Ok(());
        }
        records(&of(file), event, seconds, |record| self.write(&record))
    }

    /// A file's run has ended.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn end(&mut self, file: Named<'_>, flown: &Flown) -> Result<()> {
        self.write(&Record::End { of: of(file), facts: EndFacts::from(flown) })
    }

    /// A file's run has failed.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn failed(&mut self, file: Named<'_>, error: &str) -> Result<()> {
        self.write(&Record::Failed { of: of(file), error: error.into() })
    }

    /// All files are done. `seconds` are from the first to the last.
    ///
    /// # Errors
    /// As [`Log::begin`].
    pub fn total(&mut self, files: usize, seconds: f64, utilisation: Utilisation) -> Result<()> {
        self.write(&Record::Total { files, seconds, utilisation })
    }

    fn write(&mut self, record: &Record<'_>) -> Result<()> {
        // Where one of the two fails, the other goes on.
        let written = self.trace.as_mut().map_or(Ok(()), |trace| trace.write(record));
        if written.is_err() {
            self.trace = None;
        }
        let taken = self.runs.as_mut().map_or(Ok(()), |(runs, ended)| {
            for run in runs.take(record).context("cannot make the report")? {
                if let Record::End { of, .. } | Record::Failed { of, .. } = record {
                    ended.insert(of.number, run);
                }
            }
            Ok(())
        });
        if taken.is_err() {
            self.runs = None;
        }
        written.and(taken)
    }
}
