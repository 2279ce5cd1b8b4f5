//! What a long run keeps on disk, so that it can be killed at any moment and goes on where it was.
//!
//! The output has a JSON line for each file that is done, written when it is. Beside it, `OUT.steps` has a line for each step
//! of files that are not: what the language model said and how it was scored. A run that is taken up says the same again
//! without asking anybody, up to its last step; the loop depends on nothing else, so it goes on as if it had not been
//! killed. Lines are written whole; the last one may be cut off by a kill, and is then as if it had not been written.

use crate::output::Replacement;
use anyhow::{Context, Result, bail};
use mils_optim::Proposals;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// One step of a run: all that it takes to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepDone {
    /// From 1.
    pub step: usize,
    /// What the language model said, each time that it was asked.
    pub answers: Vec<Proposals>,
    /// The new texts.
    pub texts: Vec<String>,
    /// Their scores.
    pub scores: Vec<f32>,
}

/// Keeps steps, and gives back those that were kept.
pub trait Keeper: Sync {
    /// The steps of a run that were kept, from 1 on.
    fn begun(&self, number: usize) -> Vec<StepDone>;

    /// Keeps a step.
    fn step(&self, number: usize, step: &StepDone);
}

/// A line of the steps' file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    file: Cow<'a, str>,
    #[serde(flatten)]
    step: Cow<'a, StepDone>,
}

impl<'a> Line<'a> {
    /// The line of a step, with its end.
    fn of(file: &'a str, step: &'a StepDone) -> Result<String> {
        let line = Self { file: file.into(), step: Cow::Borrowed(step) };
        Ok(serde_json::to_string(&line)? + "\n")
    }
}

/// The output of a long run.
pub struct Batch {
    path: PathBuf,
    out: File,
    /// Locked as long as this lives.
    steps: File,
    done: HashSet<String>,
    begun: HashMap<String, Vec<StepDone>>,
}

fn steps_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".steps");
    name.into()
}

impl Batch {
    /// Opens an output, and what an earlier run has left of it. `identity` is what must be the same for its steps to be
    /// taken up: models and settings; its `pack` must be that of the results too.
    ///
    /// # Errors
    /// If it cannot be written, another process writes it, it holds something else, or results of another pack.
    pub fn open(path: &Path, identity: &Value, overwrite: bool) -> Result<Self> {
        let place = || format!("cannot write {}", path.display());
        let at = steps_path(path);
        // Read before anything is made, so that a wrong name leaves nothing behind.
        let (kept, done) = if overwrite { Default::default() } else { results(path, identity)? };
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        let steps = options.open(&at).with_context(|| format!("cannot write {}", at.display()))?;
        match steps.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{} is being written by another run", path.display()),
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => {}
        }
        let begun = if overwrite { Ok(HashMap::new()) } else { steps_of(&steps, identity, &done) };
        let begun = begun.with_context(|| format!("cannot read {}", at.display()))?;
        let mut file = Replacement::begin(path).with_context(place)?;
        for line in kept {
            writeln!(file, "{line}").with_context(place)?;
        }
        file.finish().with_context(place)?;
        let out = OpenOptions::new().append(true).open(path).with_context(place)?;
        let mut batch = Self { path: path.to_owned(), out, steps, done, begun };
        batch.rewrite_steps(identity).with_context(|| format!("cannot write {}", at.display()))?;
        Ok(batch)
    }

    /// What is left over from files that are done, or from other settings, goes. Where a kill comes in between, steps
    /// are done again.
    fn rewrite_steps(&mut self, identity: &Value) -> Result<()> {
        let mut text = format!("{identity}\n");
        for (file, steps) in &self.begun {
            for step in steps {
                text += &Line::of(file, step)?;
            }
        }
        self.steps.set_len(0)?;
        Ok(self.steps.write_all(text.as_bytes())?)
    }

    /// Whether a file's result is there.
    pub fn is_done(&self, file: &str) -> bool {
        self.done.contains(file)
    }

    /// How many files' results were there, and how many files were begun.
    pub fn found(&self) -> (usize, usize) {
        (self.done.len(), self.begun.len())
    }

    /// The steps of a file that were done; once.
    pub fn begun(&mut self, file: &str) -> Vec<StepDone> {
        self.begun.remove(file).unwrap_or_default()
    }

    /// Keeps a step of a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn step(&mut self, file: &str, step: &StepDone) -> Result<()> {
        let line = Line::of(file, step)?;
        let place = || format!("cannot write {}", steps_path(&self.path).display());
        // In one call, so that no other line can come in between.
        self.steps.write_all(line.as_bytes()).with_context(place)
    }

    /// Writes a file's result.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn result(&mut self, line: &Value) -> Result<()> {
        let place = || format!("cannot write {}", self.path.display());
        self.out.write_all(format!("{line}\n").as_bytes()).with_context(place)?;
        // So that it outlives a loss of power too; steps are many, and done again.
        self.out.sync_data().with_context(place)
    }

    /// Everything is done: no steps are left to take up.
    ///
    /// # Errors
    /// If their file cannot be removed.
    pub fn finish(self) -> Result<()> {
        let at = steps_path(&self.path);
        drop(self.steps);
        std::fs::remove_file(&at).with_context(|| format!("cannot remove {}", at.display()))
    }
}

/// The lines of results that are good, and the files that they are of.
fn results(path: &Path, identity: &Value) -> Result<(Vec<String>, HashSet<String>)> {
    let place = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        file => file.with_context(place)?,
    };
    if !file.metadata().with_context(place)?.is_file() {
        bail!("{} is no file; results that can be taken up are kept in one", path.display());
    }
    let (mut kept, mut done) = (Vec::new(), HashSet::new());
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).with_context(place)? == 0 {
            break;
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        let value = serde_json::from_slice::<Value>(&line).ok();
        let Some((value, file)) = value.as_ref().and_then(|v| Some((v, v.get("file")?.as_str()?))) else {
            if whole || !is_beginning(&line) {
                bail!("{}, line {number}, is no result of `mils caption`; name another file", path.display());
            }
            break;
        };
        // What failed, or was interrupted, is tried again.
        if value["caption"].is_string() && value["interrupted"] != true && done.insert(file.to_owned()) {
            let (own, other) = (&identity["pack"], &value["models"]["pack"]);
            if own != other {
                bail!(
                    "{} was begun with the pack {other}, not {own}; name another file, or give --overwrite",
                    path.display()
                );
            }
            kept.push(String::from_utf8(line).with_context(place)?);
        }
    }
    Ok((kept, done))
}

/// Whether a line that was cut off may have become a result: what is somebody's else is not written over.
fn is_beginning(line: &[u8]) -> bool {
    let begins = |with: &str| line.starts_with(with.as_bytes()) || with.as_bytes().starts_with(line);
    [r#"{"caption":"#, r#"{"error":"#, r#"{"file":"#].into_iter().any(begins)
}

/// The steps of files that are not done, in their order; nothing where they are of other settings.
fn steps_of(file: &File, identity: &Value, done: &HashSet<String>) -> Result<HashMap<String, Vec<StepDone>>> {
    let mut lines = BufReader::new(file).lines();
    let mut begun: HashMap<String, Vec<StepDone>> = HashMap::new();
    let header = lines.next().transpose()?.unwrap_or_default();
    if serde_json::from_str::<Value>(&header).ok().as_ref() != Some(identity) {
        return Ok(begun);
    }
    for line in lines {
        // The last one may be cut off.
        let Ok(Line { file, step }) = serde_json::from_str(&line?) else { break };
        if done.contains(&*file) {
            continue;
        }
        let (steps, step) = (begun.entry(file.into_owned()).or_default(), step.into_owned());
        // A step that is there twice, or after a gap, would be none of one run.
        if step.step == steps.len() + 1 && step.texts.len() == step.scores.len() {
            steps.push(step);
        }
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn identity(seed: u64) -> Value {
        json!({"pack": "demo", "seed": seed})
    }

    fn result(file: &str) -> Value {
        json!({"file": file, "caption": "a cat", "models": {"pack": "demo"}})
    }

    fn step(step: usize) -> StepDone {
        let answers = vec![Proposals { texts: vec!["a dog".into()], ..Proposals::default() }];
        StepDone { step, answers, texts: vec!["a dog".into()], scores: vec![0.1 + step as f32] }
    }

    #[test]
    fn what_was_done_is_found_again_and_what_was_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut batch = Batch::open(&path, &identity(1), false).unwrap();
        let error = Batch::open(&path, &identity(1), false).err().unwrap().to_string();
        assert!(error.contains("written by another run"), "{error}");
        for n in 1..=2 {
            batch.step("b", &step(n)).unwrap();
        }
        batch.step("a", &step(1)).unwrap();
        batch.result(&result("a")).unwrap();
        batch.result(&json!({"file": "c", "error": "damaged"})).unwrap();
        drop(batch);
        // Killed while lines were written.
        let cut = |path: &Path| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"{\"file\": \"b\", \"cap").unwrap();
        };
        cut(&path);
        cut(&steps_path(&path));
        let mut batch = Batch::open(&path, &identity(1), false).unwrap();
        assert_eq!(batch.found(), (1, 1));
        assert!(batch.is_done("a") && !batch.is_done("b") && !batch.is_done("c"));
        assert_eq!(batch.begun("b"), [step(1), step(2)]);
        assert_eq!(batch.begun("b"), []);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", result("a")));
        drop(batch);
        // Steps of other settings are not taken up, results are.
        let mut batch = Batch::open(&path, &identity(2), false).unwrap();
        assert_eq!((batch.found(), batch.begun("b")), ((1, 0), vec![]));
        batch.finish().unwrap();
        assert!(!steps_path(&path).exists());
        assert_eq!(Batch::open(&path, &identity(2), true).unwrap().found(), (0, 0));
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn what_is_no_result_of_ours_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let other = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = Batch::open(&path, &identity(1), false).err().unwrap().to_string();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            error
        };
        assert!(other("my notes\nmore\n").contains("line 1, is no result"));
        assert!(other("[1]\n").contains("is no result"));
        assert!(other("one line without an end").contains("is no result"));
        let theirs = json!({"file": "a", "caption": "x", "models": {"pack": "large"}});
        assert!(other(&format!("{theirs}\n")).contains("with the pack \"large\", not \"demo\""));
        assert!(Batch::open(dir.path(), &identity(1), false).is_err());
        assert!(Batch::open(&dir.path().join("no/where.jsonl"), &identity(1), false).is_err());
    }
}
