//! Which models caption, and how: of every command that runs the loop on files.

use super::generator::GeneratorArgs;
use super::{EncoderArgs, number, temperature};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use mils_models::PackError;
use mils_optim::Feedback;
use std::path::PathBuf;

/// Models and settings of the loop that captions.
#[derive(Clone, Debug, Args)]
pub struct LoopArgs {
    /// Which language model writes.
    #[command(flatten)]
    pub writer: GeneratorArgs,

    /// Start from these texts: a file, one a line, or the name of a set (see `mils bank list`) [default: the pack's]
    #[arg(long, value_name = "FILE|NAME", value_parser = NonEmptyStringValueParser::new())]
    pub initial: Option<String>,

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

    /// Seed; the same seed gives the same run, up to rounding where several files are in flight
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Files captioned side by side: their texts are written together, and some are scored while others are written
    /// for; 1 is one after another [default: what suits the devices]
    #[arg(long, value_name = "N", value_parser = number(1..=64), allow_negative_numbers = true)]
    pub in_flight: Option<u32>,

    /// Answers that the language model writes side by side, over all files [default: the pack's, or what suits the
    /// model and the machine]
    #[arg(long, value_name = "N", value_parser = number(1..=192), allow_negative_numbers = true)]
    pub sequences: Option<u32>,

    /// Where and how it runs.
    #[command(flatten)]
    pub encoder: EncoderArgs,

    /// What the language model gets to see: for ablations, which are no user's.
    #[arg(skip)]
    pub feedback: Feedback,
}

impl LoopArgs {
    /// The file of the initial set that was asked for.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn initial(&self) -> Result<Option<PathBuf>, PackError> {
        self.initial.as_deref().map(mils_models::find_bank).transpose()
    }
}
