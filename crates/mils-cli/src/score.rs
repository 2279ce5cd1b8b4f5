//! `mils score`: how well texts describe pictures, videos and sounds.
//!
//! Texts are embedded once, some at a time, and forgotten: of each file only its cosines are kept, since a softmax
//! wants all of them, and of its best texts the words.

use crate::args::{ScoreArgs, ScoreFormat};
use crate::inputs::{Ahead, Files, Texts, leading};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::model::Model;
use crate::progress::Progress;
use crate::show::one_line;
use anyhow::{Context, Result, bail};
use mils_encoder::{Calibration, Embeddings};
use serde::Serialize;
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the command.
///
/// # Errors
/// If the model cannot be loaded, a text not be read or embedded, or the result not be printed. Files that fail
/// are said on stderr and in the exit code.
pub fn run(args: &ScoreArgs) -> Result<ExitCode> {
    let cancel = on_ctrl_c()?;
    let mut progress = Progress::new(args.quiet, None);
    let result = score(args, &cancel, &mut progress);
    progress.finish();
    match result? {
        Some(true) => Ok(ExitCode::SUCCESS),
        Some(false) => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Whether all went well; `None` if it was interrupted.
fn score(args: &ScoreArgs, cancel: &AtomicBool, progress: &mut Progress) -> Result<Option<bool>> {
    let texts = Texts::open(&args.texts)?;
    let modality = leading(args.modality, &args.files);
    let Some(mut model) = Model::open(&args.model, modality, progress, cancel)? else { return Ok(None) };
    let mut files = Ahead::of(Files::new(args.files.clone(), args.modality, model.senses()));
    let mut scored = Vec::new();
    while let Some(batch) = files.next(cancel)? {
        let (names, media): (Vec<_>, Vec<_>) = batch.into_iter().map(|read| (read.file, read.media)).unzip();
        for (file, row) in names.iter().zip(model.media(media)?) {
            let most = args.top.map_or(usize::MAX, |n| n as usize);
            if let Err(error) = &row {
                progress.tell(&format!("mils: {}: {}", file.display(), one_line(error)));
            }
            scored.push(Scored::new(file.display().to_string(), row, most, model.encoder.dim())?);
        }
        progress.say(&format!("{} of {} files embedded", scored.len(), args.files.len()));
    }
    let read = scored.iter().filter(|s| s.row.is_ok()).count();
    // Texts have nothing to be compared with where no file could be read.
    let seen = if read > 0 { compare(texts, &mut model, &mut scored, cancel, progress)? } else { 0 };
    if cancel.load(Ordering::SeqCst) {
        return Ok(None);
    }
    if read > 0 && seen == 0 {
        bail!("there are no texts to score: what --texts-from names is empty");
    }
    progress.finish();
    print(args, &model, scored, seen)?;
    Ok(Some(read == args.files.len()))
}

/// Compares every text with every file; gives the number of texts.
fn compare(
    texts: Texts,
    model: &mut Model,
    scored: &mut [Scored],
    cancel: &AtomicBool,
    progress: &mut Progress,
) -> Result<usize> {
    let mut texts = Ahead::of(texts);
    let mut seen = 0;
    progress.begin();
    while let Some(batch) = texts.next(cancel)? {
        let batch = batch?;
        let rows = model.encoder.embed_texts(&batch)?;
        for (i, text) in batch.iter().enumerate() {
            // Shared by the files that keep it.
            let mut shared: Option<Arc<str>> = None;
            for one in &mut *scored {
                one.add(&rows, i, seen + i, &mut || shared.get_or_insert_with(|| Arc::from(&text[..])).clone());
            }
        }
        seen += batch.len();
        progress.count(batch.len(), "texts scored");
    }
    Ok(seen)
}

/// A file and what is known of texts with it.
struct Scored {
    file: String,
    /// Its embedding, or why there is none.
    row: Result<Embeddings>,
    /// With all texts, in their order.
    cosines: Vec<f32>,
    best: Best,
}

impl Scored {
    fn new(file: String, row: Result<Vec<f32>>, most: usize, dim: usize) -> Result<Self> {
        let row = match row {
            Ok(row) => Ok(Embeddings::new(dim, row)?),
            Err(error) => Err(error),
        };
        Ok(Self { file, row, cosines: Vec::new(), best: Best { most, kept: BinaryHeap::new() } })
    }

    fn add(&mut self, rows: &Embeddings, row: usize, index: usize, text: &mut dyn FnMut() -> Arc<str>) {
        let Ok(own) = &self.row else { return };
        let cosine = own.dot(0, rows, row);
        self.cosines.push(cosine);
        self.best.offer(cosine, index, text);
    }
}

/// A text among the best, in the order of what is better: a higher cosine, then an earlier place.
struct Kept {
    cosine: f32,
    index: Reverse<usize>,
    text: Arc<str>,
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.cosine.total_cmp(&other.cosine).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Kept {}

/// The best texts so far; the worst of them on top.
struct Best {
    most: usize,
    kept: BinaryHeap<Reverse<Kept>>,
}

impl Best {
    /// Of texts that come one after the other: a later one must be better to take a place.
    fn offer(&mut self, cosine: f32, index: usize, text: &mut dyn FnMut() -> Arc<str>) {
        if self.kept.len() >= self.most {
            if self.kept.peek().is_none_or(|Reverse(worst)| cosine.total_cmp(&worst.cosine).is_le()) {
                return;
            }
            self.kept.pop();
        }
        self.kept.push(Reverse(Kept { cosine, index: Reverse(index), text: text() }));
    }

    /// Best first.
    fn sorted(self) -> Vec<Kept> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(kept)| kept).collect()
    }
}

/// A text with one file.
#[derive(Serialize)]
struct ScoredText {
    #[serde(serialize_with = "as_str")]
    text: Arc<str>,
    /// Its place among all texts.
    index: usize,
    cosine: f32,
    score: f32,
}

fn as_str<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Prints files in their order.
fn print(args: &ScoreArgs, model: &Model, scored: Vec<Scored>, seen: usize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let many = scored.len() > 1;
    let mut between = "";
    for Scored { file, row, cosines, best } in scored {
        let line = match row {
            Ok(_) => {
                let scores = model.encoder.scores(&cosines);
                let text = |Kept { cosine, index: Reverse(index), text }| ScoredText {
                    text,
                    index,
                    cosine,
                    score: scores.get(index).copied().unwrap_or_default(),
                };
                let results: Vec<ScoredText> = best.sorted().into_iter().map(text).collect();
                match args.format {
                    ScoreFormat::Json => result(&file, model, seen, &results)?,
                    ScoreFormat::Text if many => {
                        format!("{}{file}\n{}", std::mem::replace(&mut between, "\n"), table(&results))
                    }
                    ScoreFormat::Text => table(&results),
                }
            }
            Err(error) if args.format == ScoreFormat::Json => {
                json!({"file": file, "error": one_line(&error)}).to_string()
            }
            // That was said when it was read.
            Err(_) => continue,
        };
        writeln!(out, "{line}").context("cannot print the result")?;
    }
    out.flush().context("cannot print the result")
}

/// What there is to say of a picture in JSON.
#[derive(Serialize)]
struct ImageResult<'a> {
    file: &'a str,
    model: &'a str,
    calibration: &'static str,
    logit_scale: f32,
    logit_bias: f32,
    /// How many were compared; with --top more than results.
    texts: usize,
    /// Best first.
    results: &'a [ScoredText],
}

fn result(file: &str, model: &Model, texts: usize, results: &[ScoredText]) -> Result<String> {
    let encoder = &model.encoder;
    let calibration = match encoder.calibration() {
        Calibration::Softmax => "softmax",
        Calibration::Sigmoid => "sigmoid",
    };
    let (logit_scale, logit_bias) = (encoder.logit_scale(), encoder.logit_bias());
    let model = &model.name;
    Ok(serde_json::to_string(&ImageResult { file, model, calibration, logit_scale, logit_bias, texts, results })?)
}

/// One text a line.
fn table(results: &[ScoredText]) -> String {
    let mut out = "  score   cosine  text".to_owned();
    for ScoredText { text, cosine, score, .. } in results {
        out += &format!("\n{:>7}  {cosine:>7.4}  {}", short(*score), printable(text));
    }
    out
}

/// Four digits, also of what is very small: a sigmoid's scores often are.
fn short(score: f32) -> String {
    if score == 0.0 || score >= 0.0001 { format!("{score:.4}") } else { format!("{score:.1e}") }
}

/// On one line, and without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(most: usize, cosines: &[f32]) -> Vec<usize> {
        let mut best = Best { most, kept: BinaryHeap::new() };
        for (i, &cosine) in cosines.iter().enumerate() {
            best.offer(cosine, i, &mut || i.to_string().into());
        }
        best.sorted().into_iter().map(|kept| kept.index.0).collect()
    }

    #[test]
    fn the_best_come_first_and_equals_stay_in_order() {
        let cosines = [0.1, 0.5, -0.2, 0.5, 0.9, 0.1, 0.5];
        assert_eq!(best(usize::MAX, &cosines), [4, 1, 3, 6, 0, 5, 2]);
        for most in 1..=cosines.len() {
            assert_eq!(best(most, &cosines), best(usize::MAX, &cosines)[..most], "the best {most}");
        }
        assert_eq!(best(3, &[]), [0_usize; 0]);
    }

    #[test]
    fn tables_have_one_line_a_text() {
        let text = |text: &str, score| ScoredText { text: text.into(), index: 0, cosine: -0.125, score };
        let table = table(&[text("a\nb\u{1b}[2J", 0.75), text("c", 3.21e-7), text("", 0.0)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "  score   cosine  text");
        assert_eq!(lines[1], " 0.7500  -0.1250  a\\nb\\u{1b}[2J");
        assert_eq!(&lines[2][..8], " 3.2e-7 ");
        assert_eq!(lines.len(), 4);
    }
}
