//! What the building of a set keeps on disk, so that it can be killed at any moment: a line for each label that is done.

use crate::batch::appender::Appender;
use anyhow::{Context, Result, bail};
use mils_optim::{Proposals, UnusableReason};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What was said about a label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    /// Usable texts, as they came.
    pub texts: Vec<String>,
    /// Why others are not, each once for each.
    pub unusable: Vec<UnusableReason>,
    /// Tokens that were generated, where that is told.
    pub tokens: u64,
}

impl From<Proposals> for Said {
    fn from(said: Proposals) -> Self {
        let unusable = said.unusable.iter().map(|unusable| unusable.reason).collect();
        Self { texts: said.texts, unusable, tokens: said.usage.generated_tokens }
    }
}

/// A line.
#[derive(Serialize, Deserialize)]
struct Line {
    label: String,
    #[serde(flatten)]
    said: Said,
}

/// The file beside a set that is being built.
pub(super) struct Journal {
    path: PathBuf,
    out: Appender,
    /// Locked as long as this lives.
    _lock: File,
    /// What was said about labels that are done.
    pub done: HashMap<String, Said>,
}

/// `OUT.steps`.
pub(super) fn path_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".steps");
    name.into()
}

impl Journal {
    /// Opens the journal of an output, with what an earlier run has left in it. `identity` is what must be the same for that
    /// to be taken up.
    ///
    /// # Errors
    /// If it cannot be written, another process writes it, or it is of other settings.
    pub(super) fn open(output: &Path, identity: &Value, overwrite: bool) -> Result<Self> {
        let path = path_of(output);
        let place = || format!("cannot write {}", path.display());
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path).with_context(place)?;
        let lock = file.try_clone().with_context(place)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{} is being built by another run", output.display()),
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => {}
        }
        let mut done = HashMap::new();
        let mut whole = 0;
        if !overwrite {
            whole = read(&file, identity, &mut done)
                .with_context(|| format!("{} holds what an unfinished run has left", path.display()))?;
        }
        // The last line may have been cut off by a kill.
        file.set_len(whole).with_context(place)?;
        file.seek(SeekFrom::Start(whole)).with_context(place)?;
        let mut out = Appender::after(file).with_context(place)?;
        if whole == 0 {
            out.append(format!("{identity}\n").as_bytes()).with_context(place)?;
        }
        Ok(Self { path, out, _lock: lock, done })
    }

    /// Keeps what was said about a label.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn keep(&mut self, label: &str, said: Said) -> Result<()> {
        let line = serde_json::to_string(&Line { label: label.to_owned(), said: said.clone() })? + "\n";
        self.out.append(line.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.done.insert(label.to_owned(), said);
        Ok(())
    }

    /// The set is there: nothing is left to take up.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(super) fn finish(self) -> Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// Reads what is good; gives its bytes.
fn read(file: &File, identity: &Value, done: &mut HashMap<String, Said>) -> Result<u64> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut whole = 0;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(whole);
        }
        if whole == 0 {
            let found = serde_json::from_slice::<Value>(&line).ok();
            if found.as_ref() != Some(identity) {
                bail!("it is of other settings; give those again ({}), or --overwrite", differing(found, identity));
            }
        } else {
            let Ok(Line { label, said }) = serde_json::from_slice(&line) else { return Ok(whole) };
            done.insert(label, said);
        }
        whole += read as u64;
    }
}

/// The settings that were others, for people.
fn differing(found: Option<Value>, identity: &Value) -> String {
    let Some(Value::Object(found)) = found else { return "it cannot be told which".into() };
    let others = found.iter().filter(|(key, value)| identity.get(key) != Some(value));
    let others: Vec<String> = others.map(|(key, value)| format!("{key} {value}")).collect();
    others.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn said(text: &str) -> Said {
        Said { texts: vec![text.into()], unusable: vec![UnusableReason::Chatter], tokens: 3 }
    }

    #[test]
    fn what_was_said_is_found_again_but_for_a_line_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("bank.txt");
        let identity = |seed: u64| json!({"pack": "demo", "seed": seed});
        let mut journal = Journal::open(&output, &identity(1), false).unwrap();
        journal.keep("cat", said("a cat")).unwrap();
        journal.keep("dog", said("a dog")).unwrap();
        let error = Journal::open(&output, &identity(1), false).err().unwrap();
        assert!(error.to_string().contains("built by another run"), "{error}");
        drop(journal);
        let good = fs::read(path_of(&output)).unwrap();
        for cut in 1..good.len() {
            fs::write(path_of(&output), &good[..cut]).unwrap();
            let mut journal = Journal::open(&output, &identity(1), false).unwrap();
            let lines = good[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(journal.done.len(), lines.saturating_sub(1), "{cut} bytes");
            journal.keep("owl", said("an owl")).unwrap();
            drop(journal);
            let again = Journal::open(&output, &identity(1), false).unwrap();
            assert_eq!(again.done["owl"], said("an owl"));
            assert_eq!(again.done.len(), lines.saturating_sub(1) + 1);
        }
        let error = format!("{:#}", Journal::open(&output, &identity(2), false).err().unwrap());
        assert!(error.contains("of other settings; give those again (seed 1), or --overwrite"), "{error}");
        let journal = Journal::open(&output, &identity(2), true).unwrap();
        assert!(journal.done.is_empty());
        journal.finish().unwrap();
        assert!(!path_of(&output).exists());
    }
}
