//! The table of all files of a report.

use super::exhibit::Small;
use super::page::{kind, score};
use super::run::{Ending, FileRun};
use mils_optim::StoppedBy;
use serde::Serialize;

/// Small pictures take so many bytes of an index, at most; later rows are without.
const SMALL: usize = 8 << 20;
/// Runs of the command are told apart up to so many.
const RUNS: usize = 20;

/// The index of a report, a row a file.
#[derive(Debug, Default, Serialize)]
pub struct Index {
    rows: Vec<Row>,
    /// The runs of the command that the files are of, for people.
    runs: Vec<String>,
    /// Files without an end, and with one that is no caption.
    pub unfinished: usize,
    /// Files that failed.
    pub failed: usize,
    #[serde(skip)]
    small: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    place: usize,
    name: String,
    modality: &'static str,
    caption: Option<String>,
    /// Best scores: after the initial set, and at the end.
    first: Option<String>,
    last: Option<String>,
    gain: Option<String>,
    steps: usize,
    seconds: Option<String>,
    /// What is to be said of how it ended.
    status: Option<String>,
    failed: bool,
    small: Small,
    /// Where its page is.
    address: String,
}

impl Index {
    /// How many files there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A file, whose page is at an address.
    pub fn push(&mut self, run: &FileRun, small: Small, address: String) {
        let best = |at: Option<&super::run::StepRun>| at.map(|step| step.record.best.score);
        let (first, last) = (best(run.steps.first()), best(run.steps.last()));
        let (status, seconds) = match &run.ending {
            Ending::Done(end) => {
                let interrupted = end.stopped_by == StoppedBy::Interrupted;
                (interrupted.then(|| "interrupted".to_owned()), Some(end.seconds.total))
            }
            Ending::Failed(error) => (Some(error.clone()), None),
            Ending::Open => (Some("without an end".into()), Some(run.steps.iter().map(|s| s.seconds.total).sum())),
        };
        self.failed += usize::from(matches!(run.ending, Ending::Failed(_)));
        self.unfinished += usize::from(matches!(run.ending, Ending::Open));
        self.small += match &small {
            Small::None => 0,
            Small::Picture(address) => address.len(),
            Small::Outline(outline) => outline.path.len(),
        };
        let names = &run.facts.names;
        let told = format!(
            "pack {}: {} writes on {}, encoders score on {}",
            names.pack, names.generator, names.generator_on, names.backend
        );
        if self.runs.len() < RUNS && !self.runs.contains(&told) {
            self.runs.push(told);
        }
        self.rows.push(Row {
            place: run.place,
            name: run.file.clone(),
            modality: kind(run),
            caption: run.best().map(|best| best.text.clone()),
            first: first.map(score),
            last: last.map(score),
            gain: first.zip(last).map(|(first, last)| score(last - first)),
            steps: run.steps.len().saturating_sub(1),
            seconds: seconds.map(|seconds| format!("{seconds:.2}")),
            status,
            failed: matches!(run.ending, Ending::Failed(_)),
            small: if self.small > SMALL { Small::None } else { small },
            address,
        });
    }

    /// Brings the rows into the order in which the files began.
    pub fn sort(&mut self) {
        self.rows.sort_by_key(|row| row.place);
    }
}
