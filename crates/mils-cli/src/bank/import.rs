//! `mils bank import`: a set out of other people's caption files.

use super::BankFormat;
use super::build::summary;
use crate::args::{number, same_file};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::output::Output;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use mils_bank::import::{Kind, Options, read};
use mils_bank::{Cleaner, Limits};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::io::{Write, stderr, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const IMPORT_EXAMPLES: &str = "\
Examples:
  mils bank import captions_train2017.json -o coco.txt
  mils bank import dataset_flickr30k.json -o flickr.txt --limit 50000 --shuffle 1
  mils bank import clotho_captions_*.csv audiocaps/*.csv -o sounds.txt
  mils bank import pairs.tsv --column 1 --no-header -o alt.txt
  mils bank import notes.jsonl --column meta.alt -o - | head
  mils caption photo.jpg --initial coco.txt

What a file is, its content tells; --kind says otherwise:

  text   one caption a line
  csv    a line of column names; the captions are in caption, caption_1 and so on, text, sentence, …
  tsv    the same with tabs
  jsonl  a JSON object or string a line, with such a field
  json   COCO's captions (annotations[].caption), Karpathy's splits (images[].sentences[].raw), an
         array of strings, or of objects with such a field

Outer spaces are taken off, inner ones made single. What is empty, too long, or there already but for
case, spaces and punctuation is counted and left out. Anything else that is wrong with a file is an
error with its line, and nothing is written.

Mind the licence of what you import: captions have authors.

Exit codes: 0 done, 1 a file cannot be read or the set not be written, 2 wrong usage, 130 interrupted.";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportKind {
    /// One caption a line
    Text,
    /// Comma-separated values
    Csv,
    /// Tab-separated values
    Tsv,
    /// A JSON value a line
    Jsonl,
    /// One JSON value
    Json,
}

impl From<ImportKind> for Kind {
    fn from(kind: ImportKind) -> Self {
        match kind {
            ImportKind::Text => Self::Text,
            ImportKind::Csv => Self::Csv,
            ImportKind::Tsv => Self::Tsv,
            ImportKind::Jsonl => Self::JsonLines,
            ImportKind::Json => Self::Json,
        }
    }
}

/// `mils bank import`.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub struct ImportArgs {
    /// Files with captions, or `-` for standard input
    #[arg(required = true, value_name = "FILE|-")]
    pub files: Vec<PathBuf>,

    /// Where to write the set, or `-` for standard output
    #[arg(long, short, value_name = "OUT.txt|-")]
    pub output: PathBuf,

    /// What the files are [default: told by the content of each]
    #[arg(long, value_enum)]
    pub kind: Option<ImportKind>,

    /// Column or field with the captions: its name, of a table also its number, of JSON also a path as a.b [default: what
    /// captions are usually called]
    #[arg(long, value_name = "NAME|N", value_parser = NonEmptyStringValueParser::new())]
    pub column: Option<String>,

    /// Tables have no line of column names
    #[arg(long)]
    pub no_header: bool,

    /// Take so many texts only
    #[arg(long, value_name = "N", value_parser = number(1..=i64::from(u32::MAX)), allow_negative_numbers = true)]
    pub limit: Option<u32>,

    /// Put the texts in a random order, by this seed; with --limit it is a random choice
    #[arg(long, value_name = "SEED")]
    pub shuffle: Option<u64>,

    /// Leave out texts of more bytes (UTF-8)
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = number(1..=1_000_000), allow_negative_numbers = true)]
    pub max_bytes: u32,

    /// Leave out texts of more words; encoders of CLIP's kind read about 50
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1..=100_000), allow_negative_numbers = true)]
    pub max_words: u32,

    /// How what was done is printed
    #[arg(long, value_enum, default_value_t = BankFormat::Text)]
    pub format: BankFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl ImportArgs {
    /// No output may go over an input, and standard input has one reader.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
            return Err("standard input can be read once".into());
        }
        match self.target().and_then(|output| self.files.iter().find(|file| same_file(file, output))) {
            Some(file) => Err(format!("--output would overwrite the file {}", file.display())),
            None => Ok(()),
        }
    }

    fn target(&self) -> Option<&Path> {
        Some(&*self.output).filter(|output| output.as_os_str() != "-")
    }
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or makes no sense, or the set cannot be written.
pub(super) fn run(args: &ImportArgs) -> Result<ExitCode> {
    let cancel = on_ctrl_c()?;
    let mut progress = Progress::new(args.quiet, None);
    let options = Options { kind: args.kind.map(Kind::from), column: args.column.clone(), no_header: args.no_header };
    let limits = Limits { bytes: args.max_bytes as usize, words: args.max_words as usize };
    let limit = args.limit.map_or(u64::MAX, u64::from);
    let mut cleaner = Cleaner::new(limits);
    let mut output = Output::open(args.target(), false)?;
    // Only what is to be shuffled is held.
    let mut held: Vec<String> = Vec::new();
    let (mut failed, mut kinds) = (None, Vec::new());
    progress.begin();
    for file in &args.files {
        let kind = read(file, &options, &mut |text| {
            let taken = match cleaner.take(text) {
                Some(text) if args.shuffle.is_some() => {
                    held.push(text);
                    Ok(())
                }
                Some(text) => output.write(format!("{text}\n").as_bytes()),
                None => Ok(()),
            };
            failed = taken.err();
            let counts = cleaner.counts();
            if counts.read.is_multiple_of(1000) {
                progress.count(1000, "texts");
            }
            let full = args.shuffle.is_none() && counts.kept >= limit;
            if failed.is_some() || full || cancel.load(Ordering::SeqCst) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(error) = failed.take() {
            return Err(error);
        }
        kinds.push(json!({"file": file.display().to_string(), "kind": name(kind)}));
        if cancel.load(Ordering::SeqCst) {
            progress.finish();
            progress.note("mils: interrupted; nothing was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    progress.finish();
    let counts = cleaner.counts();
    if counts.kept == 0 {
        bail!("there are no texts in what was named: {} were read, and none can be used", counts.read);
    }
    let mut written = counts.kept;
    if let Some(seed) = args.shuffle {
        held.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        held.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        written = held.len() as u64;
        for text in &held {
            output.write(format!("{text}\n").as_bytes())?;
        }
    }
    output.finish()?;
    report(args, counts, written, &kinds)?;
    Ok(ExitCode::SUCCESS)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Csv => "csv",
        Kind::Tsv => "tsv",
        Kind::JsonLines => "jsonl",
        Kind::Json => "json",
    }
}

/// Says what was done: beside the set where that goes to standard output.
fn report(args: &ImportArgs, counts: mils_bank::Counts, written: u64, kinds: &[Value]) -> Result<()> {
    let output = args.output.display().to_string();
    let text = match args.format {
        BankFormat::Json => json!({
            "output": output, "texts": written, "read": counts.read, "duplicates": counts.duplicates,
            "too_long": counts.too_long, "empty": counts.empty, "files": kinds,
        })
        .to_string(),
        BankFormat::Text => summary(&output, mils_bank::Counts { kept: written, ..counts }),
    };
    let mut out: Box<dyn Write> = if args.target().is_some() {
        Box::new(stdout().lock())
    } else if args.quiet {
        return Ok(());
    } else {
        Box::new(stderr().lock())
    };
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the result")
}
