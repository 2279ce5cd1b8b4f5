//! Tables, told by their columns, and the two lists of lines that data sets have.

use super::{Entry, Options};
use crate::EvalError;
use csv::{ReaderBuilder, StringRecord, Trim};
use std::path::Path;

/// Columns that ids are in.
const IDS: [&str; 8] = ["file_name", "youtube_id", "image_name", "image", "filename", "file", "video_id", "image_id"];
/// Columns that texts are in.
const TEXTS: [&str; 6] = ["caption", "comment", "description", "prompts", "prompt", "raw"];

pub(super) fn rows(path: &Path, text: &str, options: &Options) -> Result<Vec<Entry>, EvalError> {
    let Some(head) = text.lines().find(|l| !l.trim().is_empty()) else {
        return Err(EvalError::file(path, "it is empty"));
    };
    if head.split_once('\t').is_some_and(|(of, _)| of.contains('#')) {
        return list(path, text, |line| line.split_once('\t').and_then(|(of, t)| Some((of.split_once('#')?.0, t))));
    }
    let delimiter = ['\t', '|', ';', ','].into_iter().find(|d| head.contains(*d));
    let lower = head.to_lowercase();
    let known = |name: &str| lower.split(delimiter.unwrap_or(',')).any(|c| c.trim().trim_matches('"') == name);
    if !TEXTS.iter().chain(&["caption_1"]).any(|name| known(name)) {
        let space = |line: &'_ str| line.split_once([' ', '\t']).is_some_and(|(of, _)| of.matches('_').count() >= 2);
        if head.starts_with('#') || space(head) {
            return list(path, text, |line| line.split_once([' ', '\t']));
        }
        let columns = TEXTS.join(", ");
        return Err(EvalError::file(
            path,
            format!("it is no known table: none of its columns is {columns} or caption_1"),
        ));
    }
    table(path, text, delimiter.unwrap_or(','), options)
}

/// Lines of an id and a text.
fn list<'a>(
    path: &Path,
    text: &'a str,
    cut: impl Fn(&'a str) -> Option<(&'a str, &'a str)>,
) -> Result<Vec<Entry>, EvalError> {
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    lines
        .map(|(at, line)| {
            let (of, text) = cut(line).ok_or_else(|| EvalError::line(path, at + 1, "there is no id and text in it"))?;
            Ok(Entry { id: of.to_owned(), texts: vec![text.trim().to_owned()], error: None, line: at + 1 })
        })
        .collect()
}

fn table(path: &Path, text: &str, delimiter: char, options: &Options) -> Result<Vec<Entry>, EvalError> {
    // Tables with tabs have no quoting: a quotation mark is one.
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter as u8)
        .quoting(delimiter != '\t')
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let failed = |e: csv::Error| {
        let line = e.position().map_or(1, |p| p.line() as usize);
        EvalError::line(path, line, e.to_string())
    };
    let head = reader.headers().map_err(failed)?.clone();
    let column = |name: &str| head.iter().position(|h| h.eq_ignore_ascii_case(name));
    let of = ["id"].iter().chain(&IDS).find_map(|name| column(name));
    let texts: Vec<usize> = match TEXTS.iter().find_map(|name| column(name)) {
        Some(one) => vec![one],
        None => (1..).map_while(|n| column(&format!("caption_{n}"))).collect(),
    };
    let (msvd, language, split) = (["VideoID", "Start", "End"].map(column), column("Language"), column("split"));
    let error = column("error");
    let mut out = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let record: StringRecord = record.map_err(failed)?;
        let line = record.position().map_or(1, |p| p.line() as usize);
        let field = |at: usize| record.get(at).unwrap_or_default();
        if language.is_some_and(|at| field(at) != "English")
            || options.split.as_ref().is_some_and(|s| split.is_some_and(|at| field(at) != s))
        {
            continue;
        }
        let id = match (msvd, of) {
            ([Some(v), Some(s), Some(e)], _) => format!("{}_{}_{}", field(v), field(s), field(e)),
            (_, Some(at)) if field(at).is_empty() => return Err(EvalError::line(path, line, "there is no id")),
            (_, Some(at)) => field(at).to_owned(),
            // Lists of prompts have none: it is the row's number, from 0.
            _ => number.to_string(),
        };
        let error = error.map(field).filter(|e| !e.is_empty() && texts.iter().all(|t| field(*t).is_empty()));
        let texts = if error.is_some() { Vec::new() } else { texts.iter().map(|t| field(*t).to_owned()).collect() };
        out.push(Entry { id, texts, error: error.map(str::to_owned), line });
    }
    Ok(out)
}
