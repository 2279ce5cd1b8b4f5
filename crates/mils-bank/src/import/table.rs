//! CSV and TSV: the columns that hold captions.

use super::{Fault, Options, Take, USUAL};
use csv::{ErrorKind, ReaderBuilder, StringRecord};
use std::io::Read;

/// Whether a line of column names has one of captions.
pub(super) fn has_captions(line: &[u8], delimiter: u8) -> bool {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(line);
    reader.records().next().and_then(Result::ok).is_some_and(|names| !usual(&names).is_empty())
}

/// Columns of captions: the first name that is usual, or all of `caption_1`, `caption_2` and so on.
fn usual(names: &StringRecord) -> Vec<usize> {
    let name = |n: &str| n.trim().to_lowercase();
    let numbered = |n: &str| n.strip_prefix("caption_").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    let all: Vec<usize> = names.iter().enumerate().filter(|(_, n)| numbered(&name(n))).map(|(i, _)| i).collect();
    if !all.is_empty() {
        return all;
    }
    USUAL.iter().find_map(|usual| names.iter().position(|n| name(n) == *usual)).into_iter().collect()
}

pub(super) fn read(input: &mut impl Read, delimiter: u8, options: &Options, take: &mut Take<'_>) -> Result<(), Fault> {
    let mut builder = ReaderBuilder::new();
    // Tab-separated files have no quotes, as a rule, and apostrophes or inches where they please.
    builder.delimiter(delimiter).has_headers(!options.no_header).quoting(delimiter != b'\t');
    let mut reader = builder.from_reader(input);
    let mut columns = None;
    if !options.no_header {
        let names = reader.headers().map_err(|e| fault(&e))?.clone();
        columns = Some(chosen(&names, options)?);
    }
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| fault(&e))? {
        let columns = match &columns {
            Some(columns) => columns,
            None => columns.insert(chosen(&record, options)?),
        };
        for text in columns.iter().filter_map(|column| record.get(*column)) {
            if take(text).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The columns that are meant, by the first record.
fn chosen(first: &StringRecord, options: &Options) -> Result<Vec<usize>, Fault> {
    let known = || {
        let names: Vec<String> = first.iter().take(20).map(|name| format!("{name:?}")).collect();
        format!("the first line has {}", names.join(", "))
    };
    let Some(wanted) = &options.column else {
        return match (options.no_header, usual(first)) {
            (false, columns) if !columns.is_empty() => Ok(columns),
            (true, _) if first.len() == 1 => Ok(vec![0]),
            _ => Err(Fault::at(1, format!("which column holds the captions? Name it with --column; {}", known()))),
        };
    };
    let by_name = first.iter().position(|name| name.trim() == wanted).filter(|_| !options.no_header);
    let by_number = || wanted.parse().ok().and_then(|n: usize| n.checked_sub(1)).filter(|n| *n < first.len());
    let column = by_name.or_else(by_number);
    column.map(|column| vec![column]).ok_or_else(|| Fault::at(1, format!("there is no column `{wanted}`; {}", known())))
}

fn fault(error: &csv::Error) -> Fault {
    let line = error.position().map(csv::Position::line);
    let problem = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields, where the first line has {expected_len}; a quote may be missing before")
        }
        ErrorKind::Utf8 { .. } => "is not UTF-8; save the file as UTF-8".into(),
        ErrorKind::Io(e) => format!("cannot be read: {e}"),
        _ => error.to_string(),
    };
    Fault { line, problem }
}
