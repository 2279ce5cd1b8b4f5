//! `mils generate`: a prompt in, pictures out, and the prompt that made the best of them.
//!
//! The loop is that of captions, run the other way: the texts are prompts, the language model writes new ones, a renderer
//! draws each, and encoders compare the pictures with what was asked for ([`studio`]).

pub mod args;
mod folder;
pub mod judge;
pub mod painter;
pub mod renderer;
pub(crate) mod search;
pub mod studio;

pub use args::GenerateArgs;

use anyhow::{Context, Result, bail};
use search::Search;
use std::path::Path;
use std::process::ExitCode;

/// Runs the command.
///
/// # Errors
/// If a model or the renderer fails, or the folder cannot be written.
pub fn run(args: &GenerateArgs) -> Result<ExitCode> {
    Search::run(&wish(&args.prompt)?, &args.output, &args.drawing, &args.search)
}

/// The prompt that was given, on one line, as the loop has texts.
fn wish(given: &str) -> Result<String> {
    let text = match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))?,
        None => given.to_owned(),
    };
    text_of(&text)
}

/// A text for a renderer on one line.
pub(crate) fn text_of(given: &str) -> Result<String> {
    /// A longer one is no prompt.
    const MOST: usize = 10_000;
    let text = given.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.len() {
        0 => bail!("there is no prompt; say what the picture should show"),
        1..=MOST => Ok(text),
        length => bail!("the prompt has {length} bytes; at most {MOST} are taken"),
    }
}

#[cfg(test)]
mod tests {
    use super::wish;

    #[test]
    fn prompts_are_one_line() {
        assert_eq!(wish("  a red\n car ").unwrap(), "a red car");
        assert!(wish(" \n").is_err() && wish("@/nowhere/prompt.txt").is_err());
        assert!(wish(&"x".repeat(20_000)).is_err());
    }
}
