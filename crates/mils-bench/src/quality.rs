//! Caption quality on held-out scenes of the demo world: the loop, and three controls with the same settings.

use crate::recombine::{Quota, Recombine};
use crate::stats::{interval, mean};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use mils_cli::backend::BackendChoice;
use mils_cli::session::{Options, Session};
use mils_demo_world::{Facts, Scene, Split, facts, grammar, render, sample};
use mils_models::{Modality, Pack};
use mils_optim::{Candidate, Event, Feedback, Generator, Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt::Write as _;
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

    fn title(self) -> &'static str {
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

/// How one caption does on one scene.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Marks {
    /// Share of the scene's nouns that it names.
    pub noun_recall: f64,
    /// Share of the scene's other facts that it states rightly.
    pub attribute_accuracy: f64,
    /// 1 if it says everything and nothing else.
    pub exact: f64,
    /// Its score.
    pub score: f64,
}

/// Mean and 95 % interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Over the scenes.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Figure {
    fn of(values: &[f64]) -> Self {
        let (low, high) = interval(values);
        Self { mean: mean(values), low, high }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.3} [{:.3} {:.3}]", self.mean, self.low, self.high))
    }
}

/// One row of an arm's table.
#[derive(Clone, Debug, Serialize)]
pub struct StepFigures {
    /// The step.
    pub step: usize,
    /// See [`Marks`].
    pub noun_recall: Figure,
    /// See [`Marks`].
    pub attribute_accuracy: Figure,
    /// See [`Marks`].
    pub exact: Figure,
    /// See [`Marks`].
    pub score: Figure,
    /// Texts scored so far, mean over the scenes.
    pub scored: f64,
}

/// One arm's result.
#[derive(Clone, Debug, Serialize)]
pub struct ArmFigures {
    /// Which.
    pub arm: Arm,
    /// Step by step; the last is the end.
    pub steps: Vec<StepFigures>,
    /// Texts that the language model proposed and that could not be used or were known, per scene.
    pub unusable: f64,
    /// Seconds per scene.
    pub seconds: f64,
}

/// What the scorer thinks of the truth: tells a scorer that cannot see from a search that cannot find.
#[derive(Clone, Debug, Serialize)]
pub struct ScorerFigures {
    /// Score of the true caption.
    pub truth: Figure,
    /// Share of captions with one fact changed that the true caption outscores.
    pub beats_changes: Figure,
    /// Share of scenes where the true caption outscores the loop's wrong answer: what a better search would win.
    pub search_misses: Figure,
    /// Share of scenes where the loop's wrong answer outscores the truth: what only a better scorer would win.
    pub scorer_misses: Figure,
}

/// All that the benchmark measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Number of scenes.
    pub scenes: usize,
    /// The scorer on the truth.
    pub scorer: Option<ScorerFigures>,
    /// The runs.
    pub arms: Vec<ArmFigures>,
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

fn mark(truth: &Facts, caption: &str, score: f32) -> Marks {
    let score = f64::from(score);
    // Outside the grammar a caption cannot be judged: it counts as wrong in everything.
    let Some(said) = grammar::parse(caption) else { return Marks { score, ..Marks::default() } };
    Marks {
        noun_recall: f64::from(facts::noun_recall(truth, &said)),
        attribute_accuracy: f64::from(facts::attribute_accuracy(truth, &said)),
        exact: f64::from(u8::from(facts::exact(truth, &said))),
        score,
    }
}

/// The best caption's marks after each step of one run, with the texts scored so far; and the run's cost.
struct SceneRun {
    marks: Vec<(Marks, usize)>,
    /// The same for a text drawn from all that were scored: the best under a random permutation of the scores.
    drawn: Vec<(Marks, usize)>,
    unusable: usize,
    seconds: f64,
    caption: String,
}

impl SceneRun {
    /// New texts scored in each step.
    fn scored(&self) -> Vec<usize> {
        self.marks.windows(2).map(|w| w[1].1 - w[0].1).collect()
    }
}

/// Runs an arm on a scene; a control gets the number of new texts that the loop scored in each step.
fn run_scene(session: &mut Session, arm: Arm, scene: &Scene, seed: u64, quota: Option<Vec<usize>>) -> Result<SceneRun> {
    let config = session.config(Modality::Image)?;
    (config.seed, config.feedback, config.patience) = (seed, arm.feedback(), None);
    let picture = render::render(scene);
    let mode = session.mode(Modality::Image)?;
    let mut quota = quota.map(|per_step| Quota::new(per_step, mode.initial()));
    let mut recombine = Recombine;
    let mut between = |model: &mut dyn Generator, request: &Request<'_>| {
        let generator: &mut dyn Generator = if arm == Arm::NoLanguageModel { &mut recombine } else { model };
        match &mut quota {
            Some(quota) => quota.propose(generator, request),
            None => generator.propose(request),
        }
    };
    let (mut marks, mut drawn) = (Vec::new(), Vec::new());
    let mut all: Vec<Candidate> = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let run = session.run(&picture.image.into(), Some(&mut between), &mut |event| {
        if let &Event::Scored { step, texts, scores } = event {
            let candidate = |(text, &score): (&String, &f32)| Candidate { text: text.clone(), score, step };
            all.extend(texts.iter().zip(scores).map(candidate));
        }
        if let Event::StepFinished { record, .. } = event {
            marks.push((mark(&scene.facts, &record.best.text, record.best.score), all.len()));
            let one = &all[rng.random_range(0..all.len())];
            drawn.push((mark(&scene.facts, &one.text, one.score), all.len()));
        }
        ControlFlow::Continue(())
    })?;
    Ok(SceneRun {
        marks,
        drawn,
        unusable: run.outcome.counts.unusable,
        seconds: run.seconds.total,
        caption: run.outcome.best.text,
    })
}

/// Changed captions that the truth is held against, per scene.
const CHANGES: usize = 24;

/// Holds each scene's true caption against changed ones, and against what the loop found.
fn judge_scorer(session: &mut Session, scenes: &[Scene], runs: &[SceneRun]) -> Result<ScorerFigures> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut truth, mut beats, mut search, mut scorer) = (vec![], vec![], vec![], vec![]);
    for (scene, run) in scenes.iter().zip(runs) {
        let mut texts = vec![grammar::canonical(&scene.facts)];
        for _ in 0..CHANGES {
            let changed = sample::change(scene.facts, &mut rng);
            if changed != scene.facts {
                texts.push(grammar::canonical(&changed));
            }
        }
        let scores = session.score(&render::render(scene).image.into(), &texts)?;
        let won = scores[1..].iter().filter(|s| **s < scores[0]).count();
        truth.push(f64::from(scores[0]));
        beats.push(won as f64 / (scores.len() - 1).max(1) as f64);
        let Some((last, _)) = run.marks.last() else { continue };
        let wrong = last.exact == 0.0;
        search.push(f64::from(u8::from(wrong && f64::from(scores[0]) > last.score)));
        scorer.push(f64::from(u8::from(wrong && f64::from(scores[0]) <= last.score)));
    }
    Ok(ScorerFigures {
        truth: Figure::of(&truth),
        beats_changes: Figure::of(&beats),
        search_misses: Figure::of(&search),
        scorer_misses: Figure::of(&scorer),
    })
}

/// Runs the benchmark.
///
/// # Errors
/// If the pack cannot be loaded or a model fails.
pub fn run(setup: &Setup) -> Result<Figures> {
    let pack = Pack::find(&setup.pack)?;
    let options = Options { steps: setup.steps, ..Options::default() };
    let mut session = Session::open(pack, &options, setup.backend, &mut |_| {})?;
    let scenes = sample::scenes(Split::HeldOut, setup.scenes, setup.scene_seed);
    let bar = progress_bar(setup.scenes * setup.arms.len());
    let (mut out, mut scorer) = (Vec::new(), None);
    let mut quotas: Vec<Vec<usize>> = Vec::new();
    for &arm in &setup.arms {
        bar.set_message(arm.title());
        let mut runs = Vec::with_capacity(scenes.len());
        for (i, scene) in scenes.iter().enumerate() {
            let run = run_scene(&mut session, arm, scene, i as u64, quotas.get(i).cloned())?;
            if setup.show && arm == Arm::Loop {
                let verdict = if run.marks.last().is_some_and(|m| m.0.exact > 0.0) { "exact" } else { "     " };
                bar.suspend(|| eprintln!("{verdict} {} | {}", grammar::canonical(&scene.facts), run.caption));
            }
            runs.push(run);
            bar.inc(1);
        }
        if arm == Arm::Loop {
            scorer = Some(judge_scorer(&mut session, &scenes, &runs)?);
            quotas = runs.iter().map(SceneRun::scored).collect();
        }
        if arm == Arm::NoFeedback {
            out.push(figures(arm, &runs, |r| &r.drawn));
            out.push(figures(Arm::SelectionOnly, &runs, |r| &r.marks));
        } else {
            out.push(figures(arm, &runs, |r| &r.marks));
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

fn figures(arm: Arm, runs: &[SceneRun], of: fn(&SceneRun) -> &Vec<(Marks, usize)>) -> ArmFigures {
    let steps = runs.iter().map(|r| of(r).len()).max().unwrap_or_default();
    let at = |step: usize| -> Vec<(Marks, usize)> {
        runs.iter().filter_map(|r| of(r).get(step).or(of(r).last()).copied()).collect()
    };
    let figure = |marks: &[(Marks, usize)], what: fn(&Marks) -> f64| {
        Figure::of(&marks.iter().map(|(m, _)| what(m)).collect::<Vec<_>>())
    };
    let row = |step| {
        let marks = at(step);
        StepFigures {
            step,
            noun_recall: figure(&marks, |m| m.noun_recall),
            attribute_accuracy: figure(&marks, |m| m.attribute_accuracy),
            exact: figure(&marks, |m| m.exact),
            score: figure(&marks, |m| m.score),
            scored: mean(&marks.iter().map(|(_, n)| *n as f64).collect::<Vec<_>>()),
        }
    };
    let over = |what: &dyn Fn(&SceneRun) -> f64| mean(&runs.iter().map(what).collect::<Vec<_>>());
    ArmFigures {
        arm,
        steps: (0..steps).map(row).collect(),
        unusable: over(&|r| r.unusable as f64),
        seconds: over(&|r| r.seconds),
    }
}

/// The tables, and what was expected of them.
pub fn table(figures: &Figures) -> String {
    let mut out = format!("{} held-out scenes; mean [95 % interval] over scenes\n", figures.scenes);
    // Writing to a String does not fail.
    if let Some(s) = &figures.scorer {
        let _ = writeln!(out, "\nthe scorer and the truth");
        let _ = writeln!(out, "  score of the true caption                            {}", s.truth);
        let _ = writeln!(out, "  it outscores captions with one thing changed in      {}", s.beats_changes);
        let _ = writeln!(out, "  MILS ends wrong, though the truth scores higher, in  {}", s.search_misses);
        let _ = writeln!(out, "  MILS ends wrong on what scores above the truth in    {}", s.scorer_misses);
    }
    for arm in &figures.arms {
        let _ = writeln!(out, "\n{}", arm.arm.title());
        let _ = writeln!(
            out,
            "  step  noun recall          attributes           exact                score                scored"
        );
        for s in &arm.steps {
            let cells = [&s.noun_recall, &s.attribute_accuracy, &s.exact, &s.score].map(|f| format!("{f:<21}"));
            let _ = writeln!(out, "  {:<4}  {}{:.0}", s.step, cells.concat(), s.scored);
        }
        let _ = writeln!(
            out,
            "  {:.1} proposals per scene unusable or known; {:.2} s per scene",
            arm.unusable, arm.seconds
        );
    }
    out
}

/// The claims that the loop must stand by, each with whether it does.
pub fn claims(figures: &Figures) -> Vec<(String, bool)> {
    let of = |arm: Arm| figures.arms.iter().find(|a| a.arm == arm);
    let mut out = Vec::new();
    let Some((first, end)) = of(Arm::Loop).and_then(|a| Some((a.steps.first()?, a.steps.last()?))) else { return out };
    let mut claim = |text: String, holds: bool| out.push((text, holds));
    claim(format!("noun recall at the end {:.3} >= 0.90", end.noun_recall.mean), end.noun_recall.mean >= 0.90);
    let gain = end.attribute_accuracy.mean - first.attribute_accuracy.mean;
    claim(format!("attribute accuracy gains {gain:.3} >= 0.25 over step 0"), gain >= 0.25);
    claim(format!("exact captions {:.3} >= 0.30", end.exact.mean), end.exact.mean >= 0.30);
    claim(format!("exact captions at step 0 {:.3} = 0", first.exact.mean), first.exact.mean == 0.0);
    if let Some(last) = of(Arm::NoFeedback).and_then(|a| a.steps.last()) {
        let (a, b) = (last.attribute_accuracy.mean, first.attribute_accuracy.mean);
        claim(format!("without feedback attributes {a:.3} are no better than step 0's {b:.3}"), a <= b);
        let (a, b) = (last.noun_recall.mean, first.noun_recall.mean);
        claim(format!("without feedback noun recall {a:.3} is no better than step 0's {b:.3}"), a <= b);
        let (a, b) = (last.exact.mean, first.exact.mean);
        claim(format!("without feedback exact captions {a:.3} are no better than step 0's {b:.3}"), a <= b);
    }
    if let Some(last) = of(Arm::NoLanguageModel).and_then(|a| a.steps.last()) {
        let (a, b) = (end.attribute_accuracy.mean, last.attribute_accuracy.mean);
        claim(format!("attributes {a:.3} are ahead of random recombination's {b:.3}"), a > b);
        let (a, b) = (end.exact.mean, last.exact.mean);
        claim(format!("exact captions {a:.3} are ahead of random recombination's {b:.3}"), a > b);
    }
    out
}
