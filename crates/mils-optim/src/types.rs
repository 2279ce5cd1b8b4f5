//! The traits and plain data of the loop.

use crate::initial::InitialSet;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Any error of a generator or a scorer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Says how well texts fit the thing that is described. Higher is better.
pub trait Scorer {
    /// One finite score a text, in order.
    ///
    /// # Errors
    /// Whatever keeps it from scoring; the run ends with it.
    fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError>;

    /// One finite score a text of the initial set, in order. To be said otherwise by a scorer that has them ready: a set
    /// may have a million texts.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    fn score_initial(&mut self, initial: &InitialSet) -> Result<Vec<f32>, BoxError> {
        self.score(initial.texts())
    }

    /// As [`Scorer::score`], where it may fail for some texts and not for others: those have the reason, as
    /// [`UnusableReason::Unscored`], in place of a score, and the run goes on without them.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    fn score_some(&mut self, texts: &[String]) -> Result<Vec<Result<f32, UnusableReason>>, BoxError> {
        Ok(self.score(texts)?.into_iter().map(Ok).collect())
    }

    /// The objectives behind the score of a text that it has scored, as many for every text, each the higher the better;
    /// `None` where the score is all there is. With them, texts that another beats in one objective and equals at least in
    /// all others go first when only the best are kept, whatever their scores.
    fn objectives(&mut self, text: &str) -> Option<Vec<f32>> {
        let _ = text;
        None
    }
}

/// Proposes new texts from scored ones.
pub trait Generator {
    /// About `request.count` texts; fewer or more are taken as they come.
    ///
    /// # Errors
    /// Whatever keeps it from generating at all; the run ends with it.
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError>;

    /// As [`Generator::propose`], in pieces: `take` is given each with its number as soon as it is there, in any order,
    /// so that its texts can be scored while others are still being written. `Break` asks for no more of this answer.
    /// [`Proposals::gather`] makes of the pieces what `propose` would have given.
    ///
    /// # Errors
    /// As [`Generator::propose`].
    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let whole = self.propose(request)?;
        // Nothing comes after it that could be asked not to.
        let _ = take(0, whole);
        Ok(())
    }
}

/// What a generator is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// 1 for the first step.
    pub step: usize,
    /// The texts that were kept, worst first, best last.
    pub pool: &'a [Labelled],
    /// How many new texts are wanted.
    pub count: usize,
    /// Differs from step to step; all randomness of the answer should come from it.
    pub seed: u64,
}

/// A kept text as the generator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// Its score as the scorer gave it.
    pub score: f32,
    /// Its score as shown: 0 for the worst of the list to [`Config::label_scale`] for the best.
    pub label: u32,
}

/// A generator's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals {
    /// Usable texts.
    pub texts: Vec<String>,
    /// How many of the texts each of several answers gave, in their order; empty where all texts are of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<usize>,
    /// What was said but cannot be used, with the reason.
    pub unusable: Vec<Unusable>,
    /// What it cost.
    pub usage: Usage,
}

impl Proposals {
    /// A generator's whole answer by its [`Generator::stream`]: what [`Generator::propose`] is to those that stream.
    ///
    /// # Errors
    /// As [`Generator::stream`].
    pub fn streamed(generator: &mut impl Generator, request: &Request<'_>) -> Result<Self, BoxError> {
        let mut pieces = Vec::new();
        generator.stream(request, &mut |number, piece| {
            pieces.push((number, piece));
            ControlFlow::Continue(())
        })?;
        Ok(Self::gather(pieces))
    }

    /// One answer from its pieces, in the order of their numbers, whatever the order in which they came.
    pub fn gather(mut pieces: Vec<(usize, Self)>) -> Self {
        pieces.sort_by_key(|(number, _)| *number);
        let mut whole = Self::default();
        for (_, Self { texts, answers, unusable, usage }) in pieces {
            whole.answers.extend(if answers.is_empty() { vec![texts.len()] } else { answers });
            whole.texts.extend(texts);
            whole.unusable.extend(unusable);
            whole.usage += usage;
        }
        whole
    }
}

/// Why something that a generator said is not scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnusableReason {
    /// Nothing left after cleaning.
    Empty,
    /// Cut off by the token limit.
    Truncated,
    /// Longer than a caption may be.
    TooLong,
    /// Talk around the list: "Sure, here are …".
    Chatter,
    /// A reasoning block.
    Thinking,
    /// More lines than were asked for.
    Surplus,
    /// The same text was proposed or scored before.
    Duplicate,
    /// The run was ended before it could be scored.
    Interrupted,
    /// No answer: the text says why there is none. Other answers to the same request there were.
    Failed,
    /// The scorer failed for it, and not for others.
    Unscored,
}

/// Something that was said but not scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// What was said.
    pub text: String,
    /// Why it is not scored.
    pub reason: UnusableReason,
}

/// What a generation cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of those, not computed again: taken from the KV cache of an earlier prompt.
    pub reused_tokens: u64,
    /// Tokens that were generated, over all sequences.
    pub generated_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.reused_tokens += other.reused_tokens;
        self.generated_tokens += other.generated_tokens;
    }
}

/// What the generator gets to see; all but the first are ablations that show what the feedback is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feedback {
    /// The best texts with their scores.
    #[default]
    True,
    /// No feedback: scores are permuted over all texts, anew in each step, before the best are chosen.
    PermuteScores,
    /// The truly best texts, but with each other's scores, and in the order of those.
    PermuteLabels,
}

/// Settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Most steps; 0 only scores the initial set.
    pub steps: usize,
    /// How many texts go back to the generator (the paper's K).
    pub keep: usize,
    /// How many texts are asked for in a step (the paper's N).
    pub propose: usize,
    /// How often a step may ask the generator, for what repeats and unusable texts leave short of `propose`; 0 is 1.
    pub asks: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Labels run from 0 to this.
    pub label_scale: u32,
    /// Stop when the kept texts did not change for so many steps in a row; `None`: never.
    pub patience: Option<usize>,
    /// What the generator gets to see.
    pub feedback: Feedback,
    /// Score so many new texts together while the rest of a step's answer is still coming; 0 scores them all when it
    /// is complete. A scorer that gives a text the same score in any company makes the same run of both.
    #[serde(default)]
    pub score_ahead: usize,
}

impl Default for Config {
    /// The paper's image-captioning settings (K = N = 50, 10 steps), with a convergence stop.
    fn default() -> Self {
        Self {
            steps: 10,
            keep: 50,
            propose: 50,
            asks: 1,
            seed: 0,
            label_scale: 100,
            patience: Some(3),
            feedback: Feedback::True,
            score_ahead: 0,
        }
    }
}

/// A scored text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The text.
    pub text: String,
    /// Its score.
    pub score: f32,
    /// The step that proposed it; 0 is the initial set.
    pub step: usize,
}

/// What happened in one step. Step 0 is the scoring of the initial set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step.
    pub step: usize,
    /// The best text so far.
    pub best: Candidate,
    /// Mean score of the kept texts.
    pub mean_kept: f32,
    /// Texts that were scored for the first time.
    pub scored: usize,
    /// How many of them were kept.
    pub entered: usize,
    /// What was said and not scored.
    pub unusable: usize,
    /// What the generation cost.
    pub usage: Usage,
}

/// Totals of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Texts that were scored.
    pub scored: usize,
    /// Scores that were asked for and known already.
    pub memo_hits: usize,
    /// Things that were said and not scored, duplicates included.
    pub unusable: usize,
    /// Tokens.
    pub usage: Usage,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.scored += other.scored;
        self.memo_hits += other.memo_hits;
        self.unusable += other.unusable;
        self.usage += other.usage;
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// All steps were done.
    Steps,
    /// The kept texts stopped changing.
    Converged,
    /// The observer asked for it.
    Interrupted,
    /// The observer asked for it since what was wanted is reached: said by whoever runs the loop, which does not know.
    Target,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The best text.
    pub best: Candidate,
    /// The kept texts, best first.
    pub pool: Vec<Candidate>,
    /// What happened, step by step.
    pub steps: Vec<StepRecord>,
    /// Totals.
    pub counts: Counts,
    /// Why it ended.
    pub stopped_by: StoppedBy,
}

/// What a run tells while it goes; enough to draw progress and to write a trace.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The generator is about to be asked.
    Proposing {
        /// The step.
        step: usize,
        /// What it is shown, best last.
        pool: &'a [Labelled],
    },
    /// The generator has answered.
    Proposed {
        /// The step.
        step: usize,
        /// New texts, about to be scored.
        fresh: usize,
        /// What cannot be used.
        unusable: &'a [Unusable],
        /// What it cost.
        usage: Usage,
    },
    /// Texts that will not be scored, and that no [`Event::Proposed`] told of: repeats and blanks in the initial set,
    /// and new texts that the scorer failed for, or that the end of the run came before.
    NotScored {
        /// The step; 0 is the initial set.
        step: usize,
        /// The texts, each with its reason.
        unusable: &'a [Unusable],
    },
    /// New texts have scores.
    Scored {
        /// The step.
        step: usize,
        /// The new texts.
        texts: &'a [String],
        /// Their scores, one each.
        scores: &'a [f32],
        /// Which of the step's answers brought each, from 1, counted over all that was asked for in it. Empty of the
        /// initial set.
        answers: &'a [usize],
        /// Their objectives, one list each (see [`Scorer::objectives`]); empty where scores are all there is.
        objectives: &'a [Vec<f32>],
    },
    /// A step is done.
    StepFinished {
        /// Its summary.
        record: &'a StepRecord,
        /// The kept texts, best first.
        pool: &'a [Candidate],
    },
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to start from.
    #[error("the initial set is empty; give at least one text")]
    EmptyInitialSet,
    /// A setting makes no sense.
    #[error("`{0}` must be at least 1")]
    Setting(&'static str),
    /// The generator failed.
    #[error("the generator failed: {0}")]
    Generator(#[source] BoxError),
    /// The scorer failed.
    #[error("the scorer failed: {0}")]
    Scorer(#[source] BoxError),
    /// The scorer returned too few or too many scores.
    #[error("the scorer returned {found} scores for {expected} texts")]
    ScoreCount {
        /// How many texts it was given.
        expected: usize,
        /// How many scores came back.
        found: usize,
    },
    /// The scorer returned NaN or an infinity.
    #[error("the scorer gave {score} to {text:?}; check the model's weights")]
    NotFinite {
        /// The score.
        score: f32,
        /// The text.
        text: String,
    },
    /// The generator said nothing that can be used.
    #[error("the generator said nothing usable in step {step}; it said: {}", quoted(said))]
    NothingUsable {
        /// The step.
        step: usize,
        /// The beginning of what it said; may be empty.
        said: String,
    },
}

/// For messages: quoted and escaped, since it comes from a model and goes to a terminal.
fn quoted(said: &str) -> String {
    if said.is_empty() { "nothing at all".to_owned() } else { format!("{said:?}") }
}
