//! The command line.

use crate::session::BackendChoice;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Describes pictures without training: a language model proposes captions, a CLIP model scores them, and the best
/// go back to the language model until nothing better comes.
#[derive(Debug, Parser)]
#[command(name = "mils", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Caption images
    Caption(CaptionArgs),
    /// List the model packs that can be named with --pack
    Packs,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The caption alone; with several files `path<TAB>caption`
    Text,
    /// One JSON object a line for each file; one that fails has `file` and `error` in it, and no `caption`
    Json,
}

const EXAMPLES: &str = "\
Examples:
  mils caption photo.jpg
  mils caption --steps 4 --seed 7 *.png
  mils caption photo.jpg --format json | jq -r .caption
  mils caption photo.jpg --report run.html --trace run.jsonl
  mils caption photo.jpg --pack ~/my-pack     (a folder with a pack.toml)

The caption goes to stdout, everything else to stderr. A file that fails does not stop the others.
With --format json a file that fails is {\"file\": …, \"error\": …}.
Exit codes: 0 done, 1 a file or a model failed, 2 wrong usage, 130 interrupted (the best so far is printed).";

/// `mils caption`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CaptionArgs {
    /// Images: JPEG, PNG, WebP, GIF, BMP, TIFF or PNM, told by their content
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Model pack: a name (see `mils packs`), or a folder with a pack.toml
    #[arg(long, value_name = "NAME|DIR", default_value = "demo")]
    pub pack: String,

    /// Most steps; 0 takes the best of the initial set [default: the pack's]
    #[arg(long, value_name = "N", value_parser = number(0..=10_000), allow_negative_numbers = true)]
    pub steps: Option<u32>,

    /// Texts that go back to the language model in each step [default: the pack's]
    #[arg(long, value_name = "K", value_parser = number(1..=10_000), allow_negative_numbers = true)]
    pub keep: Option<u32>,

    /// Texts asked for in each step [default: the pack's]
    #[arg(long, value_name = "N", value_parser = number(1..=100_000), allow_negative_numbers = true)]
    pub propose: Option<u32>,

    /// Sampling temperature of the language model, 0 to 10 [default: the pack's]
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,

    /// Seed; the same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Where the encoder runs; auto takes a GPU if there is a real one
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write everything that was said and scored, as JSON Lines
    #[arg(long, value_name = "FILE.jsonl")]
    pub trace: Option<PathBuf>,

    /// Write a report of the run, as one HTML file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,

    /// Print the score table of each step even when stderr is no terminal
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl CaptionArgs {
    /// What can only be told of several arguments together: no output may go over an input or another output.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.files.iter().any(|f| f.as_os_str() == "-") {
            return Err("pictures are not read from standard input; name files (`./-` for a file of that name)".into());
        }
        for (flag, output) in [("--trace", &self.trace), ("--report", &self.report)] {
            let Some(output) = output else { continue };
            if let Some(file) = self.files.iter().find(|f| same_file(f, output)) {
                return Err(format!("{flag} would overwrite the picture {}", file.display()));
            }
        }
        match (&self.trace, &self.report) {
            (Some(trace), Some(report)) if same_file(trace, report) => {
                Err(format!("--trace and --report are the same file: {}", report.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two paths lead to one file that writing to one would change under the other. Devices have no content to
/// lose.
fn same_file(a: &Path, b: &Path) -> bool {
    if std::fs::metadata(a).is_ok_and(|m| !m.is_file()) {
        return false;
    }
    match (real(a), real(b)) {
        (Some(a), Some(b)) => a == b || same_inode(&a, &b),
        _ => false,
    }
}

/// The path without links; of a file that is yet to be made, by its folder's.
fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok().or_else(|| {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        Some(std::fs::canonicalize(folder).ok()?.join(path.file_name()?))
    })
}

/// Hard links.
#[cfg(unix)]
fn same_inode(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some() && id(a) == id(b)
}

#[cfg(not(unix))]
fn same_inode(_: &Path, _: &Path) -> bool {
    false
}

fn number(range: std::ops::RangeInclusive<i64>) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(range)
}

fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=10.0).contains(&value) { Ok(value) } else { Err("expected 0 to 10".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["mils", "caption"]).is_err());
        assert!(Cli::try_parse_from(["mils", "caption", "x", "--keep", "0"]).is_err());
        assert!(Cli::try_parse_from(["mils", "caption", "x", "--temperature", "-1"]).is_err());
        assert!(Cli::try_parse_from(["mils", "caption", "x", "--temperature", "NaN"]).is_err());
    }
}
