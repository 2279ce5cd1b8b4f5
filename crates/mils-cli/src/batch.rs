//! What a long run keeps on disk, so that it can be killed at any moment and goes on where it was.
//!
//! The output has a line for each file that is done, written when it is (see `store.rs` for those that are no lines). Beside
//! it, `OUT.steps` has a line for each step of files that are not: what the language model said and how it was scored. A
//! run that is taken up says the same again without asking anybody, up to its last step; the loop depends on nothing else,
//! so it goes on as if it had not been killed. Lines are written whole; the last one may be cut off by a kill, and is then
//! as if it had not been written. What takes the place of another file does so at once.

pub(crate) mod appender;
mod parquet;
mod row;
mod store;

use self::appender::Appender;
use self::store::{Store, beside};
use crate::args::output::OutputFormat;
use crate::output::{Replacement, is_stream};
use anyhow::{Context, Result, bail};
use mils_optim::Proposals;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

/// Bytes of steps from which on those of files that are done are thrown out.
const MANY: u64 = 32 << 20;

/// One step of a run: all that it takes to make it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepDone {
    /// From 1.
    pub step: usize,
    /// What the language model said, each time that it was asked.
    pub answers: Vec<Proposals>,
    /// The new texts.
    pub texts: Vec<String>,
    /// Their scores.
    pub scores: Vec<f32>,
    /// The objectives of each behind its score (see `mils_optim::Scorer::objectives`); empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Vec<f32>>,
    /// New texts that the scorer failed for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unscored: Vec<String>,
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

/// Of each file that was begun and is not done, its steps as lines.
type Begun = BTreeMap<String, Vec<u8>>;

/// The output of a long run.
pub struct Batch {
    store: Store,
    out: Appender,
    steps: Appender,
    /// What was locked before the steps were written anew: whoever looked for them then must not believe to be alone.
    _lock: File,
    identity: String,
    done: HashSet<String>,
    begun: Begun,
    /// Files whose results are written, if the disk lets them be.
    unwritten: Vec<String>,
}

impl Batch {
    /// Opens an output, and what an earlier run has left of it. `identity` is what must be the same for its steps to be
    /// taken up: models and settings; its `pack` must be that of the results too.
    ///
    /// # Errors
    /// If it cannot be written, another process writes it, it holds something else, or results of another pack.
    pub fn open(path: &Path, format: OutputFormat, identity: &Value, overwrite: bool) -> Result<Self> {
        let store = Store { path: path.to_owned(), format };
        let growing = store.growing();
        let place = || format!("cannot write {}", growing.display());
        if is_stream(&growing) {
            bail!("{} is no file; results that can be taken up are kept in one", path.display());
        }
        // Written anew without what failed or was interrupted, but in its place only at the end, so that a wrong name
        // changes nothing.
        let mut file = BufWriter::new(Replacement::begin(&growing).with_context(place)?);
        let mut done = HashSet::new();
        file.write_all(store.head().as_bytes()).with_context(place)?;
        if !overwrite {
            store.each(&mut |result, line| {
                check_pack(result, identity, path)?;
                if is_done(result).is_some_and(|file| done.insert(file.to_owned())) {
                    file.write_all(line).with_context(place)?;
                }
                Ok(())
            })?;
        }
        let file = file.into_inner().map_err(IntoInnerError::into_error).with_context(place)?;
        let at = beside(path, ".steps");
        let lock = lock(&at, path)?;
        let begun = if overwrite { Ok(Begun::new()) } else { steps_of(&lock, identity, &done) };
        let begun = begun.with_context(|| format!("cannot read {}", at.display()))?;
        let steps = steps_anew(&at, &identity.to_string(), &begun)?;
        let out = file.finish().with_context(place)?;
        // Others may read it.
        let _ = out.unlock();
        let out = Appender::after(out).with_context(place)?;
        let (identity, unwritten) = (identity.to_string(), Vec::new());
        Ok(Self { store, out, steps, _lock: lock, identity, done, begun, unwritten })
    }

    /// Where steps are kept.
    fn steps_path(&self) -> PathBuf {
        beside(&self.store.path, ".steps")
    }

    /// Whether a file's result was there.
    pub fn is_done(&self, file: &str) -> bool {
        self.done.contains(file)
    }

    /// Whether a file was begun, and is not done.
    pub fn is_begun(&self, file: &str) -> bool {
        self.begun.contains_key(file)
    }

    /// How many files' results were there, and how many files are begun.
    pub fn found(&self) -> (usize, usize) {
        (self.done.len(), self.begun.len())
    }

    /// The steps of a file that were done.
    pub fn begun(&self, file: &str) -> Vec<StepDone> {
        let lines = self.begun.get(file).map(Vec::as_slice).unwrap_or_default();
        let steps = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line<'_>>(line).ok());
        steps.map(|line| line.step.into_owned()).filter(|step| step.step > 0).collect()
    }

    /// What was kept of a file's initial set, if it was: step 0.
    pub fn start(&self, file: &str) -> Option<StepDone> {
        let line = self.begun.get(file)?.split(|byte| *byte == b'\n').next()?;
        let step = serde_json::from_slice::<Line<'_>>(line).ok()?.step.into_owned();
        (step.step == 0).then_some(step)
    }

    /// Goes through the results that are there.
    ///
    /// # Errors
    /// If they cannot be read, or those of `take`.
    pub fn each(&self, take: &mut dyn FnMut(&Value) -> Result<()>) -> Result<()> {
        self.store.each(&mut |result, _| take(result))
    }

    /// Keeps a step of a file. Step 0 says that it was begun, and may have what its initial set came to.
    ///
    /// # Errors
    /// If it cannot be written. It is not tried again: the file's next steps are of no use then.
    pub fn step(&mut self, file: &str, step: &StepDone) -> Result<()> {
        let line = Line::of(file, step)?;
        self.begun.entry(file.to_owned()).or_default().extend(line.as_bytes());
        let at = self.steps_path();
        if let Err(error) = self.steps.append(line.as_bytes()) {
            self.steps.forget();
            return Err(error).with_context(|| format!("cannot write {}", at.display()));
        }
        let live: usize = self.begun.values().map(Vec::len).sum();
        if self.steps.length() > MANY.max(2 * live as u64) {
            self.steps = steps_anew(&at, &self.identity, &self.begun)?;
        }
        Ok(())
    }

    /// Writes a file's result.
    ///
    /// # Errors
    /// If it cannot be written; it is tried again with the next one, and at the end.
    pub fn result(&mut self, result: &Value) -> Result<()> {
        let line = self.store.line(result)?;
        self.unwritten.extend(is_done(result).map(str::to_owned));
        let place = || format!("cannot write {}", self.store.growing().display());
        self.out.append(&line).with_context(place)?;
        for file in self.unwritten.drain(..) {
            self.begun.remove(&file);
        }
        // Steps are many, and done again.
        self.out.sync().with_context(place)
    }

    /// The end: what still waits is written, and an output that is not made of lines. Where no file is left that was
    /// begun, there are no steps to take up.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn finish(mut self) -> Result<()> {
        let growing = self.store.growing();
        let lost = |count: usize| match count {
            0 | 1 => format!("cannot write {}; a result is lost", growing.display()),
            _ => format!("cannot write {}; {count} results are lost", growing.display()),
        };
        self.out.write().with_context(|| lost(self.unwritten.len()))?;
        for file in self.unwritten.drain(..) {
            self.begun.remove(&file);
        }
        self.store.finish()?;
        let at = self.steps_path();
        if !self.begun.is_empty() {
            return Ok(());
        }
        std::fs::remove_file(&at).with_context(|| format!("cannot remove {}", at.display()))
    }
}

/// The file of a result that need not be made again: what failed, or was interrupted, is tried again.
fn is_done(result: &Value) -> Option<&str> {
    let good = result["caption"].is_string() && result["error"].is_null() && result["interrupted"] != true;
    result["file"].as_str().filter(|_| good)
}

fn check_pack(result: &Value, identity: &Value, path: &Path) -> Result<()> {
    let (own, other) = (&identity["pack"], &result["models"]["pack"]);
    if is_done(result).is_some() && own != other {
        bail!("{} was begun with the pack {other}, not {own}; name another file, or give --overwrite", path.display());
    }
    Ok(())
}

/// Opens the steps' file, for us alone.
fn lock(at: &Path, output: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).read(true);
    let steps = options.open(at).with_context(|| format!("cannot write {}", at.display()))?;
    match steps.try_lock() {
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(steps),
        Err(TryLockError::WouldBlock) => bail!("{} is being written by another run", output.display()),
    }
}

/// Writes the steps' file anew: what is left over from files that are done, or from other settings, goes.
fn steps_anew(at: &Path, identity: &str, begun: &Begun) -> Result<Appender> {
    let write = || -> Result<Appender> {
        // It is locked, as [`lock`] has it.
        let mut file = Replacement::begin(at)?;
        file.write_all(format!("{identity}\n").as_bytes())?;
        for lines in begun.values() {
            file.write_all(lines)?;
        }
        Ok(Appender::after(file.finish()?)?)
    };
    write().with_context(|| format!("cannot write {}", at.display()))
}

/// The steps of files that are not done; nothing where they are of other settings.
fn steps_of(file: &File, identity: &Value, done: &HashSet<String>) -> Result<Begun> {
    let mut lines = BufReader::new(file).lines();
    let (mut begun, mut counts) = (Begun::new(), BTreeMap::<String, usize>::new());
    let header = lines.next().transpose()?.unwrap_or_default();
    if serde_json::from_str::<Value>(&header).ok().as_ref() != Some(identity) {
        return Ok(begun);
    }
    for text in lines {
        let text = text?;
        // The last one may be cut off.
        let Ok(Line { file, step }) = serde_json::from_str(&text) else { break };
        if done.contains(&*file) {
            continue;
        }
        let (lines, count) = (begun.entry(file.to_string()).or_default(), counts.entry(file.into_owned()).or_default());
        // A step that is there twice, or after a gap, would be none of one run; that a file was begun is said once.
        let whole = step.objectives.is_empty() || step.objectives.len() == step.texts.len();
        let next = step.step == *count + 1 && step.texts.len() == step.scores.len() && whole;
        if next || step.step == 0 && lines.is_empty() {
            *count = step.step;
            lines.extend_from_slice(text.as_bytes());
            lines.push(b'\n');
        }
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    const FORMATS: [(OutputFormat, &str); 3] =
        [(OutputFormat::Jsonl, "out.jsonl"), (OutputFormat::Csv, "out.csv"), (OutputFormat::Parquet, "out.parquet")];

    fn identity(seed: u64) -> Value {
        json!({"pack": "demo", "seed": seed})
    }

    fn result(file: &str) -> Value {
        json!({"file": file, "caption": "a cat, at night", "models": {"pack": "demo"}})
    }

    fn step(step: usize) -> StepDone {
        let answers = vec![Proposals { texts: vec!["a dog".into()], ..Proposals::default() }];
        let (texts, scores) = (vec!["a dog".into()], vec![0.1 + step as f32]);
        StepDone { step, answers, texts, scores, ..StepDone::default() }
    }

    fn cut(path: &Path, line: &str) {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }

    /// The files of results, and their errors.
    fn files(path: &Path, format: OutputFormat) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let store = Store { path: path.to_owned(), format };
        store
            .each(&mut |result, _| {
                all.push((word(&result["file"]).unwrap(), word(&result["error"])));
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn what_was_done_is_found_again_and_what_was_not_is_not() {
        for (format, name) in FORMATS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            let steps = beside(&path, ".steps");
            let mut batch = Batch::open(&path, format, &identity(1), false).unwrap();
            let error = Batch::open(&path, format, &identity(1), false).err().unwrap().to_string();
            assert!(error.contains("written by another run"), "{error}");
            for n in 1..=2 {
                batch.step("b", &step(n)).unwrap();
            }
            batch.step("a", &step(1)).unwrap();
            batch.step("d", &StepDone::default()).unwrap();
            batch.result(&result("a")).unwrap();
            batch.result(&json!({"file": "c", "error": "damaged"})).unwrap();
            let mut half = result("e");
            half["error"] = "no sidecar".into();
            batch.result(&half).unwrap();
            let growing = batch.store.growing();
            drop(batch);
            // Killed while lines were written.
            cut(&growing, if format == OutputFormat::Csv { "b,image,\"a\n" } else { "{\"file\": \"b\", \"cap" });
            cut(&steps, "{\"file\": \"b\", \"cap");
            let batch = Batch::open(&path, format, &identity(1), false).unwrap();
            assert_eq!(batch.found(), (1, 2));
            assert!(batch.is_done("a") && ["b", "c", "e"].iter().all(|file| !batch.is_done(file)));
            assert_eq!((batch.begun("b"), batch.begun("d")), (vec![step(1), step(2)], vec![]));
            assert!(batch.is_begun("d") && !batch.is_begun("c"));
            assert_eq!(files(&path, format), [("a".to_owned(), None)]);
            batch.finish().unwrap();
            assert!(steps.exists(), "there is something to take up");
            assert_eq!(growing.exists(), format != OutputFormat::Parquet);
            // Steps of other settings are not taken up, results are.
            let mut batch = Batch::open(&path, format, &identity(2), false).unwrap();
            assert_eq!((batch.found(), batch.begun("b")), ((1, 0), vec![]));
            batch.result(&json!({"file": "c", "error": "damaged"})).unwrap();
            batch.finish().unwrap();
            assert!(!steps.exists(), "a file that failed left no steps");
            assert_eq!(files(&path, format), [("a".to_owned(), None), ("c".into(), Some("damaged".into()))]);
            let batch = Batch::open(&path, format, &identity(2), true).unwrap();
            assert_eq!(batch.found(), (0, 0));
            batch.finish().unwrap();
            assert_eq!(files(&path, format), []);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_is_no_result_of_ours_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let refuses = |name: &str, format, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            let error = Batch::open(&path, format, &identity(1), false).err().unwrap().to_string();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            fs::remove_file(&path).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
            error
        };
        let other = |text: &str| refuses("out.jsonl", OutputFormat::Jsonl, text);
        assert!(other("my notes\nmore\n").contains("line 1, is no result"));
        assert!(other("[1]\n").contains("is no result"));
        assert!(other("one line without an end").contains("is no result"));
        let theirs = json!({"file": "a", "caption": "x", "models": {"pack": "large"}});
        assert!(other(&format!("{theirs}\n")).contains("with the pack \"large\", not \"demo\""));
        let table = |text: &str| refuses("out.csv", OutputFormat::Csv, text);
        assert!(table("name,price\nx,1\n").contains("line 1, is no result"));
        assert!(table("name").contains("line 1, is no result"));
        let head = row::csv_head();
        assert!(table(&format!("{head}a,b\n{}", "x,,,,,,,,,,\n")).contains("line 2, is no result"));
        assert!(table(&format!("{head}a,image,a cat,none,,,,,,,\nb,,,,,,,,,,\n")).contains("line 2, is no result"));
        assert!(refuses("out.parquet", OutputFormat::Parquet, "no table").contains("is no result"));
        let open = |path: &Path, overwrite| Batch::open(path, OutputFormat::Jsonl, &identity(1), overwrite).is_err();
        assert!(open(dir.path(), false) && open(&dir.path().join("no/where.jsonl"), false));
        assert!(open(Path::new("/dev/null"), true), "a device is not replaced");
    }

    #[test]
    fn a_head_that_was_cut_off_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.csv");
        for text in ["", "fi", "file,modality", "file,modality,"] {
            fs::write(&path, text).unwrap();
            Batch::open(&path, OutputFormat::Csv, &identity(1), false).unwrap().finish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), row::csv_head(), "{text:?}");
        }
    }

    #[test]
    fn steps_of_files_that_are_done_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut batch = Batch::open(&path, OutputFormat::Jsonl, &identity(1), false).unwrap();
        let long = StepDone { texts: vec!["x".repeat(1 << 20)], scores: vec![0.5], ..step(1) };
        batch.step("open", &step(1)).unwrap();
        let size = || fs::metadata(beside(&path, ".steps")).unwrap().len();
        let mut most = 0;
        for i in 0..(MANY >> 20) + 8 {
            let file = format!("{i}");
            batch.step(&file, &long).unwrap();
            batch.result(&result(&file)).unwrap();
            most = most.max(size());
        }
        assert!(most <= MANY + (2 << 20) && size() < 16 << 20, "{most} {}", size());
        let again = Batch::open(&path, OutputFormat::Jsonl, &identity(1), false).err().unwrap().to_string();
        assert!(again.contains("written by another run"), "also what was written anew is locked: {again}");
        batch.step("open", &step(2)).unwrap();
        drop(batch);
        let batch = Batch::open(&path, OutputFormat::Jsonl, &identity(1), false).unwrap();
        assert_eq!(batch.begun("open"), [step(1), step(2)]);
    }
}
