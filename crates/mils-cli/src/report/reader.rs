//! Traces, read record by record. They may be of runs that go on, or that were killed.

use super::run::{FileRun, Runs};
use crate::inputs::regular;
use crate::trace::Record;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Longest line in bytes. The longest that a trace has is what a language model said in one answer.
const LINE: u64 = 16 << 20;

/// Traces that are read several times, as long as they are when they are opened.
pub struct Traces {
    files: Vec<(PathBuf, u64)>,
}

/// What was found in traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files that were begun.
    pub files: usize,
    /// Traces that end within a line.
    pub cut: usize,
}

/// Is given each file's run when it ends, and the trace that it is of. `Break` ends the reading.
pub type Take<'a> = dyn FnMut(&Path, FileRun) -> Result<ControlFlow<()>> + 'a;

impl Traces {
    /// Opens them.
    ///
    /// # Errors
    /// If one cannot be read, or is no file.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let length = |path: &PathBuf| {
            let place = || format!("cannot read the trace {}", path.display());
            regular(path).with_context(place)?;
            let meta = std::fs::metadata(path).with_context(place)?;
            if meta.is_dir() {
                bail!("{}: it is a folder; name the files in it", place());
            }
            Ok((path.clone(), meta.len()))
        };
        Ok(Self { files: paths.iter().map(length).collect::<Result<_>>()? })
    }

    /// Reads them through, one after the other. A file's run is given away when it ends; those without an end come
    /// at the end of their trace.
    ///
    /// # Errors
    /// If a trace cannot be read or is damaged, with its line; or what `take` fails with.
    pub fn read(&self, take: &mut Take<'_>) -> Result<Found> {
        let (mut runs, mut cut) = (Runs::default(), 0);
        for (path, length) in &self.files {
            let mut lines = Lines::open(path, *length)?;
            while let Some(record) = lines.record()? {
                let ended = runs.take(&record).map_err(|problem| lines.wrong(&problem))?;
                for run in ended {
                    if take(path, run)?.is_break() {
                        return Ok(Found { files: runs.begun(), cut });
                    }
                }
            }
            cut += usize::from(lines.cut);
            for run in runs.rest() {
                if take(path, run)?.is_break() {
                    return Ok(Found { files: runs.begun(), cut });
                }
            }
            runs.forget();
        }
        Ok(Found { files: runs.begun(), cut })
    }
}

/// The lines of a trace.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<std::io::Take<File>>,
    line: Vec<u8>,
    number: u64,
    /// The last line was cut off.
    cut: bool,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path, length: u64) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read the trace {}", path.display()))?;
        Ok(Self { path, reader: BufReader::new(file.take(length)), line: Vec::new(), number: 0, cut: false })
    }

    fn wrong(&self, problem: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{}, line {}: {problem:#}; it is no trace of `mils caption --trace`, or damaged",
            self.path.display(),
            self.number
        )
    }

    /// The next record.
    fn record(&mut self) -> Result<Option<Record<'static>>> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LINE + 1).read_until(b'\n', &mut self.line);
            if read.with_context(|| format!("cannot read the trace {}", self.path.display()))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let whole = self.line.ends_with(b"\n");
            if !whole && self.line.len() as u64 > LINE {
                return Err(self.wrong(&anyhow!("it is longer than {} MiB", LINE >> 20)));
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            return match serde_json::from_slice(&self.line) {
                Ok(record) => Ok(Some(record)),
                // A line that is being written, or was when the run was killed.
                Err(_) if !whole && self.number > 1 => {
                    self.cut = true;
                    Ok(None)
                }
                Err(error) => Err(self.wrong(&plain(&error))),
            };
        }
    }
}

/// What is wrong with a line. The place that serde names is one in the line, and often only its end.
fn plain(error: &serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    anyhow!("{}", text.split(" at line ").next().unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::super::run::Ending;
    use super::*;
    use serde_json::{Value, json};

    const USAGE: [&str; 3] = ["prompt_tokens", "reused_tokens", "generated_tokens"];

    fn run() -> Value {
        json!({
            "type": "run", "version": "0", "pack": "p", "generator": "g", "backend": "cpu", "generator_on": "CPU",
            "temperature": 1.0, "sampling": {"top_p": 0.9, "sequences": 2, "lines": 1, "context": 512},
            "in_flight": 2, "folder": null,
        })
    }

    fn scorer(keep: usize) -> Value {
        let settings = mils_optim::Config { keep, ..Default::default() };
        json!({"type": "scorer", "modality": "image", "scorer": "s", "initial_texts": 3, "settings": settings})
    }

    fn file(name: &str, number: usize) -> Value {
        json!({"type": "file", "file": name, "number": number, "modality": "image"})
    }

    fn scored(name: &str, number: usize, step: usize, text: &str, score: f32) -> Value {
        json!({"type": "scored", "file": name, "number": number, "step": step, "text": text, "score": score, "answer": 1})
    }

    fn step(name: &str, number: usize, step: usize, best: (&str, f32)) -> Value {
        let usage: Value =
            USAGE.iter().map(|key| ((*key).to_owned(), 1.into())).collect::<serde_json::Map<_, _>>().into();
        json!({
            "type": "step", "file": name, "number": number, "step": step, "mean_kept": 0.5, "scored": 1, "entered": 1,
            "best": {"text": best.0, "score": best.1, "step": step}, "unusable": 0, "usage": usage,
            "seconds": {"input": 0.0, "generate": 0.0, "score": 0.0, "total": 0.0},
        })
    }

    fn read(text: &str) -> Result<(Vec<FileRun>, Found)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut all = Vec::new();
        let found = Traces::open(&[path])?.read(&mut |_, run| {
            all.push(run);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((all, found))
    }

    fn lines(records: &[Value]) -> String {
        records.iter().map(|record| format!("{record}\n")).collect()
    }

    #[test]
    fn what_was_kept_is_made_again_and_files_may_be_mixed() {
        let (a, b) = ("a.png", "b.png");
        let records = [
            run(),
            file(a, 0),
            scorer(2),
            file(b, 1),
            scored(a, 0, 0, "a red car", 0.5),
            scored(b, 1, 0, "a dog", 0.25),
            scored(a, 0, 0, "a blue car", 0.5),
            scored(a, 0, 0, "a green tree", 0.25),
            step(b, 1, 0, ("a dog", 0.25)),
            step(a, 0, 0, ("a red car", 0.5)),
            scored(a, 0, 1, "a big green tree", 0.125),
            scored(a, 0, 1, "two blue cars", 0.75),
            step(a, 0, 1, ("two blue cars", 0.75)),
            scored(a, 0, 2, "never told of", 0.9),
            json!({"type": "failed", "file": b, "number": 1, "error": "it went away"}),
        ];
        let (runs, found) = read(&(lines(&records) + "{\"type\": \"sco")).unwrap();
        assert_eq!(found, Found { files: 2, cut: 1 });
        assert!(matches!(&runs[0].ending, Ending::Failed(error) if error == "it went away"));
        assert_eq!((runs[0].place, runs[0].steps.len(), &runs[0].best().unwrap().text[..]), (2, 1, "a dog"));
        let run = &runs[1];
        assert!(matches!(run.ending, Ending::Open) && run.place == 1);
        let texts = |at: usize| run.steps[at].rows.iter().map(|t| (&t.text[..], t.step)).collect::<Vec<_>>();
        assert_eq!(texts(0), [("a red car", 0), ("a blue car", 0)], "first come, first served");
        assert_eq!(texts(1), [("two blue cars", 1), ("a red car", 0)]);
        let new = &run.steps[1].rows[0];
        assert_eq!((new.answer, &new.closest), (Some(1), &Some(("a blue car".into(), 0.5))));
        let missed: Vec<_> = run.steps[1].missed.iter().map(|t| (&t.text[..], &t.closest)).collect();
        assert_eq!(missed, [("a big green tree", &Some(("a red car".into(), 0.5)))], "of those that were shown");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let says = |text: &str| read(text).unwrap_err().to_string();
        let begun = [run(), file("a.png", 0), scorer(2)];
        for (text, says_what) in [
            ("no trace".to_owned(), ", line 1: expected ident"),
            ("{\"file\": \"x\"}\n".into(), ", line 1: missing field `type`"),
            (lines(&begun[1..]), ", line 1: no `run` comes before it"),
            (lines(&begun) + "{]\n", ", line 4: "),
            (
                lines(&begun) + &lines(&[scored("b.png", 0, 0, "x", 0.5)]),
                ", line 4: file number 0, b.png, was not begun",
            ),
            (lines(&begun) + &lines(&[scored("a.png", 0, 1, "x", 0.5)]), "step 1 of a.png comes in its step 0"),
            (lines(&begun) + &lines(&[step("a.png", 0, 0, ("x", 0.5))]), "records are missing"),
            (lines(&begun) + &lines(&[file("a.png", 0)]), ", line 4: file number 0 begins twice"),
            (lines(&[run(), file("a.png", 0), scored("a.png", 0, 0, "x", 0.5)]), ", line 3: no `scorer`"),
            (lines(&begun) + &lines(&[json!({"type": "file", "file": "a.png"})]), ", line 4: missing field `number`"),
        ] {
            let error = says(&text);
            assert!(error.contains(says_what) && error.lines().count() == 1, "{says_what:?} is not in {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(Traces::open(&[dir.path().to_owned()]).err().unwrap().to_string().contains("it is a folder"));
        assert!(Traces::open(&[dir.path().join("none")]).is_err());
    }

    #[test]
    fn runs_may_follow_each_other_in_one_file() {
        let one = [run(), file("a.png", 0), scorer(2), scored("a.png", 0, 0, "x", 0.5)];
        let (runs, found) = read(&lines(&[&one[..], &one[..]].concat())).unwrap();
        assert_eq!((runs.len(), found.files, runs[1].place), (2, 2, 2));
        assert_eq!(read("").unwrap().1, Found::default());
    }
}
