//! A folder with the result of one search, and what a killed one goes on from.

use crate::args::output::OutputFormat;
use crate::batch::{Batch, StepDone};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The result, and beside it the steps of a search that is not done.
const RESULT: &str = "result.jsonl";

/// The folder of a search that is not done.
pub(crate) struct Single {
    path: PathBuf,
    /// Results and steps; as those of `mils caption`, with what the search is called in the place of the file.
    batch: Batch,
    name: String,
    identity: Value,
}

/// What is in a folder already.
pub(crate) enum Found<T> {
    /// Nothing, or a beginning.
    Open(Box<T>),
    /// The result of the same search.
    Done(Box<Value>),
}

impl Single {
    /// Opens a folder, which is made if it is not there. `identity` is what makes another search.
    ///
    /// # Errors
    /// If it cannot be written, another process writes it, or it has the result of another search.
    pub(crate) fn open(path: &Path, name: &str, identity: &Value, overwrite: bool) -> Result<Found<Self>> {
        fs::create_dir_all(path).with_context(|| format!("cannot write to {}", path.display()))?;
        let batch = Batch::open(&path.join(RESULT), OutputFormat::Jsonl, identity, overwrite)?;
        let mut result = None;
        batch.each(&mut |value| {
            result = Some(value.clone());
            Ok(())
        })?;
        let Some(result) = result else {
            let (path, name, identity) = (path.to_owned(), name.to_owned(), identity.clone());
            return Ok(Found::Open(Box::new(Self { path, batch, name, identity })));
        };
        let same = result["search"] == *identity;
        batch.finish()?;
        if !same {
            let other = result["file"].as_str().unwrap_or_default();
            bail!(
                "{} has the result of another search ({other:?}, or other settings); name another folder, or give \
                 --overwrite",
                path.display()
            );
        }
        Ok(Found::Done(Box::new(result)))
    }

    /// A file of it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The steps that were done before, from 1 on.
    pub(crate) fn begun(&self) -> Vec<StepDone> {
        self.batch.begun(&self.name)
    }

    /// What was kept of the initial set, if it was.
    pub(crate) fn start(&self) -> Option<StepDone> {
        self.batch.start(&self.name)
    }

    /// Keeps a step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn keep(&mut self, step: &StepDone) -> Result<()> {
        self.batch.step(&self.name, step)
    }

    /// Writes the result, if there is one: the search is done.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(mut self, result: Option<&Value>) -> Result<()> {
        if let Some(result) = result {
            let mut result = result.clone();
            result["search"] = self.identity.clone();
            self.batch.result(&result)?;
        }
        self.batch.finish()
    }
}
