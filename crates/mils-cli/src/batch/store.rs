//! Where results are kept, and how they are read back: JSON Lines and CSV in the output itself, line by line; those that
//! will be a Parquet file as JSON Lines beside it, until it is written.

use super::parquet::{self, Table};
use super::row::{COLUMNS, Row, csv_head};
use crate::args::output::OutputFormat;
use crate::output::Replacement;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// An output.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// As it was named.
    pub(crate) path: PathBuf,
    pub(crate) format: OutputFormat,
}

/// A path with this at its end.
pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

impl Store {
    /// The file that grows with each result.
    pub(crate) fn growing(&self) -> PathBuf {
        match self.format {
            OutputFormat::Jsonl | OutputFormat::Csv => self.path.clone(),
            OutputFormat::Parquet => beside(&self.path, ".jsonl"),
        }
    }

    /// What it begins with.
    pub(crate) fn head(&self) -> String {
        if self.format == OutputFormat::Csv { csv_head() } else { String::new() }
    }

    /// A result as it stands in the growing file, with the end of its line.
    pub(crate) fn line(&self, result: &Value) -> Result<Vec<u8>> {
        match self.format {
            OutputFormat::Jsonl | OutputFormat::Parquet => Ok(format!("{result}\n").into_bytes()),
            OutputFormat::Csv => Row::of(result).context("a result without a file")?.csv(),
        }
    }

    /// All results that are there, with their lines. A last one that was cut off by a kill is passed over.
    ///
    /// # Errors
    /// If it cannot be read, or something else is in it.
    pub(crate) fn each(&self, take: &mut dyn FnMut(&Value, &[u8]) -> Result<()>) -> Result<()> {
        let growing = self.growing();
        if let Some(file) = open(&growing)? {
            return match self.format {
                OutputFormat::Jsonl | OutputFormat::Parquet => json_lines(file, &growing, take),
                OutputFormat::Csv => csv_rows(file, &growing, take),
            };
        }
        // Only where it grows beside: a table that was finished, and is taken up.
        let Some(file) = open(&self.path)?.filter(|_| self.format == OutputFormat::Parquet) else { return Ok(()) };
        parquet::read(file, &mut |row| {
            if row.file.is_empty() {
                bail!("it has no column `file`");
            }
            let result = row.result();
            take(&result, &self.line(&result)?)
        })
        .map_err(|why| anyhow!("{} is no result of `mils caption` ({why}); name another file", self.path.display()))
    }

    /// Makes the output of the file that grew, where they are two.
    ///
    /// # Errors
    /// If it cannot be written; the other is kept then.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.format != OutputFormat::Parquet {
            return Ok(());
        }
        let growing = self.growing();
        let place = || format!("cannot write {}; the results are in {}", self.path.display(), growing.display());
        let mut table = Table::begin(BufWriter::new(Replacement::begin(&self.path).with_context(place)?))?;
        self.each(&mut |result, _| table.write(Row::of(result).context("a result without a file")?))
            .and_then(|()| table.finish())
            .and_then(|out| Ok(out.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()?))
            .with_context(place)?;
        // Where a kill comes here there are both, and this one is taken: it has all that the other has.
        std::fs::remove_file(&growing).with_context(|| format!("cannot remove {}", growing.display()))
    }
}

/// `None` if there is no such file.
fn open(path: &Path) -> Result<Option<File>> {
    let place = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(place)?,
    };
    if !file.metadata().with_context(place)?.is_file() {
        bail!("{} is no file; results that can be taken up are kept in one", path.display());
    }
    Ok(Some(file))
}

fn is_none(path: &Path, line: u64) -> anyhow::Error {
    anyhow!("{}, line {line}, is no result of `mils caption`; name another file", path.display())
}

fn json_lines(file: File, path: &Path, take: &mut dyn FnMut(&Value, &[u8]) -> Result<()>) -> Result<()> {
    let place = || format!("cannot read {}", path.display());
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).with_context(place)? == 0 {
            break;
        }
        let whole = line.ends_with(b"\n");
        let value = serde_json::from_slice::<Value>(&line).ok().filter(|value| value["file"].is_string());
        match value {
            Some(value) if whole => take(&value, &line)?,
            // It has all but its end: whoever wrote it was killed, or is an editor that leaves that out.
            Some(value) => take(&value, &[&line[..], b"\n"].concat())?,
            None if whole || !is_beginning(&line) => return Err(is_none(path, number)),
            None => {}
        }
    }
    Ok(())
}

/// Whether a line that was cut off may have become a result: what is somebody's else is not written over.
fn is_beginning(line: &[u8]) -> bool {
    let begins = |with: &str| line.starts_with(with.as_bytes()) || with.as_bytes().starts_with(line);
    [r#"{"caption":"#, r#"{"error":"#, r#"{"file":"#].into_iter().any(begins)
}

fn csv_rows(mut file: File, path: &Path, take: &mut dyn FnMut(&Value, &[u8]) -> Result<()>) -> Result<()> {
    let place = || format!("cannot read {}", path.display());
    let length = file.metadata().with_context(place)?.len();
    let mut last = [0];
    if length > 0 {
        file.seek(SeekFrom::Start(length - 1)).and_then(|_| file.read_exact(&mut last)).with_context(place)?;
        file.rewind().with_context(place)?;
    }
    let whole = last == *b"\n";
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::new(file));
    // A name may be of any bytes that are quoted, so a row is cut off where it has too few columns or its end is missing.
    let head = reader.byte_headers().with_context(place)?.clone();
    if !head.iter().eq(COLUMNS.iter().map(|name| name.as_bytes())) {
        let cut = head.iter().collect::<Vec<_>>().join(&b","[..]);
        let beginning = !whole && csv_head().as_bytes().starts_with(&cut) && length < csv_head().len() as u64;
        return if length == 0 || beginning { Ok(()) } else { Err(is_none(path, 1)) };
    }
    let mut records = reader.byte_records().peekable();
    while let Some(record) = records.next() {
        let record = record.with_context(place)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cut = records.peek().is_none() && (!whole || record.len() < COLUMNS.len());
        let row = record.deserialize::<Row>(Some(&head)).ok().filter(|_| record.len() == COLUMNS.len());
        match row {
            _ if cut => {}
            Some(row) => take(&row.result(), &row.csv()?)?,
            None => return Err(is_none(path, line)),
        }
    }
    Ok(())
}
