//! Captions out of the files that data sets come in: what a file is, its content tells.
//!
//! Files are read as a stream, so that one of any size needs the memory of a few captions. The first thing that is wrong with
//! a file is an error with its line; nothing is skipped in silence.

mod json;
mod table;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One caption a line.
    Text,
    /// Comma-separated values with a line of column names.
    Csv,
    /// The same with tabs.
    Tsv,
    /// A JSON object or string a line.
    JsonLines,
    /// One JSON value: an array of strings or objects, COCO's captions (`annotations[].caption`), or a split in Karpathy's
    /// form (`images[].sentences[].raw`).
    Json,
}

/// How files are read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the files are; `None` is told by each one's content.
    pub kind: Option<Kind>,
    /// Column or field with the captions; of a table also its number, from 1. `None` takes what captions are usually called.
    pub column: Option<String>,
    /// Tables have no line of column names.
    pub no_header: bool,
}

/// Fields and columns that hold captions, as a rule. Of columns `caption_1` and so on too, of all that there are.
pub const USUAL: [&str; 8] = ["caption", "captions", "text", "sentence", "sentences", "raw", "title", "description"];

/// Looked at to tell what a file is.
const PEEK: usize = 1 << 16;
/// A line of text is no caption beyond this many bytes, and one of JSON no record.
const LONGEST: [usize; 2] = [1 << 20, 1 << 26];
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a file cannot be read. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), line.map(|l| format!(", line {l}")).unwrap_or_default())]
pub struct ImportError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one is to blame.
    pub line: Option<u64>,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Is given each caption as it stands in the file; `Break` ends the reading.
pub type Take<'a> = dyn FnMut(&str) -> ControlFlow<()> + 'a;

/// Reads a file, or standard input where it is called `-`. Returns what it was taken for.
///
/// # Errors
/// If it cannot be read, is no UTF-8, or is not what it was taken for.
pub fn read(path: &Path, options: &Options, take: &mut Take<'_>) -> Result<Kind, ImportError> {
    let wrong = |problem: String| ImportError { path: path.to_owned(), line: None, problem };
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(wrong("is a folder; name the files in it".into()));
        }
        Box::new(file)
    };
    read_from(path, input, options, take)
}

/// The same of what is open already; `path` is for messages and for its extension.
///
/// # Errors
/// As [`read`].
pub fn read_from(
    path: &Path,
    mut input: impl Read,
    options: &Options,
    take: &mut Take<'_>,
) -> Result<Kind, ImportError> {
    let wrong = |line: Option<u64>, problem: String| ImportError { path: path.to_owned(), line, problem };
    // A pipe gives a little at a time; what is told from the beginning must not depend on that.
    let mut begin = Vec::new();
    input
        .by_ref()
        .take(PEEK as u64)
        .read_to_end(&mut begin)
        .map_err(|e| wrong(None, format!("cannot be read: {e}")))?;
    binary(&begin).map_err(|problem| wrong(None, problem))?;
    if begin.starts_with(BOM) {
        begin.drain(..BOM.len());
    }
    let kind = options.kind.unwrap_or_else(|| kind_of(&begin, path, options.column.is_some()));
    let mut reader = BufReader::with_capacity(1 << 18, io::Cursor::new(begin).chain(input));
    let result = match kind {
        Kind::Text => lines(&mut reader, LONGEST[0], &mut |_, line| Ok(take(line))),
        Kind::JsonLines => json::lines(&mut reader, options.column.as_deref(), take),
        Kind::Json => json::whole(&mut reader, options.column.as_deref(), take),
        Kind::Csv => table::read(&mut reader, b',', options, take),
        Kind::Tsv => table::read(&mut reader, b'\t', options, take),
    };
    result.map(|()| kind).map_err(|Fault { line, problem }| wrong(line, problem))
}

/// What is wrong with a file, and where.
struct Fault {
    line: Option<u64>,
    problem: String,
}

impl Fault {
    fn at(line: u64, problem: impl Into<String>) -> Self {
        Self { line: Some(line), problem: problem.into() }
    }
}

/// What is no text is told before it is taken for one.
fn binary(begin: &[u8]) -> Result<(), String> {
    let problem = if begin.starts_with(&[0x1f, 0x8b]) || begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"BZh") {
        "is compressed; unpack it first"
    } else if begin.starts_with(&[0xff, 0xfe]) || begin.starts_with(&[0xfe, 0xff]) {
        "is UTF-16; save it as UTF-8"
    } else if begin.starts_with(b"PAR1") {
        "is a Parquet file; write its captions to a CSV or JSON Lines file"
    } else if begin.contains(&0) {
        "is no text, or not in UTF-8"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

/// What a file is, by its beginning. Commas alone make no table: captions have them too.
fn kind_of(begin: &[u8], path: &Path, column: bool) -> Kind {
    let text = begin.trim_ascii_start();
    let end = text.iter().position(|b| *b == b'\n');
    let first = &text[..end.unwrap_or(text.len())];
    let value = || serde_json::from_slice::<serde_json::Value>(first).ok();
    match text.first() {
        // A line that is an object by itself is a record, but for a whole COCO file on one line.
        Some(b'{') if value().is_some_and(|v| json::ROOTS.iter().all(|root| v.get(root).is_none())) => Kind::JsonLines,
        Some(b'{' | b'[') => Kind::Json,
        Some(b'"') if end.is_some() && value().is_some_and(|v| v.is_string()) && !column => Kind::JsonLines,
        _ => {
            let extension = path.extension().map(|e| e.to_ascii_lowercase()).unwrap_or_default();
            if extension == "tsv" || first.contains(&b'\t') {
                return Kind::Tsv;
            }
            let named = table::has_captions(first, b',') && first.contains(&b',');
            if extension == "csv" || named || column { Kind::Csv } else { Kind::Text }
        }
    }
}

/// What is given each line with its number.
type Each<'a> = dyn FnMut(u64, &str) -> Result<ControlFlow<()>, Fault> + 'a;

/// Every line, without its end, with its number.
fn lines(reader: &mut impl BufRead, longest: usize, each: &mut Each<'_>) -> Result<(), Fault> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(longest as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|e| Fault::at(number, format!("cannot be read: {e}")))? == 0 {
            break;
        }
        if line.len() > longest {
            return Err(Fault::at(number, format!("has more than {} MB; is this one caption a line?", longest >> 20)));
        }
        let text = std::str::from_utf8(&line).map_err(|e| {
            Fault::at(number, format!("is not UTF-8 at byte {}; save the file as UTF-8", e.valid_up_to() + 1))
        })?;
        if each(number, text.trim_end_matches(['\n', '\r']))?.is_break() {
            break;
        }
    }
    Ok(())
}
