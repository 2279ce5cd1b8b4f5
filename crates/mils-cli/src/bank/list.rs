//! `mils bank list`: the sets that can be named, and what is kept of their embeddings.

use super::BankFormat;
use crate::kept;
use crate::show::tell;
use anyhow::{Context, Result};
use clap::Args;
use mils_models::download::size;
use mils_models::known_banks;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

const LIST_EXAMPLES: &str = "\
Examples:
  mils bank list
  mils bank list --format json | jq '.sets[].texts'
  MILS_BANKS=~/sets mils bank list     (where sets are looked for first; several folders as in PATH)
  mils caption photo.jpg --initial image

A set is a text file NAME.txt with a text a line. image, video, sound and edit are the project's own,
drawn from its lists and patterns (models/banks). The embeddings of a set are computed once for each
encoder, and kept in the folder that is named last; it can be removed at any time. MILS_CACHE is
another folder for them, or `off`; MILS_CACHE_SIZE, as 500MB or 4GB, is how much they may take, of
which the least recently used goes first.

Exit codes: 0 done, 1 the list cannot be printed, 2 wrong usage.";

/// `mils bank list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = BankFormat::Text)]
    pub format: BankFormat,
}

/// Runs the command.
///
/// # Errors
/// If the list cannot be printed.
pub(super) fn run(args: &ListArgs) -> Result<ExitCode> {
    let sets: Vec<_> = known_banks().into_iter().map(|(name, path)| (name, count(&path), path)).collect();
    let store = kept::store(&mut |note| tell(&format!("mils: {note}")));
    let text = match args.format {
        BankFormat::Json => {
            let set = |(name, texts, path): &(String, std::io::Result<u64>, std::path::PathBuf)| {
                let problem = texts.as_ref().err().map(ToString::to_string);
                let texts = texts.as_ref().ok();
                json!({"name": name, "texts": texts, "path": path.display().to_string(), "problem": problem})
            };
            let sets: Vec<Value> = sets.iter().map(set).collect();
            let embeddings = store.as_ref().map(|store| {
                let usage = store.usage();
                let folder = store.folder().display().to_string();
                json!({"folder": folder, "files": usage.files, "bytes": usage.bytes, "most": store.most()})
            });
            json!({"sets": sets, "embeddings": embeddings}).to_string()
        }
        BankFormat::Text => {
            let line = |(name, texts, path): &(String, std::io::Result<u64>, std::path::PathBuf)| {
                let texts = match texts {
                    Ok(texts) => format!("{texts} texts"),
                    Err(error) => format!("cannot be read: {error}"),
                };
                format!("{name:<16}{texts:<16}{}", path.display())
            };
            let mut lines: Vec<String> = sets.iter().map(line).collect();
            lines.push(match &store {
                Some(store) => {
                    let usage = store.usage();
                    let (used, most) = (size(usage.bytes), size(store.most()));
                    format!(
                        "embeddings      {used} of at most {most} in {} files, {}",
                        usage.files,
                        store.folder().display()
                    )
                }
                None => "embeddings      are not kept".into(),
            });
            lines.join("\n")
        }
    };
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the list")?;
    Ok(ExitCode::SUCCESS)
}

/// Lines that are not blank.
fn count(path: &Path) -> std::io::Result<u64> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut texts) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(texts);
        }
        texts += u64::from(!line.trim_ascii().is_empty());
    }
}
