//! SPICE through its authors' Java program, whose results are kept: Anderson et al., *SPICE: semantic propositional image
//! caption evaluation*, ECCV 2016.
//!
//! What it needs is SPICE's folder: `spice-1.0.jar` and `lib` with the jars that it names, Stanford CoreNLP 3.6.0 and its
//! models among them, as the Python package pycocoevalcap fetches them the first time. A pair of candidate and references
//! that was scored once is not given to Java again.

use crate::EvalError;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The only version there is.
const JAR: &str = "spice-1.0.jar";
/// What lies in `lib` and is not in the Python package.
const MODELS: [&str; 2] = ["lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"];

/// SPICE's program and where results are kept.
#[derive(Clone, Debug)]
pub struct Spice {
    folder: PathBuf,
    java: PathBuf,
    cache: Option<PathBuf>,
}

impl Spice {
    /// Looks for what it needs. `cache` is a file of results, JSON Lines.
    ///
    /// # Errors
    /// If Java, the jar or a library is missing, and what to do.
    pub fn find(folder: &Path, java: &Path, cache: Option<PathBuf>) -> Result<Self, EvalError> {
        for name in [JAR].into_iter().chain(MODELS) {
            if !folder.join(name).is_file() {
                return Err(EvalError::Tool(format!(
                    "SPICE 1.0 is not whole in {}: {name} is missing; it comes with https://github.com/peteanderson80/SPICE \
                     or the spice folder of the Python package pycocoevalcap, which fetches its models",
                    folder.display()
                )));
            }
        }
        let version = Command::new(java).arg("-version").output();
        if !version.is_ok_and(|out| out.status.success()) {
            let problem = format!("SPICE needs Java (8 or later), and {} does not run; install a JRE", java.display());
            return Err(EvalError::Tool(problem));
        }
        Ok(Self { folder: folder.to_owned(), java: java.to_owned(), cache })
    }

    /// SPICE of candidates, each with its references. That of all is the mean.
    ///
    /// # Errors
    /// If the program fails, or says something else.
    pub fn scores(&self, candidates: &[String], references: &[Vec<String>]) -> Result<Vec<f64>, EvalError> {
        let keys: Vec<String> = candidates.iter().zip(references).map(|(c, r)| key(c, r)).collect();
        let mut known = self.known();
        let mut missing: Vec<usize> = (0..keys.len()).filter(|i| !known.contains_key(&keys[*i])).collect();
        missing.sort_by_key(|i| &keys[*i]);
        missing.dedup_by_key(|i| &keys[*i]);
        if !missing.is_empty() {
            let input: Vec<Value> = missing
                .iter()
                .map(|i| json!({"image_id": i, "test": candidates[*i], "refs": references[*i]}))
                .collect();
            let mut lines = String::new();
            for (i, score) in self.run(&input)? {
                let key =
                    keys.get(i).ok_or_else(|| EvalError::Tool("SPICE gave an item that it was not given".into()))?;
                lines.push_str(&format!("{}\n", json!([key, score])));
                known.insert(key.clone(), score);
            }
            self.keep(&lines);
        }
        let missing = || EvalError::Tool("SPICE left out an item".into());
        keys.iter().map(|k| known.get(k).copied().ok_or_else(missing)).collect()
    }

    fn run(&self, input: &[Value]) -> Result<Vec<(usize, f64)>, EvalError> {
        let tool = |what: String| EvalError::Tool(format!("SPICE failed: {what}"));
        let folder = tempfile::tempdir().map_err(|e| tool(e.to_string()))?;
        let (from, to) = (folder.path().join("in.json"), folder.path().join("out.json"));
        std::fs::write(&from, Value::from(input.to_vec()).to_string()).map_err(|e| tool(e.to_string()))?;
        let mut command = Command::new(&self.java);
        command.args(["-Xmx8G", "-jar", JAR]).arg(&from).arg("-out").arg(&to).args(["-subset", "-silent"]);
        let out = command.current_dir(&self.folder).output().map_err(|e| tool(e.to_string()))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(tool(said.lines().last().unwrap_or("it said nothing").to_owned()));
        }
        let text = std::fs::read_to_string(&to).map_err(|e| tool(e.to_string()))?;
        let items: Vec<Value> = serde_json::from_str(&text).map_err(|e| tool(e.to_string()))?;
        let item = |v: &Value| {
            let id = v["image_id"].as_u64().and_then(|i| usize::try_from(i).ok());
            // Without a tuple on either side there is no score, which the tools leave out of the mean; here it is 0.
            Some((id?, v["scores"]["All"]["f"].as_f64().filter(|f| f.is_finite()).unwrap_or(0.0)))
        };
        items.iter().map(|v| item(v).ok_or_else(|| tool("its output is of another form".into()))).collect()
    }

    fn known(&self) -> HashMap<String, f64> {
        let text = self.cache.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        // A last line that a kill has cut off is as if it were not there.
        text.lines().filter_map(|line| serde_json::from_str::<(String, f64)>(line).ok()).collect()
    }

    /// Without a place to keep them, they are only computed again.
    fn keep(&self, lines: &str) {
        let Some(path) = &self.cache else { return };
        if let Some(folder) = path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let append = || -> std::io::Result<()> {
            let mut file = std::fs::File::options().create(true).append(true).read(true).open(path)?;
            let mut last = [b'\n'];
            if file.metadata()?.len() > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            // A line that was cut off by a kill must not take the first of these with it.
            let end = if last == [b'\n'] { "" } else { "\n" };
            file.write_all(format!("{end}{lines}").as_bytes())
        };
        let _ = append();
    }
}

fn key(candidate: &str, references: &[String]) -> String {
    let digest = Sha256::digest(json!(["spice-1.0", candidate, references]).to_string());
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_program_is_found_asked_once_and_its_answers_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, java) = (dir.path().join("spice"), dir.path().join("java"));
        let error = Spice::find(&folder, &java, None).unwrap_err().to_string();
        assert!(error.contains("spice-1.0.jar is missing"), "{error}");
        fs::create_dir_all(folder.join("lib")).unwrap();
        for name in [JAR, MODELS[0], MODELS[1]] {
            fs::write(folder.join(name), "").unwrap();
        }
        let error = Spice::find(&folder, &java, None).unwrap_err().to_string();
        assert!(error.contains("does not run; install a JRE"), "{error}");
        // In Java's place: it writes down that it was called, and an answer in the program's form.
        let script = "#!/bin/sh\n[ \"$1\" = -version ] && exit 0\necho called >> calls\n\
            echo '[{\"image_id\": 0, \"scores\": {\"All\": {\"f\": 0.25}}}, {\"image_id\": 1, \"scores\": {\"All\": {\"f\": null}}}]' > \"$6\"\n";
        fs::write(&java, script).unwrap();
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
        let spice = Spice::find(&folder, &java, Some(dir.path().join("cache/spice.jsonl"))).unwrap();
        let (candidates, references) = (["a".to_owned(), String::new()], [vec!["b".to_owned()], vec!["c".to_owned()]]);
        // What a kill has left.
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("cache/spice.jsonl"), "[\"half a k").unwrap();
        for _ in 0..2 {
            assert_eq!(spice.scores(&candidates, &references).unwrap(), [0.25, 0.0]);
        }
        assert_eq!(fs::read_to_string(folder.join("calls")).unwrap(), "called\n");
    }
}
