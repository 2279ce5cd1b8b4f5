//! The command line.

pub mod generator;
pub mod output;
pub mod run;

use self::output::OutputArgs;
use self::run::LoopArgs;
use crate::backend::{BackendChoice, MathChoice};
use crate::bank::BankCommand;
use crate::blend::BlendArgs;
use crate::edit::EditArgs;
use crate::eval::EvalCommand;
use crate::generate::GenerateArgs;
use crate::media::ModalityChoice;
use crate::models::ModelsCommand;
use crate::optimize::OptimizeArgs;
use crate::report::ReportArgs;
use crate::sources::Shard;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mils_encoder::Precision;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Describes pictures, videos and sounds without training: a language model proposes captions, an encoder as CLIP or CLAP
/// scores them, and the best go back to the language model until nothing better comes.
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
    /// Caption images, videos and sounds
    Caption(CaptionArgs),
    /// Search for the prompt whose pictures show best what is asked for
    Generate(Box<GenerateArgs>),
    /// Make one picture of pictures, videos, sounds and texts
    Blend(Box<BlendArgs>),
    /// Search for the text that a scorer of your own finds best
    Optimize(Box<OptimizeArgs>),
    /// Give a picture the style of another, by a search for the edit instruction
    Edit(Box<EditArgs>),
    /// Embed texts, images, videos and sounds
    Embed(EmbedArgs),
    /// Score texts by how well they describe images, videos and sounds
    Score(ScoreArgs),
    /// Show what runs of `mils caption` did, from their traces, as HTML
    Report(ReportArgs),
    /// Measure captions: BLEU, ROUGE-L, CIDEr, METEOR, SPICE and more
    #[command(subcommand)]
    Eval(EvalCommand),
    /// List the GPUs, and say which one is used
    Devices(DevicesArgs),
    /// Make initial sets: the texts that runs start from
    #[command(subcommand)]
    Bank(BankCommand),
    /// List, download, check, convert and remove models
    #[command(subcommand)]
    Models(ModelsCommand),
}

/// Where and how the encoder runs: of every command that has one.
#[derive(Clone, Copy, Debug, Args)]
pub struct EncoderArgs {
    /// Where the encoder runs; auto takes a GPU if there is a real one (see `mils devices`)
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// How its matrices are held: auto is as the checkpoint has them, f16 and bf16 halve the memory of an f32 one.
    /// Whatever this is, --math says how it computes
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,

    /// How it computes; `mils devices` says which devices are faster with `fast`
    #[arg(long, value_enum, default_value_t = MathChoice::Exact)]
    pub math: MathChoice,
}

/// What weights are held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// As they are stored
    Auto,
    /// 32 bits
    F32,
    /// IEEE half precision
    F16,
    /// The upper half of an f32
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Auto => Self::AsStored,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

/// Which encoder: of the commands that are about one alone.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Encoder: a checkpoint folder, a pack (one of its scorers), ORG/NAME or ORG/NAME@REVISION in the hub cache
    #[arg(long, value_name = "DIR|ID", value_parser = NonEmptyStringValueParser::new())]
    pub model: String,

    /// Where and how it runs.
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

/// The texts of a command.
#[derive(Clone, Debug, Args)]
pub struct TextArgs {
    /// A text; can be given several times
    #[arg(long = "text", value_name = "TEXT")]
    pub texts: Vec<String>,

    /// A file of texts, or `-` for standard input: UTF-8, one a line; a blank line is a text too, the empty one
    #[arg(long, value_name = "FILE|-")]
    pub texts_from: Option<PathBuf>,
}

impl TextArgs {
    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.texts_from.is_none()
    }
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
  mils caption clip.mp4 rain.ogg              (what a file is, its content tells)
  mils caption concert.mp4 --modality sound   (its sound track)
  mils caption photos/ -r -o captions.jsonl   (a folder; killed at any moment, the same command goes on)
  mils caption photos/ -r -o captions.csv     (or .parquet)
  mils caption photos/ -r --sidecar txt,xmp   (photo.txt and photo.jpg.xmp beside each photo.jpg)
  mils caption photos/ -r --embed-xmp --if-exists append
                                              (into the pictures, after what their descriptions say)
  mils caption photos/ -r -o captions.jsonl --summary night.json
                                              (and how many failed, how fast it was, what it took)
  mils caption @list.txt -o 1.jsonl --shard 1/4
                                              (a quarter of the files, the others on other machines)
  mils caption --steps 4 --seed 7 *.png
  mils caption --in-flight 8 *.jpg            (eight at a time, printed in the order of the files)
  mils caption photo.jpg --format json | jq -r .caption
  mils caption photo.jpg --report run.html --trace run.jsonl
  mils caption photo.jpg --pack ~/my-pack     (a folder with a pack.toml)
  mils caption photo.jpg --initial my.txt     (other texts to start from, see `mils bank`)
  mils caption *.jpg --generator http://localhost:8080/v1
                                              (another language model; a key is read from MILS_API_KEY
                                              or OPENAI_API_KEY)

Without --pack the largest pack is taken that is installed and fits this machine; where none is, a
download is offered. --pack demo is bundled, and knows nothing but the worlds of its samples. MILS_PACK
sets a pack for good. The embeddings of initial texts are kept in MILS_CACHE (a folder, or `off`), at most
MILS_CACHE_SIZE bytes of them (as 500MB or 4GB, which is the default).

The caption goes to stdout, everything else to stderr. A file that fails does not stop the others: it
is said, and with --format json and in an output there is {\"file\": …, \"error\": …} of it. It is tried
again when the same command is.

The columns of a table are file, modality, caption, score, steps, stopped_by, scorer, generator, pack,
seconds and error. GIF, TIFF, BMP, PNM, videos and sounds have no place for --embed-xmp and are left as
they are. A caption that is in a sidecar or description already is not added to it again.

Exit codes: 0 done, 1 a file or a model failed, 2 wrong usage, 130 interrupted (the best so far is printed).";

/// `mils caption`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CaptionArgs {
    /// Images, videos and sounds, told by their content: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM; what FFmpeg reads of
    /// videos; WAV, FLAC, MP3, AAC, Vorbis, Opus and what else FFmpeg reads of sounds. A folder stands for those in it, a
    /// pattern ('*.jpg', in quotes) for what fits, @LIST for the paths in a file, one a line, and - for those on standard
    /// input
    #[arg(required = true, value_name = "FILE|DIR|@LIST|-")]
    pub files: Vec<PathBuf>,

    /// Look through the folders in folders too
    #[arg(long, short)]
    pub recursive: bool,

    /// Only the files of this share, from 1/N to N/N: for several machines
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Where results go.
    #[command(flatten)]
    pub results: OutputArgs,

    /// What the files are taken for
    #[arg(long, value_enum, default_value_t = ModalityChoice::Auto)]
    pub modality: ModalityChoice,

    /// Models and settings.
    #[command(flatten)]
    pub run: LoopArgs,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write everything that was said and scored, as JSON Lines
    #[arg(long, value_name = "FILE.jsonl")]
    pub trace: Option<PathBuf>,

    /// Write a report of the run: one HTML file, or a folder (with a / at its end) of a page a file; see `mils report`,
    /// which makes one of a trace
    #[arg(long, value_name = "FILE.html|DIR/")]
    pub report: Option<PathBuf>,

    /// Write what became of all files, as a JSON object: how many, how fast, what it took
    #[arg(long, value_name = "FILE.json")]
    pub summary: Option<PathBuf>,

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
        self.results.check()?;
        self.check_inputs(&self.files)?;
        let outputs = self.outputs();
        for (i, (flag, output)) in outputs.iter().enumerate() {
            if let Some((other, _)) = outputs[..i].iter().find(|(_, o)| same_file(o, output)) {
                return Err(format!("{other} and {flag} are the same file: {}", output.display()));
            }
        }
        Ok(())
    }

    /// No output may go over an input.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check_inputs(&self, files: &[PathBuf]) -> Result<(), String> {
        for (flag, output) in self.outputs() {
            if let Some(file) = files.iter().find(|f| same_file(f, output)) {
                return Err(format!("{flag} would overwrite the file {}", file.display()));
            }
        }
        Ok(())
    }

    pub(crate) fn outputs(&self) -> Vec<(&'static str, &PathBuf)> {
        let all = [
            ("--output", &self.results.output),
            ("--trace", &self.trace),
            ("--report", &self.report),
            ("--summary", &self.summary),
        ];
        all.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))).collect()
    }
}

const EMBED_EXAMPLES: &str = "\
Examples:
  mils embed --model demo --text 'a red car' --text 'a blue car'
  mils embed --model openai/clip-vit-base-patch32 *.jpg *.mp4 --format npy -o images.npy
  mils embed --model laion/clap-htsat-unfused *.flac --text rain
  mils embed --model ~/siglip2 --texts-from texts.txt --format safetensors -o texts.safetensors
  make-texts | mils embed --model demo --texts-from - | jq -c .embedding

One row an input, in this order, wherever they stand on the command line: the texts of --text, the
lines of --texts-from, the FILEs. Embeddings have length 1: a cosine is a dot product.

  json         JSON Lines: {\"text\": …, \"embedding\": […]} or {\"file\": …, \"embedding\": […]};
               an input that fails is {\"file\": …, \"error\": …}, and the others go on
  npy          float32, rows x dim, for numpy.load
  safetensors  the tensor `embeddings`, F32, rows x dim; `model` and `dim` in the metadata

An encoder of pictures embeds videos too: ViCLIP as it was trained, others by the mean of eight frames.
A pack has an encoder for each modality: that of the first FILE is taken, without one that of images.

In npy and safetensors every row is an input's: where one fails, nothing is written. A file is
written beside its place and put there at the end. Texts are read as they are needed, however many.
Nothing is downloaded: an ID is looked up in the hub cache that is shared with Python (HF_HUB_CACHE,
HF_HOME), into which `mils models get ORG/NAME` fetches it.

Exit codes: 0 done, 1 an input or the model failed, 2 wrong usage, 130 interrupted.";

/// How embeddings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmbedFormat {
    /// One JSON object a line
    Json,
    /// NumPy's array file
    Npy,
    /// A safetensors file
    Safetensors,
}

/// `mils embed`.
#[derive(Debug, Args)]
#[command(after_help = EMBED_EXAMPLES)]
pub struct EmbedArgs {
    /// Images, videos and sounds, told by their content: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM; what FFmpeg reads of
    /// videos; WAV, FLAC, MP3, AAC, Vorbis, Opus and what else FFmpeg reads of sounds
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// What the files are taken for
    #[arg(long, value_enum, default_value_t = ModalityChoice::Auto)]
    pub modality: ModalityChoice,

    /// The encoder.
    #[command(flatten)]
    pub model: ModelArgs,

    /// The texts.
    #[command(flatten)]
    pub texts: TextArgs,

    /// How embeddings are written
    #[arg(long, value_enum, default_value_t = EmbedFormat::Json)]
    pub format: EmbedFormat,

    /// Where to, instead of standard output
    #[arg(long, short, value_name = "OUT")]
    pub output: Option<PathBuf>,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl EmbedArgs {
    /// As [`CaptionArgs::check`].
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.files.is_empty() && self.texts.is_empty() {
            return Err("there is nothing to embed; name FILEs, or give --text or --texts-from".into());
        }
        no_standard_input(&self.files)?;
        let Some(output) = self.output() else {
            return if self.format != EmbedFormat::Json && std::io::stdout().is_terminal() {
                Err("npy and safetensors are not for a terminal; name a file with --output".into())
            } else {
                Ok(())
            };
        };
        match self.files.iter().chain(&self.texts.texts_from).find(|f| same_file(f, output)) {
            Some(file) => Err(format!("--output would overwrite the input {}", file.display())),
            None => Ok(()),
        }
    }

    /// The file to write to, where it is not standard output.
    pub fn output(&self) -> Option<&Path> {
        self.output.as_deref().filter(|o| o.as_os_str() != "-")
    }
}

const SCORE_EXAMPLES: &str = "\
Examples:
  mils score --model demo photo.png --text 'a red car' --text 'a blue car'
  mils score --model ~/siglip2 *.jpg --texts-from captions.txt --top 5
  mils score --model openai/clip-vit-base-patch32 *.jpg --texts-from labels.txt --format json
  mils score --model laion/clap-htsat-unfused rain.ogg --text rain --text 'a crowd'

Texts are sorted best first; those that score the same stay in their order: the texts of --text,
then the lines of --texts-from. The cosine, -1 to 1, is of the two embeddings. The score, 0 to 1, is
what the model was trained to make of it:

  softmax  (CLIP, CLAP) probabilities that sum to 1 over all texts given, also over those that --top
           leaves out: whether a text fits better than the others
  sigmoid  (SigLIP) a probability of each text by itself: whether it fits

A file that cannot be read does not stop the others; with --format json it has a line
{\"file\": …, \"error\": …}. Nothing is downloaded: an ID is looked up in the hub cache that is
shared with Python (HF_HUB_CACHE, HF_HOME), into which `mils models get ORG/NAME` fetches it.

Exit codes: 0 done, 1 a file or the model failed, 2 wrong usage, 130 interrupted.";

/// How scores are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScoreFormat {
    /// A table for each file
    Text,
    /// One JSON object a line for each file: file, model, calibration and results
    Json,
}

/// `mils score`.
#[derive(Debug, Args)]
#[command(after_help = SCORE_EXAMPLES)]
pub struct ScoreArgs {
    /// Images, videos and sounds, told by their content: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM; what FFmpeg reads of
    /// videos; WAV, FLAC, MP3, AAC, Vorbis, Opus and what else FFmpeg reads of sounds
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// What the files are taken for
    #[arg(long, value_enum, default_value_t = ModalityChoice::Auto)]
    pub modality: ModalityChoice,

    /// The encoder.
    #[command(flatten)]
    pub model: ModelArgs,

    /// The texts.
    #[command(flatten)]
    pub texts: TextArgs,

    /// Print the best N texts of each file only
    #[arg(long, value_name = "N", value_parser = number(1..=i64::from(u32::MAX)), allow_negative_numbers = true)]
    pub top: Option<u32>,

    /// How scores are printed
    #[arg(long, value_enum, default_value_t = ScoreFormat::Text)]
    pub format: ScoreFormat,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl ScoreArgs {
    /// As [`CaptionArgs::check`].
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.texts.is_empty() {
            return Err("there are no texts to score; give --text or --texts-from".into());
        }
        no_standard_input(&self.files)
    }
}

const DEVICES_EXAMPLES: &str = "\
Examples:
  mils devices
  mils devices --format json | jq .auto
  WGPU_ADAPTER_NAME=intel mils devices   (only adapters with this in their name)
  WGPU_BACKEND=vulkan mils devices       (only this API: vulkan, metal or dx12, with commas)

Adapters are listed in the order in which they are tried, and each is tried. The variables hold for
every command that has --backend.

Exit codes: 0 done, also without a GPU; 1 the result cannot be printed; 2 wrong usage.";

/// How devices are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DevicesFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// `mils devices`.
#[derive(Debug, Args)]
#[command(after_help = DEVICES_EXAMPLES)]
pub struct DevicesArgs {
    /// How devices are printed
    #[arg(long, value_enum, default_value_t = DevicesFormat::Text)]
    pub format: DevicesFormat,
}

fn no_standard_input(files: &[PathBuf]) -> Result<(), String> {
    match files.iter().any(|f| f.as_os_str() == "-") {
        true => Err("files are not read from standard input; name them (`./-` for a file of that name)".into()),
        false => Ok(()),
    }
}

/// Whether two paths lead to one file that writing to one would change under the other. Devices have no content to
/// lose.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
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

pub(crate) fn number(range: std::ops::RangeInclusive<i64>) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(range)
}

pub(crate) fn temperature(text: &str) -> Result<f32, String> {
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
