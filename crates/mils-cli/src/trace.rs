//! The trace: one JSON object a line, written as the run goes.
//!
//! Records have a `type`: `run` (the language model and its sampling), `scorer` (the encoder and the settings for a
//! modality, when it first comes up), `file`, `scored` (a text with its score and the step that brought it), `unusable`
//! (what was said and why it was not scored), `step` (summary), `end`, `failed`, `total` (how busy the models were). All
//! but `run`, `scorer` and `total` have the `file` that they are of: those of several files come mixed. A run's `scored` and `unusable` records add up to the counts in its `end`, also when it was interrupted.

use crate::flight::Flown;
use crate::scorers::Mode;
use crate::session::{ModelNames, Session, Utilisation, decimal};
use anyhow::{Context, Result};
use mils_optim::Event;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A trace being written.
pub struct Trace {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Trace {
    /// Opens the file, so that one that cannot be written is known before the work. What it holds stays until
    /// [`Trace::begin`].
    ///
    /// # Errors
    /// If the file cannot be opened for writing.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot write the trace {}", path.display()))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file) })
    }

    /// Begins the trace, in place of what the file held.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn begin(&mut self, session: &Session) -> Result<()> {
        let file = self.out.get_ref();
        // Pipes and devices have no length.
        if file.metadata().is_ok_and(|m| m.is_file()) {
            file.set_len(0).with_context(|| format!("cannot write the trace {}", self.path.display()))?;
        }
        let ModelNames { pack, generator, backend, generator_on } = &session.names;
        self.write(&json!({
            "type": "run", "version": env!("CARGO_PKG_VERSION"), "pack": pack,
            "generator": generator, "backend": backend, "generator_on": generator_on,
            "temperature": decimal(session.temperature), "sampling": session.sampling,
            "in_flight": session.in_flight(),
        }))
    }

    fn write(&mut self, record: &Value) -> Result<()> {
        let place = || format!("cannot write the trace {}", self.path.display());
        writeln!(self.out, "{record}").with_context(place)
    }

    fn flush(&mut self) -> Result<()> {
        let place = || format!("cannot write the trace {}", self.path.display());
        self.out.flush().with_context(place)
    }

    /// Things of a modality can be described.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn scorer(&mut self, mode: &Mode) -> Result<()> {
        self.write(&json!({
            "type": "scorer", "modality": mode.modality, "scorer": mode.scorer, "initial_texts": mode.initial().len(),
            "settings": mode.config,
        }))
    }

    /// A file begins.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn file(&mut self, file: &str) -> Result<()> {
        self.write(&json!({"type": "file", "file": file}))
    }

    /// Writes what an event tells; flushed after every step.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn event(&mut self, file: &str, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Proposed { step, unusable, .. } | Event::NotScored { step, unusable } => {
                for u in *unusable {
                    let (text, reason) = (&u.text, u.reason);
                    self.write(
                        &json!({"type": "unusable", "file": file, "step": step, "text": text, "reason": reason}),
                    )?;
                }
            }
            Event::Scored { step, texts, scores } => {
                for (text, score) in texts.iter().zip(*scores) {
                    self.write(&json!({"type": "scored", "file": file, "step": step, "text": text, "score": score}))?;
                }
            }
            Event::StepFinished { record, .. } => {
                let mut value = json!(record);
                value["type"] = "step".into();
                value["file"] = file.into();
                self.write(&value)?;
                self.flush()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A file's run has ended.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn end(&mut self, file: &str, Flown { mode, run, .. }: &Flown) -> Result<()> {
        let outcome = &run.outcome;
        self.write(&json!({
            "type": "end", "file": file, "modality": mode.modality, "caption": outcome.best.text, "score": outcome.best.score,
            "stopped_by": outcome.stopped_by, "counts": outcome.counts, "seconds": run.seconds,
            "utilisation": run.utilisation,
        }))?;
        self.flush()
    }

    /// A file's run has failed.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn failed(&mut self, file: &str, error: &str) -> Result<()> {
        self.write(&json!({"type": "failed", "file": file, "error": error}))?;
        self.flush()
    }

    /// All files are done. `seconds` are from the first to the last.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn total(&mut self, files: usize, seconds: f64, utilisation: Utilisation) -> Result<()> {
        self.write(&json!({"type": "total", "files": files, "seconds": seconds, "utilisation": utilisation}))?;
        self.flush()
    }
}
