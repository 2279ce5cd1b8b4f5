//! Where `mils caption` puts its results, beside standard output: a file, sidecars, and the files themselves.

use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// How an output file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// JSON Lines: all that is known of each file
    Jsonl,
    /// A table with a row for each file
    Csv,
    /// The same table as one Parquet file, which is written at the end; until then its rows are in OUT.parquet.jsonl
    Parquet,
}

/// What is written beside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Sidecar {
    /// The caption alone
    Txt,
    /// All that is known of the file, as with --format json
    Json,
    /// XMP with the caption as dc:description; what else is in it stays
    Xmp,
}

impl Sidecar {
    /// Its extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Xmp => "xmp",
        }
    }
}

/// How sidecars are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SidecarName {
    /// photo.txt, as those who train on pictures expect it
    Stem,
    /// photo.jpg.txt, which no photo.png wants too
    Full,
}

/// What becomes of a description that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IfExists {
    /// It stays, and a file that has all that is asked for is not captioned
    #[default]
    Skip,
    /// The caption takes its place
    Overwrite,
    /// The caption comes after it, on a line of its own; in JSON, results become a list
    Append,
    /// The caption comes before it
    Prepend,
}

/// Where results go.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Write results into this file, each as soon as it is there, instead of to standard output. Files whose results are
    /// in it are not captioned again, and those that a run was killed over go on after their last step. A file that
    /// failed has its error there, and is tried again
    #[arg(long, short, value_name = "OUT.jsonl|csv|parquet")]
    pub output: Option<PathBuf>,

    /// How it is written [default: what its name ends with, else jsonl]
    #[arg(long, value_enum, requires = "output")]
    pub output_format: Option<OutputFormat>,

    /// Begin the output anew, whatever is in it
    #[arg(long, requires = "output")]
    pub overwrite: bool,

    /// Write captions beside the files, too: photo.txt, photo.json, photo.jpg.xmp; several with commas, or given several times
    #[arg(long, value_enum, value_delimiter = ',')]
    pub sidecar: Vec<Sidecar>,

    /// How all of them are called: by the file's name without its extension (photo.txt), or by all of it (photo.jpg.txt).
    /// Without it, XMP is called as darktable and digiKam do it, and the others by the stem
    #[arg(long, value_enum, requires = "sidecar")]
    pub sidecar_name: Option<SidecarName>,

    /// Write captions into JPEG, PNG and WebP files, too, as dc:description in their XMP; the pictures stay as they are
    #[arg(long)]
    pub embed_xmp: bool,

    /// What becomes of sidecars and embedded descriptions that are there already [default: skip]
    #[arg(long, value_enum)]
    pub if_exists: Option<IfExists>,
}

impl OutputArgs {
    /// How the output is written.
    pub fn format(&self) -> OutputFormat {
        let ends = |with: &str| {
            let extension = self.output.as_deref().and_then(Path::extension);
            extension.is_some_and(|extension| extension.eq_ignore_ascii_case(with))
        };
        self.output_format.unwrap_or(if ends("csv") {
            OutputFormat::Csv
        } else if ends("parquet") {
            OutputFormat::Parquet
        } else {
            OutputFormat::Jsonl
        })
    }

    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.output.as_deref().is_some_and(|path| path.as_os_str() == "-") {
            return Err("--output is a file; without it results go to standard output (see --format)".into());
        }
        if self.if_exists.is_some() && self.sidecar.is_empty() && !self.embed_xmp {
            return Err("--if-exists is about --sidecar and --embed-xmp; give one of them".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_written_as_its_name_ends() {
        let of = |name: &str, given| {
            let output = Some(PathBuf::from(name));
            OutputArgs { output, output_format: given, ..OutputArgs::default() }.format()
        };
        assert_eq!(of("a.csv", None), OutputFormat::Csv);
        assert_eq!(of("a.PARQUET", None), OutputFormat::Parquet);
        assert_eq!(of("csv", None), OutputFormat::Jsonl);
        assert_eq!(of("a.csv", Some(OutputFormat::Jsonl)), OutputFormat::Jsonl);
    }
}
