//! Caption quality on held-out scenes of the demo's worlds: the loop, and three controls with the same settings.

mod drawing;
mod figures;
mod sounds;
mod subject;

pub use drawing::{DrawingFigures, DrawingSetup, Rival, run as draw};
pub use figures::{ArmFigures, Figure, Figures, ScorerFigures, StepFigures, claims, table};
pub use sounds::{SoundScene, Sounds};
pub use subject::{Mark, Pictures, Subject, Videos};

use crate::recombine::{Quota, Recombine};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use mils_cli::backend::BackendChoice;
use mils_cli::session::{Options, Session};
use mils_models::Pack;
use mils_optim::{Candidate, Event, Feedback, Generator, Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::ops::ControlFlow;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The loop as it is.
    Loop,
    /// Scores permuted over all texts before the best are shown; the answer is the best by the permuted scores.
    NoFeedback,
    /// The same run, but the answer is the best by the true scores: what selection alone can do.
    SelectionOnly,
    /// The truly best texts shown with each other's scores.
    LabelsPermuted,
    /// Random recombination of the shown texts in the language model's place.
    NoLanguageModel,
}

impl Arm {
    /// The runs that are made, the loop first. [`Arm::SelectionOnly`] comes out of the run without feedback.
    pub const ALL: [Self; 4] = [Self::Loop, Self::NoFeedback, Self::LabelsPermuted, Self::NoLanguageModel];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Loop => "MILS",
            Self::NoFeedback => "no feedback (scores permuted over all texts)",
            Self::SelectionOnly => "no feedback, but the best of its texts by true score",
            Self::LabelsPermuted => "labels permuted (true top K, each other's scores)",
            Self::NoLanguageModel => "no language model (random recombination)",
        }
    }

    fn feedback(self) -> Feedback {
        match self {
            Self::Loop | Self::NoLanguageModel => Feedback::True,
            Self::NoFeedback | Self::SelectionOnly => Feedback::PermuteScores,
            Self::LabelsPermuted => Feedback::PermuteLabels,
        }
    }
}

/// Settings of the benchmark.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The pack.
    pub pack: String,
    /// Held-out scenes.
    pub scenes: usize,
    /// Seed of the scenes.
    pub scene_seed: u64,
    /// Where the encoder runs.
    pub backend: BackendChoice,
    /// Steps; the pack's if not given. Runs do not stop early, so that all arms score as many texts as they can.
    pub steps: Option<usize>,
    /// Arms to run, the loop first: the controls score as many texts as it did.
    pub arms: Vec<Arm>,
    /// Print every scene's final caption of the loop beside the truth.
    pub show: bool,
}

/// How one caption does on one scene.
#[derive(Clone, Debug)]
struct Marks {
    /// As many as the subject has marks, each 0 to 1.
    marks: Vec<f64>,
    /// Its score.
    score: f64,
    /// Texts scored by then.
    scored: usize,
}

/// The best caption's marks after each step of one run; and the run's cost.
struct SceneRun {
    best: Vec<Marks>,
    /// The same for a text drawn from all that were scored: the best under a random permutation of the scores.
    drawn: Vec<Marks>,
    unusable: usize,
    seconds: f64,
    caption: String,
}

impl SceneRun {
    /// New texts scored in each step.
    fn scored(&self) -> Vec<usize> {
        self.best.windows(2).map(|w| w[1].scored - w[0].scored).collect()
    }
}

/// Runs an arm on a scene; a control gets the number of new texts that the loop scored in each step.
fn run_scene<S: Subject>(
    subject: &S,
    session: &mut Session,
    arm: Arm,
    scene: &S::Scene,
    seed: u64,
    quota: Option<Vec<usize>>,
) -> Result<SceneRun> {
    let config = session.config(subject.modality())?;
    (config.seed, config.feedback, config.patience) = (seed, arm.feedback(), None);
    let mode = session.mode(subject.modality())?;
    let media = subject.media(scene, &mode.senses)?;
    let mut quota = quota.map(|per_step| Quota::new(per_step, mode.initial()));
    let mut recombine = Recombine(subject);
    let mut between = |model: &mut dyn Generator, request: &Request<'_>| {
        let generator: &mut dyn Generator = if arm == Arm::NoLanguageModel { &mut recombine } else { model };
        match &mut quota {
            Some(quota) => quota.propose(generator, request),
            None => generator.propose(request),
        }
    };
    let mark = |text: &str, score: f32, scored: usize| Marks {
        marks: subject.judge(scene, text),
        score: f64::from(score),
        scored,
    };
    let (mut best, mut drawn) = (Vec::new(), Vec::new());
    let mut all: Vec<Candidate> = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let run = session.run(&media, Some(&mut between), &mut |event| {
        if let &Event::Scored { step, texts, scores, .. } = event {
            let candidate = |(text, &score): (&String, &f32)| Candidate { text: text.clone(), score, step };
            all.extend(texts.iter().zip(scores).map(candidate));
        }
        if let Event::StepFinished { record, .. } = event {
            best.push(mark(&record.best.text, record.best.score, all.len()));
            let one = &all[rng.random_range(0..all.len())];
            drawn.push(mark(&one.text, one.score, all.len()));
        }
        ControlFlow::Continue(())
    })?;
    Ok(SceneRun {
        best,
        drawn,
        unusable: run.outcome.counts.unusable,
        seconds: run.seconds.total,
        caption: run.outcome.best.text,
    })
}

/// Changed captions that the truth is held against, per scene.
const CHANGES: usize = 24;

/// Holds each scene's true caption against changed ones, and against what the loop found.
fn judge_scorer<S: Subject>(
    subject: &S,
    session: &mut Session,
    scenes: &[S::Scene],
    runs: &[SceneRun],
) -> Result<ScorerFigures> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut truth, mut beats, mut search, mut scorer) = (vec![], vec![], vec![], vec![]);
    let senses = session.mode(subject.modality())?.senses;
    let (vocabulary, mut alone) = (subject.vocabulary(), Vec::new());
    for (scene, run) in scenes.iter().zip(runs) {
        let mut texts = vec![subject.truth(scene)];
        texts.extend((0..CHANGES).filter_map(|_| subject.changed(scene, &mut rng)));
        let media = subject.media(scene, &senses)?;
        let scores = session.score(&media, &texts)?;
        if !vocabulary.is_empty() {
            let all = session.score(&media, &vocabulary)?;
            let best = all.iter().zip(&vocabulary).max_by(|a, b| a.0.total_cmp(b.0));
            alone.extend(best.map(|(_, text)| subject.judge(scene, text)));
        }
        let won = scores[1..].iter().filter(|s| **s < scores[0]).count();
        truth.push(f64::from(scores[0]));
        beats.push(won as f64 / (scores.len() - 1).max(1) as f64);
        let Some(last) = run.best.last() else { continue };
        let wrong = !is_exact(subject, last);
        search.push(f64::from(u8::from(wrong && f64::from(scores[0]) > last.score)));
        scorer.push(f64::from(u8::from(wrong && f64::from(scores[0]) <= last.score)));
    }
    Ok(ScorerFigures {
        truth: Figure::of(&truth),
        beats_changes: Figure::of(&beats),
        search_misses: Figure::of(&search),
        scorer_misses: Figure::of(&scorer),
        best_of_all: figures::by_key(subject.marks(), &alone),
        of_all: vocabulary.len(),
    })
}

/// Whether a caption says everything and nothing else, which is a subject's last mark.
fn is_exact<S: Subject>(subject: &S, marks: &Marks) -> bool {
    debug_assert_eq!(marks.marks.len(), subject.marks().len());
    marks.marks.last().is_some_and(|exact| *exact == 1.0)
}

/// Runs the benchmark.
///
/// # Errors
/// If the pack cannot be loaded or a model fails.
pub fn run<S: Subject>(subject: &S, setup: &Setup) -> Result<Figures> {
    let pack = Pack::find(&setup.pack)?;
    let options = Options { steps: setup.steps, first: Some(subject.modality()), ..Options::default() };
    let mut session = Session::open(pack, &options, setup.backend, &mut |_| {})?;
    let scenes = subject.scenes(setup.scenes, setup.scene_seed)?;
    let bar = progress_bar(scenes.len() * setup.arms.len());
    let (mut out, mut scorer) = (Vec::new(), None);
    let mut quotas: Vec<Vec<usize>> = Vec::new();
    for &arm in &setup.arms {
        bar.set_message(arm.title());
        let mut runs = Vec::with_capacity(scenes.len());
        for (i, scene) in scenes.iter().enumerate() {
            let run = run_scene(subject, &mut session, arm, scene, i as u64, quotas.get(i).cloned())?;
            if setup.show && arm == Arm::Loop {
                let exact = run.best.last().is_some_and(|last| is_exact(subject, last));
                let verdict = if exact { "exact" } else { "     " };
                bar.suspend(|| eprintln!("{verdict} {} | {}", subject.truth(scene), run.caption));
            }
            runs.push(run);
            bar.inc(1);
        }
        if arm == Arm::Loop {
            scorer = Some(judge_scorer(subject, &mut session, &scenes, &runs)?);
            quotas = runs.iter().map(SceneRun::scored).collect();
        }
        if arm == Arm::NoFeedback {
            out.push(ArmFigures::of(arm, subject.marks(), &runs, |r| &r.drawn));
            out.push(ArmFigures::of(Arm::SelectionOnly, subject.marks(), &runs, |r| &r.best));
        } else {
            out.push(ArmFigures::of(arm, subject.marks(), &runs, |r| &r.best));
        }
    }
    bar.finish_and_clear();
    Ok(Figures { scenes: scenes.len(), scorer, arms: out })
}

pub(crate) fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} left {eta} {msg}") {
        bar.set_style(style);
    }
    bar
}
