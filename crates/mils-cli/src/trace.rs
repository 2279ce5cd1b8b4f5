//! The trace: one JSON object a line, written as the run goes. Whatever a report tells of a run is in it.
//!
//! Records have a `type`:
//!
//! | type | when | what it has beside the file |
//! | --- | --- | --- |
//! | `run` | first | program, pack, models, sampling, and the `folder` that files' names are relative to; the `task` of `mils optimize` |
//! | `scorer` | a modality first comes up | the encoder, how many initial texts there are, and the loop's settings |
//! | `file` | a file begins | its modality, where it is known |
//! | `scored` | a text has a score | text, score, the step that brought it, which of the step's answers did (from 1), and its objectives if it has several |
//! | `unusable` | something was said and not scored | text, step, reason |
//! | `step` | a step is done | its counts, the best text, tokens, and seconds by phase |
//! | `picture` | a step's best prompt was drawn (`mils generate`) | step, text, score, and the picture's file |
//! | `end` | a file is done | caption, score, why it ended, totals |
//! | `failed` | a file has failed | the error |
//! | `total` | last | how busy the models were |
//!
//! All but `run`, `scorer` and `total` have the `file` that they are of and its `number`, which is its place among the
//! files of the run, from 0: those of several files come mixed, and a file may be named twice. A run's `scored` and
//! `unusable` records add up to the counts in its `end`, also when it was interrupted. What was kept after a step can be
//! made again from the `scored` records up to it: the best `keep` of the settings, among equals those that came first;
//! of texts with objectives by [`mils_optim::top_of_fronts`].
//! These, best last, are what the language model was shown in the next step.
//!
//! A run that was killed ends anywhere, also within a line.

use crate::flight::Flown;
use crate::scorers::Mode;
use crate::session::{ModelNames, Run, Sampling, Seconds, Session, StepSeconds, Utilisation, decimal};
use anyhow::{Context, Result};
use mils_models::Modality;
use mils_optim::{Config, Counts, Event, StepRecord, StoppedBy, UnusableReason};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A line of a trace.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record<'a> {
    /// A run of the command begins.
    Run(RunFacts),
    /// Things of a modality can be described from now on.
    Scorer(ScorerFacts),
    /// A file begins.
    File {
        /// Which.
        #[serde(flatten)]
        of: Of<'a>,
        /// What it is taken for, if that could be told.
        modality: Option<Modality>,
    },
    /// A text has a score.
    Scored {
        /// Of which file.
        #[serde(flatten)]
        of: Of<'a>,
        /// The step that brought it; 0 is the initial set.
        step: usize,
        /// See [`Event::Scored`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<usize>,
        /// The text.
        text: Cow<'a, str>,
        /// Its score.
        score: f32,
        /// See [`mils_optim::Scorer::objectives`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        objectives: Option<Cow<'a, [f32]>>,
    },
    /// Something was said and not scored.
    Unusable {
        /// Of which file.
        #[serde(flatten)]
        of: Of<'a>,
        /// The step.
        step: usize,
        /// What was said.
        text: Cow<'a, str>,
        /// Why it was not scored.
        reason: UnusableReason,
    },
    /// A step is done.
    Step {
        /// Of which file.
        #[serde(flatten)]
        of: Of<'a>,
        /// Its summary.
        #[serde(flatten)]
        record: StepRecord,
        /// How long it took.
        seconds: StepSeconds,
    },
    /// A picture was kept of a step's best prompt.
    Picture {
        /// Of which file.
        #[serde(flatten)]
        of: Of<'a>,
        /// The step.
        step: usize,
        /// The prompt.
        text: Cow<'a, str>,
        /// Its score.
        score: f32,
        /// Where it is, as the file's name is.
        picture: Cow<'a, str>,
    },
    /// A file is done.
    End {
        /// Which.
        #[serde(flatten)]
        of: Of<'a>,
        /// How it ended.
        #[serde(flatten)]
        facts: EndFacts,
    },
    /// A file has failed.
    Failed {
        /// Which.
        #[serde(flatten)]
        of: Of<'a>,
        /// Why, on one line.
        error: Cow<'a, str>,
    },
    /// All files are done.
    Total {
        /// How many there were.
        files: usize,
        /// From the first to the last.
        seconds: f64,
        /// How busy the models were.
        utilisation: Utilisation,
    },
}

/// The file that a record is of.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Of<'a> {
    /// Its name, as it was given.
    pub file: Cow<'a, str>,
    /// Its place among the files of the run, from 0.
    pub number: usize,
}

/// What there is to tell of all files of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunFacts {
    /// Of this program.
    pub version: String,
    /// Models and devices.
    #[serde(flatten)]
    pub names: ModelNames,
    /// The language model's.
    pub temperature: f64,
    /// The rest of its sampling.
    pub sampling: Sampling,
    /// Files side by side.
    pub in_flight: usize,
    /// The working folder: names of files may be relative to it.
    pub folder: Option<PathBuf>,
    /// What pictures were made for, where texts are prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawing: Option<DrawingFacts>,
    /// What texts were searched for, where they describe nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<TaskFacts>>,
}

/// What there is to tell of a search for any text.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TaskFacts {
    /// What the prompts were told that it is about; may be empty.
    pub about: String,
    /// What the scores are made of, each for people: its name, which way, and its weight.
    pub objectives: Vec<String>,
}

/// What there is to tell of a search for a prompt.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DrawingFacts {
    /// What was asked for: what pictures are compared with.
    pub prompt: String,
    /// What draws.
    pub renderer: String,
    /// Pixels, width and height.
    pub size: (u32, u32),
    /// The seeds that each prompt is drawn with.
    pub seeds: Vec<u64>,
    /// What the renderer was told beside, for people.
    pub settings: String,
    /// Of an edit, what is edited and how it is judged.
    #[serde(flatten)]
    pub edit: EditFacts,
}

/// What there is to tell of a search for an edit.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct EditFacts {
    /// The picture that is edited, by its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The picture that has the style.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// What a score is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
}

impl RunFacts {
    /// Of a session, in the working folder.
    pub fn of(session: &Session) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            names: session.names.clone(),
            temperature: decimal(session.temperature),
            sampling: session.sampling,
            in_flight: session.in_flight(),
            folder: Self::here(),
            drawing: None,
            task: None,
        }
    }

    /// The working folder. One that is no UTF-8 could not be written; names are then looked for elsewhere.
    pub(crate) fn here() -> Option<PathBuf> {
        std::env::current_dir().ok().filter(|folder| folder.to_str().is_some())
    }
}

/// How things of a modality are described.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ScorerFacts {
    /// Which; none where texts describe nothing.
    pub modality: Option<Modality>,
    /// The encoder, or what scores in its place.
    pub scorer: String,
    /// Texts that runs start from.
    pub initial_texts: usize,
    /// Settings of the loop.
    pub settings: Config,
}

impl From<&Mode> for ScorerFacts {
    fn from(mode: &Mode) -> Self {
        let (scorer, settings) = (mode.scorer.clone(), mode.config.clone());
        Self { modality: Some(mode.modality), scorer, initial_texts: mode.initial().len(), settings }
    }
}

/// How a file's run has ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EndFacts {
    /// What it was taken for; none where texts describe nothing.
    pub modality: Option<Modality>,
    /// The best text.
    pub caption: String,
    /// Its score.
    pub score: f32,
    /// Why it ended.
    pub stopped_by: StoppedBy,
    /// Totals.
    pub counts: Counts,
    /// Times by phase.
    pub seconds: Seconds,
    /// How busy the models were meanwhile.
    pub utilisation: Utilisation,
}

impl From<&Flown> for EndFacts {
    fn from(Flown { mode, run, .. }: &Flown) -> Self {
        Self::of(Some(mode.modality), run)
    }
}

impl EndFacts {
    /// Of a run that has ended, about something of a modality or about none.
    pub fn of(modality: Option<Modality>, run: &Run) -> Self {
        let outcome = &run.outcome;
        Self {
            modality,
            caption: outcome.best.text.clone(),
            score: outcome.best.score,
            stopped_by: outcome.stopped_by,
            counts: outcome.counts,
            seconds: run.seconds,
            utilisation: run.utilisation,
        }
    }
}

/// The records that an event of a file's loop makes, with the seconds of the step so far, one after the other.
///
/// # Errors
/// What `write` fails with.
pub fn records<E>(
    of: &Of<'_>,
    event: &Event<'_>,
    seconds: StepSeconds,
    mut write: impl FnMut(Record<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match event {
        Event::Proposed { step, unusable, .. } | Event::NotScored { step, unusable } => {
            unusable.iter().try_for_each(|u| {
                let (text, reason) = ((&*u.text).into(), u.reason);
                write(Record::Unusable { of: of.clone(), step: *step, text, reason })
            })
        }
        Event::Scored { step, texts, scores, answers, objectives } => {
            texts.iter().zip(*scores).enumerate().try_for_each(|(i, (text, score))| {
                let (step, answer, text) = (*step, answers.get(i).copied(), text.into());
                let objectives = objectives.get(i).map(|own| own.as_slice().into());
                write(Record::Scored { of: of.clone(), step, answer, text, score: *score, objectives })
            })
        }
        Event::StepFinished { record, .. } => {
            write(Record::Step { of: of.clone(), record: (*record).clone(), seconds })
        }
        _ => Ok(()),
    }
}

/// A trace being written.
pub struct Trace {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Trace {
    /// Opens the file, so that one that cannot be written is known before the work. What it holds stays until
    /// [`Record::Run`] is written.
    ///
    /// # Errors
    /// If the file cannot be opened for writing.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot write the trace {}", path.display()))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file) })
    }

    /// Writes a record. A file's first, each of its steps, and its end are on disk when this returns; [`Record::Run`]
    /// comes in place of what the file held.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn write(&mut self, record: &Record<'_>) -> Result<()> {
        let Self { path, out } = self;
        let mut write = || -> std::io::Result<()> {
            // Pipes and devices have no length.
            if matches!(record, Record::Run(_)) && out.get_ref().metadata().is_ok_and(|m| m.is_file()) {
                out.get_ref().set_len(0)?;
            }
            // By a value, so that scores have the digits that the JSON results have.
            writeln!(out, "{}", serde_json::to_value(record)?)?;
            match record {
                Record::Scorer(_) | Record::Scored { .. } | Record::Unusable { .. } => Ok(()),
                _ => out.flush(),
            }
        };
        write().with_context(|| format!("cannot write the trace {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_record_is_a_flat_object_that_is_read_as_it_was_written() {
        let of = Of { file: "a \"b\".png".into(), number: 3 };
        let usage = mils_optim::Usage { prompt_tokens: 9, reused_tokens: 4, generated_tokens: 7 };
        let best = mils_optim::Candidate { text: "x".into(), score: 0.1, step: 1 };
        let record = StepRecord { step: 2, best, mean_kept: 0.3, scored: 5, entered: 1, unusable: 2, usage };
        let seconds = StepSeconds { input: 0.0, generate: 1.5, score: 0.5, total: 2.25 };
        let mut all = Vec::new();
        let mut push = |record: Record<'_>| {
            all.push(serde_json::to_value(record).unwrap());
            Ok::<(), ()>(())
        };
        records(&of, &Event::StepFinished { record: &record, pool: &[] }, seconds, &mut push).unwrap();
        let (texts, scores) = (["y".to_owned(), "z".to_owned()], [0.1, 0.2]);
        let event = Event::Scored { step: 2, texts: &texts, scores: &scores, answers: &[1, 4], objectives: &[] };
        records(&of, &event, seconds, &mut push).unwrap();
        let objectives = &[vec![0.5, -2.0]];
        let event = Event::Scored { step: 0, texts: &texts[..1], scores: &scores[..1], answers: &[], objectives };
        records(&of, &event, seconds, &mut push).unwrap();
        assert_eq!(
            all[0],
            json!({
                "type": "step", "file": "a \"b\".png", "number": 3, "step": 2, "scored": 5, "entered": 1, "unusable": 2,
                "best": {"text": "x", "score": f64::from(0.1_f32), "step": 1}, "mean_kept": f64::from(0.3_f32),
                "usage": {"prompt_tokens": 9, "reused_tokens": 4, "generated_tokens": 7},
                "seconds": {"input": 0.0, "generate": 1.5, "score": 0.5, "total": 2.25},
            })
        );
        let said: Vec<(&Value, &Value)> = all[1..].iter().map(|r| (&r["text"], &r["answer"])).collect();
        assert_eq!(said, [(&"y".into(), &1.into()), (&"z".into(), &4.into()), (&"y".into(), &Value::Null)]);
        assert_eq!((&all[1]["objectives"], &all[3]["objectives"]), (&Value::Null, &json!([0.5, -2.0])));
        for value in all {
            let read: Record<'_> = serde_json::from_str(&value.to_string()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), value);
        }
    }
}
