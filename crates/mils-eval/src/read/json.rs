//! JSON Lines, and the JSON files of COCO, NoCaps, Karpathy's splits and MSR-VTT.

use super::{Entry, Options, id};
use crate::EvalError;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// Names that ids go by.
const IDS: [&str; 7] = ["id", "image_id", "video_id", "audio_id", "cocoid", "file", "filename"];

pub(super) fn rows(path: &Path, text: &str, options: &Options) -> Result<Vec<Entry>, EvalError> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    // Each line an object of its own: what is broken in one is said of that line.
    let first = lines().next().map_or("", |l| l.1);
    if first.trim_start().starts_with('{') && serde_json::from_str::<Value>(first).is_ok_and(|v| !has_lists(&v)) {
        let row = |(at, line): (usize, &str)| entry(path, at + 1, &parse(path, line, at)?);
        return lines().map(row).collect();
    }
    let whole = parse(path, text, 0)?;
    let starts = starts(text);
    let line =
        |key: Option<&str>, at: usize| starts.iter().filter(|s| s.0.as_deref() == key).nth(at).map_or(1, |s| s.1);
    let all = |key: &str| whole[key].as_array().into_iter().flatten().enumerate();
    if let Some(list) = whole.as_array() {
        let lines: Vec<usize> = starts.iter().filter(|s| s.0.is_none()).map(|s| s.1).collect();
        return list.iter().enumerate().map(|(i, v)| entry(path, lines.get(i).copied().unwrap_or(1), v)).collect();
    }
    let lines =
        |key: &str| -> Vec<usize> { starts.iter().filter(|s| s.0.as_deref() == Some(key)).map(|s| s.1).collect() };
    let wanted = |v: &Value| {
        options.split.as_ref().is_none_or(|s| [&v["split"], &v["domain"]].iter().any(|v| v.as_str() == Some(s)))
    };
    if whole["images"].as_array().is_some_and(|images| images.iter().any(|i| i["sentences"].is_array())) {
        let lines = lines("images");
        let chosen = all("images").filter(|(_, v)| wanted(v));
        return chosen.map(|(i, v)| entry(path, lines.get(i).copied().unwrap_or(1), v)).collect();
    }
    let (items, texts) =
        if whole["sentences"].is_array() { ("videos", "sentences") } else { ("images", "annotations") };
    if !whole[texts].is_array() {
        let problem =
            "it is no known form of JSON: COCO's captions or results, Karpathy's splits, MSR-VTT, or an object a line";
        return Err(EvalError::line(path, line(None, 0), problem));
    }
    let chosen: HashSet<String> = all(items)
        .filter(|(_, v)| wanted(v))
        .filter_map(|(_, v)| id(&v["id"]).filter(|_| items == "images").or_else(|| id(&v["video_id"])))
        .collect();
    let lines = lines(texts);
    let mut out = Vec::new();
    for (i, value) in all(texts) {
        let of = ["image_id", "video_id"].iter().find_map(|name| id(&value[*name]));
        let line = lines.get(i).copied().unwrap_or(1);
        let Some(of) = of else { return Err(EvalError::line(path, line, "there is no image_id or video_id")) };
        if options.split.is_none() || chosen.contains(&of) {
            out.push(Entry { id: of, texts: captions(path, line, value)?, error: None, line });
        }
    }
    Ok(out)
}

/// Whether an object is a whole data set.
fn has_lists(value: &Value) -> bool {
    ["images", "annotations", "sentences", "videos"].iter().any(|name| value[*name].is_array() && value["id"].is_null())
}

fn parse(path: &Path, text: &str, before: usize) -> Result<Value, EvalError> {
    serde_json::from_str(text).map_err(|e| {
        let line = before + e.line();
        let nan = text.lines().nth(e.line().saturating_sub(1)).is_some_and(|l| l.contains("NaN"));
        let why = if nan {
            "NaN is no JSON; a missing caption is to be left out, or named with `error`".into()
        } else {
            e.to_string()
        };
        EvalError::line(path, line, why)
    })
}

/// One object with an id, and a caption or references.
fn entry(path: &Path, line: usize, value: &Value) -> Result<Entry, EvalError> {
    let of = IDS.iter().find_map(|name| id(&value[*name]));
    let Some(of) = of else {
        return Err(EvalError::line(path, line, format!("there is no id ({})", IDS.join(", "))));
    };
    // A sidecar that could not be written does not make the caption a failure.
    let error = value["error"].as_str().filter(|_| !value["caption"].is_string()).map(str::to_owned);
    let texts = if error.is_some() {
        Vec::new()
    } else {
        captions(path, line, value).map_err(|_| {
            let wrong = ["caption", "references", "refs", "captions"].iter().any(|n| !value[*n].is_null());
            let what = if wrong { "has a caption that is no text" } else { "has no caption" };
            EvalError::line(path, line, format!("`{of}` {what}"))
        })?
    };
    Ok(Entry { id: of, texts, error, line })
}

/// The texts of an object, under whichever name.
fn captions(path: &Path, line: usize, value: &Value) -> Result<Vec<String>, EvalError> {
    let wrong = || EvalError::line(path, line, "there is no caption that is a text");
    let word = |v: &Value| v.as_str().or_else(|| v["raw"].as_str()).map(str::to_owned).ok_or_else(wrong);
    if let Some(list) = ["references", "refs", "captions", "sentences"].iter().find_map(|name| value[*name].as_array())
    {
        return list.iter().map(word).collect();
    }
    word(&value["caption"]).map(|text| vec![text])
}

/// The lines in which the objects of lists begin: of the outermost list, or of those under a key of the outermost object.
fn starts(text: &str) -> Vec<(Option<String>, usize)> {
    let (mut out, mut line, mut key, mut word) = (Vec::new(), 1, None, String::new());
    let mut open: Vec<char> = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        line += usize::from(c == '\n');
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            if quoted && open.len() == 1 {
                word.push(c);
            }
            continue;
        }
        match c {
            '"' => {
                quoted = true;
                if open.len() == 1 {
                    word.clear();
                }
            }
            ':' if open.len() == 1 => key = Some(word.clone()),
            '[' => open.push(c),
            '{' => {
                match open[..] {
                    ['['] => out.push((None, line)),
                    ['{', '['] => out.push((key.clone(), line)),
                    _ => {}
                }
                open.push(c);
            }
            ']' | '}' => drop(open.pop()),
            _ => {}
        }
    }
    out
}
