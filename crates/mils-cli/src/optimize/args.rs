//! The arguments of `mils optimize`.

use crate::args::Format;
use crate::args::generator::GeneratorArgs;
use crate::backend::BackendChoice;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  mils optimize --config examples/optimize/captions.toml --pack demo
                                              (offline, with the bundled language model)
  mils optimize --config task.toml -o out/ --generator http://localhost:8080/v1
  mils optimize --config task.toml -o out/ --steps 20 --propose 40 --format json | jq .scores
  mils report out/trace.jsonl -o out/again.html

The least task file says how texts are scored and what to begin with:

  about = 'a slogan for a shop that repairs bicycles'
  [scorer]
  command = ['python3', 'scorer.py']
  [initial]
  texts = ['We fix your bike', 'Back on the road today']

The scorer is a program that is started once, in the folder of the task file. For each text it is
given a line {\"id\":7,\"text\":\"…\"} on standard input, after those of a batch an empty line, and for
each it writes one of these lines to standard output, in any order, when it likes, and flushed:

  {\"id\":7,\"score\":0.5}                        the one objective
  {\"id\":7,\"scores\":{\"clear\":4,\"length\":31}}   several, by their names in the task file
  {\"id\":7,\"error\":\"why\"}                      no score: the text is left out

It may write an empty line when it has no more for a batch. It is started again where it dies or
says nothing for `timeout` seconds; the texts that it had are then given to it one by one, so that
one text which it cannot stand costs no other its score. What it says on standard error is quoted
where it dies. At the end its input is closed.

All that a task file can say is in docs/optimize.md. With -o the folder gets best.txt, trace.jsonl,
report.html and result.jsonl; killed at any moment, the same command goes on. Without it the result
is printed and nothing kept.

Exit codes: 0 done, 1 a model or the scorer failed, 2 wrong usage, 130 interrupted (the best so far
is printed).";

/// `mils optimize`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct OptimizeArgs {
    /// The task file: what is searched for, how it is asked for, and what scores it
    #[arg(long, short, value_name = "TASK.toml")]
    pub config: PathBuf,

    /// A folder for the best text, the trace, the report, and what a killed search goes on from
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Begin anew, whatever is in the folder
    #[arg(long, requires = "output")]
    pub overwrite: bool,

    /// Which language model writes.
    #[command(flatten)]
    pub writer: GeneratorArgs,

    /// Where the pack's language model runs
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Most steps; 0 only scores the initial texts [default: the task's, else the pack's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub steps: Option<u32>,

    /// Texts that go back to the language model in each step [default: the task's, else the pack's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub keep: Option<u32>,

    /// Texts asked for in each step [default: the task's, else the pack's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub propose: Option<u32>,

    /// Sampling temperature of the language model, 0 to 10 [default: the task's, else the pack's]
    #[arg(long, value_name = "T", value_parser = crate::args::temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,

    /// Seed of the language model [default: the task's, else 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// How the result is printed: the best text alone, or one JSON object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Print the score table of each step even when stderr is no terminal
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl OptimizeArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        match &self.output {
            Some(output) if output.as_os_str() == "-" || output.is_file() => {
                Err(format!("--output is a folder, and {} is none", output.display()))
            }
            _ => Ok(()),
        }
    }
}
