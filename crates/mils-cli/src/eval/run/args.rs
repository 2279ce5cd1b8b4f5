//! The arguments of `mils eval run`.

use crate::args::number;
use crate::args::run::LoopArgs;
use crate::eval::args::{EvalFormat, MeasureArgs, MismatchChoice};
use crate::sources::Shard;
use clap::{Args, ValueEnum};
use mils_eval::dataset::{DataSet, Sort};
use mils_models::Modality;
use mils_optim::Feedback;
use std::path::PathBuf;

/// Data sets, as they are called on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataSetChoice {
    /// COCO captions: dataset_coco.json (Karpathy's splits) and val2014/; --split val2014 or val2017 takes
    /// annotations/captions_SPLIT.json
    Coco,
    /// NoCaps: nocaps_val_4500_captions.json and val/; --split in-domain, near-domain or out-domain takes a part
    Nocaps,
    /// Flickr30k: dataset_flickr30k.json (Karpathy's splits) and flickr30k-images/
    Flickr30k,
    /// MSR-VTT: test_videodatainfo.json and TestVideo/
    Msrvtt,
    /// MSVD: video_corpus.csv or AllVideoDescriptions.txt, YouTubeClips/ and test_list.txt
    Msvd,
    /// Clotho: clotho_captions_evaluation.csv and evaluation/
    Clotho,
    /// AudioCaps: test.csv and test/, with sounds called by their youtube_id
    Audiocaps,
}

impl DataSetChoice {
    /// The data set.
    pub(crate) fn data_set(self) -> DataSet {
        match self {
            Self::Coco => DataSet::Coco,
            Self::Nocaps => DataSet::NoCaps,
            Self::Flickr30k => DataSet::Flickr30k,
            Self::Msrvtt => DataSet::MsrVtt,
            Self::Msvd => DataSet::Msvd,
            Self::Clotho => DataSet::Clotho,
            Self::Audiocaps => DataSet::AudioCaps,
        }
    }

    /// What its files are taken for.
    pub(crate) fn modality(self) -> Modality {
        match self.data_set().sort() {
            Sort::Images => Modality::Image,
            Sort::Videos => Modality::Video,
            Sort::Sounds => Modality::Sound,
        }
    }
}

/// What the language model gets to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FeedbackChoice {
    /// The best texts with their scores
    #[default]
    True,
    /// Texts by scores that were permuted over all of them: no feedback
    None,
    /// The best texts, with each other's scores
    PermutedLabels,
}

impl From<FeedbackChoice> for Feedback {
    fn from(choice: FeedbackChoice) -> Self {
        match choice {
            FeedbackChoice::True => Self::True,
            FeedbackChoice::None => Self::PermuteScores,
            FeedbackChoice::PermutedLabels => Self::PermuteLabels,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  mils eval run coco --root ~/coco --pack paper -o results/coco
  mils eval run coco --root ~/coco --pack demo --limit 100 --seed 7 -o results/try
  mils eval run msrvtt --root ~/msrvtt --pack paper --metrics cider,meteor --meteor ~/meteor -o results/msrvtt
  mils eval run clotho --root ~/clotho --pack paper --shard 1/4 -o results/clotho-1
                                              (a quarter, the others on other machines; then all together:)
  mils eval run clotho --root ~/clotho --pack paper --merge results/clotho-1 results/clotho-2 \\
    results/clotho-3 results/clotho-4 -o results/clotho

The root has the data set's files as they are published; what is missing is named. Killed at any
moment, the same command goes on where it was. --limit takes so many items by chance, the same ones
with the same --seed on any machine; --shard a share of those.

A file that fails does not stop the run: it scores 0, stays in every mean, and is counted as failed;
the exit code is then 1. It is tried again when the same command is.

The folder gets captions.jsonl (what `mils caption -o` writes), settings.json (all settings, hashes of
the models' files, versions), items.jsonl (an item a line, with scores and what it cost), results.json
and table.md: the metrics with 95 % intervals beside published rows, and seconds, tokens, and the
encoder's runs and arithmetic for a sample.

Exit codes: 0 done, 1 a file, a model or a metric failed, 2 wrong usage, 130 interrupted.";

/// `mils eval run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Which data set
    #[arg(value_enum, value_name = "DATA")]
    pub data: DataSetChoice,

    /// The folder that it is in
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,

    /// Where results go: a folder, which a killed run is taken up in
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,

    /// Which split [default: the one that papers report]
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,

    /// Only so many items, drawn by --seed
    #[arg(long, value_name = "N", value_parser = number(1..=i64::from(u32::MAX)))]
    pub limit: Option<u32>,

    /// Only the items of this share, from 1/N to N/N: for several machines
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Take over what is in these folders of results, of shares or of a smaller --limit
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub merge: Vec<PathBuf>,

    /// What is done about items whose file is not there
    #[arg(long, value_enum, default_value_t = MismatchChoice::Refuse)]
    pub missing: MismatchChoice,

    /// Models and settings.
    #[command(flatten)]
    pub run: LoopArgs,

    /// Start from so many texts of the initial set, drawn by --seed: for ablations
    #[arg(long, value_name = "N", value_parser = number(1..=i64::from(u32::MAX)))]
    pub initial_size: Option<u32>,

    /// What the language model gets to see: for ablations
    #[arg(long, value_enum, default_value_t = FeedbackChoice::True)]
    pub feedback: FeedbackChoice,

    /// Which metrics, and what they take.
    #[command(flatten)]
    pub measures: MeasureArgs,

    /// Bootstrap samples of the 95 % intervals; 0 gives none
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub bootstrap: u64,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = EvalFormat::Table)]
    pub format: EvalFormat,

    /// Print nothing but results and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl RunArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        match self.merge.iter().find(|folder| **folder == self.output) {
            Some(folder) => Err(format!("--merge and --output are the same folder: {}", folder.display())),
            None => Ok(()),
        }
    }
}
