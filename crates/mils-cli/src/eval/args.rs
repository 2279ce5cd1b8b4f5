//! The arguments of `mils eval`.

use super::plot::PlotArgs;
use super::run::RunArgs;
use crate::args::EncoderArgs;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use mils_eval::evaluate::Mismatch;
use std::path::PathBuf;

/// What `mils eval` does.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Score captions against references
    Captions(CaptionsArgs),
    /// Tell whether one system's captions are better than another's
    Compare(CompareArgs),
    /// Caption a data set and score it as papers do
    Run(Box<RunArgs>),
    /// Draw scores over steps and settings, from a grid of runs or from their results
    Plot(Box<PlotArgs>),
}

impl EvalCommand {
    /// Its name, for usage.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Captions(_) => "eval captions",
            Self::Compare(_) => "eval compare",
            Self::Run(_) => "eval run",
            Self::Plot(_) => "eval plot",
        }
    }

    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        let args = match self {
            Self::Captions(args) => args,
            Self::Compare(_) | Self::Plot(_) => return Ok(()),
            Self::Run(args) => return args.check(),
        };
        match &args.per_item {
            Some(out) if [&args.candidates, &args.source.references].contains(&out) => {
                Err(format!("--per-item would overwrite the file {}", out.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// BLEU-1 to BLEU-4
    Bleu,
    /// ROUGE-L
    RougeL,
    /// What the COCO tools and papers call CIDEr: it is CIDEr-D
    Cider,
    /// The same under its own name
    CiderD,
    /// CIDEr as first published, without clipping and penalty of lengths
    CiderPlain,
    /// METEOR 1.5; without --meteor only by words and stems
    Meteor,
    /// SPICE, by its Java program (--spice)
    Spice,
    /// The mean of SPICE and CIDEr
    Spider,
    /// BLEU of each caption against all others: the lower, the more they differ
    SelfBleu,
    /// Share of n-grams that are different ones
    Distinct,
    /// CLIPScore: how well a caption fits its picture by an encoder (--scorer)
    Clipscore,
    /// RefCLIPScore: the same, and how well it fits the references
    Refclipscore,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalFormat {
    /// A line a metric
    Table,
    /// One JSON object
    Json,
}

/// What is done where candidates and references are not of the same items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MismatchChoice {
    /// Nothing is scored
    Refuse,
    /// References without a candidate count as failed
    Fail,
    /// What has no other is left out, and counted
    LeaveOut,
}

impl From<MismatchChoice> for Mismatch {
    fn from(choice: MismatchChoice) -> Self {
        match choice {
            MismatchChoice::Refuse => Self::Refuse,
            MismatchChoice::Fail => Self::Fail,
            MismatchChoice::LeaveOut => Self::LeaveOut,
        }
    }
}

/// What both commands are given.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// References: {"id", "references"} a line, COCO, NoCaps or MSR-VTT JSON, Karpathy's splits, or a table of Clotho,
    /// AudioCaps, MSVD, Flickr30k, DrawBench or PartiPrompts
    #[arg(long, short, value_name = "FILE")]
    pub references: PathBuf,

    /// Only this split of the references (test, val, …), or domain of NoCaps
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,

    /// Which metrics, and what they take.
    #[command(flatten)]
    pub measures: MeasureArgs,

    /// The pictures, videos or sounds that are described, for CLIPScore: a folder, whose files are found by the items'
    /// ids as candidates are
    #[arg(long, value_name = "DIR", requires = "scorer")]
    pub images: Option<PathBuf>,

    /// Where and how CLIPScore's encoder runs.
    #[command(flatten)]
    pub encoder: EncoderArgs,

    /// What is done where ids are missing on one side
    #[arg(long, value_enum, default_value_t = MismatchChoice::Refuse)]
    pub mismatch: MismatchChoice,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = EvalFormat::Table)]
    pub format: EvalFormat,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Which metrics, and what they take.
#[derive(Clone, Debug, Args)]
pub struct MeasureArgs {
    /// Which metrics
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bleu,rouge-l,cider,meteor")]
    pub metrics: Vec<Metric>,

    /// METEOR 1.5's folder or jar, for its synonyms, paraphrases and function words
    #[arg(long, value_name = "DIR|JAR", env = "MILS_METEOR")]
    pub meteor: Option<PathBuf>,

    /// SPICE 1.0's folder, with spice-1.0.jar and lib
    #[arg(long, value_name = "DIR", env = "MILS_SPICE")]
    pub spice: Option<PathBuf>,

    /// Keep SPICE's results here, and take those that are there
    #[arg(long, value_name = "FILE.jsonl", requires = "spice")]
    pub spice_cache: Option<PathBuf>,

    /// Document frequencies for CIDEr, as --save-frequencies writes them [default: the references']
    #[arg(long, value_name = "FILE.json")]
    pub frequencies: Option<PathBuf>,

    /// Write the references' document frequencies
    #[arg(long, value_name = "FILE.json", conflicts_with = "frequencies")]
    pub save_frequencies: Option<PathBuf>,

    /// CLIPScore's encoder: a checkpoint folder, a pack (its scorer), ORG/NAME or ORG/NAME@REVISION in the hub cache.
    /// The paper's numbers are of openai/clip-vit-base-patch32
    #[arg(long, value_name = "DIR|ID", value_parser = NonEmptyStringValueParser::new())]
    pub scorer: Option<String>,
}

const CAPTIONS_EXAMPLES: &str = "\
Examples:
  mils eval captions --candidates captions.jsonl --references captions_val2014.json
  mils eval captions -c out.jsonl -r dataset_coco.json --split test --format json
  mils eval captions -c out.jsonl -r clotho_captions_evaluation.csv --per-item items.jsonl
  mils eval captions -c results.json -r refs.jsonl --metrics bleu,cider,meteor --meteor ~/meteor
  mils eval captions -c out.jsonl -r captions_val2014.json --metrics clipscore,refclipscore \
    --images val2014/ --scorer openai/clip-vit-base-patch32

Candidates are {\"id\": …, \"caption\": …} a line, what `mils caption -o` writes, COCO's results, or a
table with a column caption. A file's path stands for an id by its name, its stem, or the number at
the stem's end. A candidate with an error has failed: it scores 0 and stays in the mean.

CLIPScore is 2.5 times the cosine of picture and caption, with the paper's words before each text;
of a sound, without them. Judged by the encoder that the captions were searched with, they look better
than they are.

Texts are cut as the COCO tools do. `cider` is what those tools print as CIDEr, which is CIDEr-D.
METEOR's data are read from its own files: the meteor folder of the Python package pycocoevalcap has
them.

Exit codes: 0 done, 1 a file or a metric failed, 2 wrong usage, 130 interrupted.";

/// `mils eval captions`.
#[derive(Debug, Args)]
#[command(after_help = CAPTIONS_EXAMPLES)]
pub struct CaptionsArgs {
    /// Captions to score
    #[arg(long, short, value_name = "FILE")]
    pub candidates: PathBuf,

    /// Where from and how.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Write the scores of each item, as JSON Lines
    #[arg(long, value_name = "FILE.jsonl")]
    pub per_item: Option<PathBuf>,

    /// Give 95 % intervals from so many bootstrap samples
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub bootstrap: u64,

    /// Seed of the samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

const COMPARE_EXAMPLES: &str = "\
Examples:
  mils eval compare ours.jsonl theirs.json --references captions_val2014.json
  mils eval compare a.jsonl b.jsonl -r refs.jsonl --metrics cider,meteor --samples 10000

The interval of the difference is the paired bootstrap's. p is how often a difference as large comes
up when each item's captions are swapped at random (approximate randomisation): below 0.05 few would
call it chance.

Exit codes: 0 done, 1 a file or a metric failed, 2 wrong usage, 130 interrupted.";

/// `mils eval compare`.
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub struct CompareArgs {
    /// One system's captions
    #[arg(value_name = "A")]
    pub a: PathBuf,

    /// Another's, of the same items
    #[arg(value_name = "B")]
    pub b: PathBuf,

    /// Where from and how.
    #[command(flatten)]
    pub source: SourceArgs,

    /// How many samples are drawn
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub samples: u64,

    /// Seed of the samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}
