//! Candidates and references as data sets and captioners have them, with every problem named by file and line.
//!
//! What a file is, its content tells: JSON Lines, COCO's captions and results, Karpathy's splits, MSR-VTT, and tables (CSV,
//! TSV) by their columns: Clotho, AudioCaps, MSVD, Flickr30k, DrawBench, PartiPrompts. NoCaps is COCO's form.

mod json;
mod table;

use crate::EvalError;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Texts of an id, with where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The id: a number or a text, as a text.
    pub id: String,
    /// The texts.
    pub texts: Vec<String>,
    /// Why there is none, if the captioner failed.
    pub error: Option<String>,
    /// Line in the file, from 1.
    pub line: usize,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// In the order of the file; each id once.
    pub entries: Vec<Entry>,
    /// What is worth knowing, for people: empty texts, and the like, with file and line.
    pub warnings: Vec<String>,
}

/// Which part of a data set is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A split (Karpathy's, MSR-VTT's), or a domain of NoCaps. All, without one.
    pub split: Option<String>,
}

/// A file's text.
pub(crate) fn text(path: &Path) -> Result<String, EvalError> {
    let bytes = std::fs::read(path).map_err(|e| EvalError::read(path, e))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(EvalError::file(path, "it is UTF-16; save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(bytes);
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|b| **b == b'\n').count();
        EvalError::line(path, line, "it is no UTF-8 here; convert the file (iconv -t UTF-8)")
    })
}

/// Reads references.
///
/// # Errors
/// If the file cannot be read, is of no known form, or an id has no reference.
pub fn references(path: &Path, options: &Options) -> Result<Entries, EvalError> {
    let read = rows(path, options)?;
    let mut made = Entries::default();
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in read {
        if row.texts.is_empty() {
            return Err(EvalError::line(path, row.line, format!("`{}` has no reference", row.id)));
        }
        warn_of_empty(path, &row, &mut made.warnings);
        match known.get(&row.id) {
            Some(at) => made.entries[*at].texts.extend(row.texts),
            None => {
                known.insert(row.id.clone(), made.entries.len());
                made.entries.push(row);
            }
        }
    }
    not_empty(path, &made, options)?;
    Ok(made)
}

/// Reads candidates, one of each id: `{"id", "caption"}` a line, what `mils caption` writes, COCO's results, or a table.
///
/// # Errors
/// If the file cannot be read, is of no known form, or has an id twice.
pub fn candidates(path: &Path) -> Result<Entries, EvalError> {
    let mut made = Entries::default();
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in rows(path, &Options::default())? {
        if let Some(first) = known.insert(row.id.clone(), row.line) {
            let problem = format!("`{}` is there twice, first in line {first}; leave one", row.id);
            return Err(EvalError::line(path, row.line, problem));
        }
        if row.error.is_none() && row.texts.len() != 1 {
            let problem = format!("`{}` has {} captions in place of one", row.id, row.texts.len());
            return Err(EvalError::line(path, row.line, problem));
        }
        warn_of_empty(path, &row, &mut made.warnings);
        made.entries.push(row);
    }
    not_empty(path, &made, &Options::default())?;
    Ok(made)
}

fn warn_of_empty(path: &Path, row: &Entry, warnings: &mut Vec<String>) {
    for text in &row.texts {
        let problem = match text.trim() {
            "" => "is empty",
            "nan" | "NaN" | "null" | "None" => "may be a missing value that was written as a text",
            _ => continue,
        };
        warnings.push(format!("{}:{}: a text of `{}` {problem}: {text:?}", path.display(), row.line, row.id));
    }
}

fn not_empty(path: &Path, made: &Entries, options: &Options) -> Result<(), EvalError> {
    if !made.entries.is_empty() {
        return Ok(());
    }
    let of = options.split.as_ref().map(|s| format!(" of the split `{s}`")).unwrap_or_default();
    Err(EvalError::file(path, format!("there are no captions in it{of}")))
}

/// Entries as they stand, ids perhaps several times.
fn rows(path: &Path, options: &Options) -> Result<Vec<Entry>, EvalError> {
    let text = text(path)?;
    match text.trim_start().chars().next() {
        Some('[' | '{') => json::rows(path, &text, options),
        _ => table::rows(path, &text, options),
    }
}

/// An id as a text.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The ways to name a file's picture: the path, its name, that without the extension, and the number at its end.
pub fn names(id: &str) -> [Option<String>; 4] {
    let path = Path::new(id);
    let word = |part: Option<&std::ffi::OsStr>| part.and_then(|p| p.to_str()).map(str::to_owned);
    let stem = word(path.file_stem());
    let number = stem.as_deref().and_then(|stem| {
        let digits = &stem[stem.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
        let short = digits.trim_start_matches('0');
        (!digits.is_empty()).then(|| if short.is_empty() { "0".to_owned() } else { short.to_owned() })
    });
    [Some(id.to_owned()), word(path.file_name()), stem, number]
}

/// By which of the [`names`] most of these files are wanted; of several as good the plainest.
pub(crate) fn way(named: &[[Option<String>; 4]], wanted: &HashSet<&str>) -> usize {
    let fitting = |way: usize| named.iter().filter(|n| n[way].as_deref().is_some_and(|n| wanted.contains(n))).count();
    (0..4).rev().max_by_key(|way| fitting(*way)).unwrap_or(0)
}

/// The file of each id among those below a folder, by the [`names`] that most of them have; `None` where there is none.
///
/// # Errors
/// If two files are those of one id.
pub fn files_of(ids: &[String], folder: &Path, files: &[PathBuf]) -> Result<Vec<Option<PathBuf>>, EvalError> {
    let wanted: HashSet<&str> = ids.iter().map(|id| &**id).collect();
    let named: Vec<_> = files
        .iter()
        .map(|f| names(&f.strip_prefix(folder).unwrap_or(f).to_string_lossy().replace('\\', "/")))
        .collect();
    let way = way(&named, &wanted);
    let mut found: HashMap<String, &PathBuf> = HashMap::new();
    for (file, name) in files.iter().zip(named) {
        let Some(name) = name.into_iter().nth(way).flatten().filter(|n| wanted.contains(&**n)) else { continue };
        if let Some(other) = found.insert(name.clone(), file) {
            let problem = format!("{} and {} are both of the item `{name}`", other.display(), file.display());
            return Err(EvalError::Mismatch(problem));
        }
    }
    Ok(ids.iter().map(|id| found.get(id).map(|file| (*file).clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_found_by_the_ids_of_data_sets() {
        let of = |ids: &[&str], files: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|i| (*i).to_owned()).collect();
            let files: Vec<PathBuf> = files.iter().map(|f| Path::new("root").join(f)).collect();
            let found = files_of(&ids, Path::new("root"), &files).map_err(|e| e.to_string())?;
            let name = |f: PathBuf| f.strip_prefix("root").unwrap().to_str().unwrap().to_owned();
            Ok::<_, String>(found.into_iter().map(|f| f.map(name)).collect::<Vec<_>>())
        };
        let some = |name: &str| Some(name.to_owned());
        let coco = ["val2014/COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000007.jpg"];
        assert_eq!(of(&["7", "9", "42"], &coco).unwrap(), [some(coco[1]), None, some(coco[0])]);
        assert_eq!(of(&["video7"], &["all/video7.mp4", "all/video8.mp4"]).unwrap(), [some("all/video7.mp4")]);
        assert_eq!(of(&["a/x.png", "b/x.png"], &["b/x.png", "a/x.png"]).unwrap(), [some("a/x.png"), some("b/x.png")]);
        let error = of(&["x.png"], &["b/x.png", "a/x.png"]).unwrap_err();
        assert!(error.contains("both of the item `x.png`"), "{error}");
    }

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn refs(name: &str, text: &str, split: Option<&str>) -> Vec<(String, Vec<String>)> {
        let (_dir, path) = file(name, text.as_bytes());
        let read = references(&path, &Options { split: split.map(str::to_owned) }).unwrap();
        read.entries.into_iter().map(|e| (e.id, e.texts)).collect()
    }

    fn row(id: &str, texts: &[&str]) -> (String, Vec<String>) {
        (id.into(), texts.iter().map(|t| (*t).to_owned()).collect())
    }

    #[test]
    fn data_sets_are_read_as_they_are_published() {
        let coco = r#"{"images": [{"id": 7, "file_name": "x.jpg", "domain": "in-domain"}, {"id": 8, "domain": "out-domain"}],
            "annotations": [{"image_id": 7, "id": 1, "caption": "a dog"}, {"image_id": 8, "id": 2, "caption": "a cat"},
            {"image_id": 7, "id": 3, "caption": "one dog"}]}"#;
        assert_eq!(refs("captions_val2014.json", coco, None), [row("7", &["a dog", "one dog"]), row("8", &["a cat"])]);
        assert_eq!(refs("nocaps.json", coco, Some("out-domain")), [row("8", &["a cat"])]);
        let karpathy = r#"{"images": [{"cocoid": 5, "split": "test", "filename": "COCO_val2014_000000000005.jpg",
            "sentences": [{"raw": "A dog.", "tokens": ["a", "dog"]}]}, {"filename": "9.jpg", "split": "val",
            "sentences": [{"raw": "A cat."}]}], "dataset": "coco"}"#;
        assert_eq!(refs("dataset_coco.json", karpathy, Some("test")), [row("5", &["A dog."])]);
        assert_eq!(refs("dataset_coco.json", karpathy, None)[1], row("9.jpg", &["A cat."]));
        let msrvtt = r#"{"videos": [{"video_id": "video0", "split": "train"}, {"video_id": "video7", "split": "test"}],
            "sentences": [{"caption": "a man sings", "video_id": "video7", "sen_id": 0}, {"caption": "x", "video_id": "video0"}]}"#;
        assert_eq!(refs("msrvtt.json", msrvtt, Some("test")), [row("video7", &["a man sings"])]);
        let clotho = "file_name,caption_1,caption_2\nrain.wav,\"Rain, heavy\",It rains\n";
        assert_eq!(refs("clotho.csv", clotho, None), [row("rain.wav", &["Rain, heavy", "It rains"])]);
        let audiocaps = "audiocap_id,youtube_id,start_time,caption\n1,abc,30,A dog barks\n2,abc,30,Barking\n";
        assert_eq!(refs("test.csv", audiocaps, None), [row("abc", &["A dog barks", "Barking"])]);
        let msvd = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n\
            x1,3,9,1,clean,5,English,a cat eats\nx1,3,9,1,clean,5,Slovene,macka\n";
        assert_eq!(refs("video_corpus.csv", msvd, None), [row("x1_3_9", &["a cat eats"])]);
        assert_eq!(
            refs("all.txt", "x1_3_9 a cat eats\nx1_3_9 a cat\n", None),
            [row("x1_3_9", &["a cat eats", "a cat"])]
        );
        assert_eq!(
            refs("f30k.token", "1.jpg#0\tTwo men .\n1.jpg#1\tMen\n", None),
            [row("1.jpg", &["Two men .", "Men"])]
        );
        let kaggle = "image_name| comment_number| comment\n1.jpg| 0| Two men\n";
        assert_eq!(refs("results.csv", kaggle, None), [row("1.jpg", &["Two men"])]);
        assert_eq!(refs("drawbench.csv", "Prompts,Category\nA red cube,Colors\nB,C\n", None)[1], row("1", &["B"]));
        let parti = "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tx\n";
        assert_eq!(refs("PartiPrompts.tsv", parti, None), [row("0", &["bond"])]);
        let lines = "{\"id\": 3, \"references\": [\"a\", \"b\"]}\n\n{\"id\": \"x\", \"references\": [\"c\"]}\n";
        assert_eq!(refs("refs.jsonl", lines, None), [row("3", &["a", "b"]), row("x", &["c"])]);
    }

    #[test]
    fn candidates_are_read_from_captioners() {
        let (_dir, path) = file("c.jsonl", b"{\"file\": \"a/COCO_000012.jpg\", \"caption\": \"a dog\", \"score\": 0.3}\n{\"file\": \"b.jpg\", \"error\": \"damaged\"}\n");
        let read = candidates(&path).unwrap().entries;
        assert_eq!((&*read[0].texts[0], read[1].error.as_deref()), ("a dog", Some("damaged")));
        assert_eq!(names(&read[0].id)[3].as_deref(), Some("12"));
        let (_dir, path) = file(
            "results.json",
            b"[{\"image_id\": 4, \"caption\": \"x\"},\n {\"image_id\": \"5\", \"caption\": \"\"}]",
        );
        let read = candidates(&path).unwrap();
        assert_eq!((read.entries[1].line, read.warnings.len()), (2, 1));
        assert!(read.warnings[0].contains("results.json:2: a text of `5` is empty"), "{:?}", read.warnings);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        for (text, wants) in [
            (
                &b"{\"id\": 1, \"caption\": \"a\"}\n{\"id\": \"1\", \"caption\": \"b\"}\n"[..],
                "c:2: `1` is there twice, first in line 1",
            ),
            (b"{\"id\": 1, \"caption\": \"a\"}\n{\"id\": 2, \"caption\": NaN}\n", "c:2: "),
            (b"{\"id\": 1, \"caption\": \"a\"}\n{\"caption\": \"b\"}\n", "c:2: there is no id"),
            (b"{\"id\": 1, \"caption\": \"a\"}\n{\"id\": 2}\n", "c:2: `2` has no caption"),
            (
                b"[{\"image_id\": 1, \"caption\": \"a\"},\n{\"image_id\": 1, \"caption\": \"b\"}]",
                "c:2: `1` is there twice",
            ),
            (b"[{\"image_id\": 1,\n \"caption\": 5}]", "c:1: `1` has a caption that is no text"),
            (b"id,caption\n1,a\n2,\xe9\n", "c:3: it is no UTF-8"),
            (b"id,caption\n1,a\n2,b,c\n", "c:3: "),
            (b"\xff\xfea\0", "c: it is UTF-16"),
            (b"", "c: "),
            (b"[]", "c: there are no captions in it"),
        ] {
            let (_dir, path) = file("c", text);
            let error = candidates(&path).unwrap_err().to_string();
            assert!(error.contains(wants), "{error} does not say {wants}");
        }
        let (_dir, path) = file("r", b"{\"id\": 1, \"references\": []}\n");
        assert!(references(&path, &Options::default()).unwrap_err().to_string().contains("r:1: `1` has no reference"));
    }
}
