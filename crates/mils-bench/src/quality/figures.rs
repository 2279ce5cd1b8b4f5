//! What the benchmark measured, its tables, and what is claimed of it.

use super::{Arm, Mark, Marks, SceneRun};
use crate::stats::{interval, mean};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

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
    pub(super) fn of(values: &[f64]) -> Self {
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
    /// By [`Mark::key`].
    #[serde(flatten)]
    pub marks: BTreeMap<&'static str, Figure>,
    /// Score of the best text.
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
    /// Of a world that is small enough: what the best of all captions by score gets, by [`Mark::key`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub best_of_all: BTreeMap<&'static str, Figure>,
    /// Of how many.
    pub of_all: usize,
}

/// A figure for each mark, of so many captions; none of none.
pub(super) fn by_key(marks: &'static [Mark], captions: &[Vec<f64>]) -> BTreeMap<&'static str, Figure> {
    let figure = |i: usize| Figure::of(&captions.iter().filter_map(|c| c.get(i).copied()).collect::<Vec<_>>());
    let all = marks.iter().enumerate().map(|(i, mark)| (mark.key, figure(i)));
    if captions.is_empty() { BTreeMap::new() } else { all.collect() }
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

impl ArmFigures {
    pub(super) fn of(arm: Arm, marks: &'static [Mark], runs: &[SceneRun], taken: fn(&SceneRun) -> &Vec<Marks>) -> Self {
        let row = |step: usize| {
            let at: Vec<&Marks> = runs.iter().filter_map(|r| taken(r).get(step).or(taken(r).last())).collect();
            let figure = |what: &dyn Fn(&Marks) -> f64| Figure::of(&at.iter().map(|m| what(m)).collect::<Vec<_>>());
            let by_key = |(i, mark): (usize, &Mark)| (mark.key, figure(&|m| m.marks[i]));
            StepFigures {
                step,
                marks: marks.iter().enumerate().map(by_key).collect(),
                score: figure(&|m| m.score),
                scored: mean(&at.iter().map(|m| m.scored as f64).collect::<Vec<_>>()),
            }
        };
        let steps = runs.iter().map(|r| taken(r).len()).max().unwrap_or_default();
        let over = |what: &dyn Fn(&SceneRun) -> f64| mean(&runs.iter().map(what).collect::<Vec<_>>());
        Self {
            arm,
            steps: (0..steps).map(row).collect(),
            unusable: over(&|r| r.unusable as f64),
            seconds: over(&|r| r.seconds),
        }
    }
}

/// The tables, and what was expected of them.
pub fn table(marks: &[Mark], figures: &Figures) -> String {
    let mut out = format!("{} held-out scenes; mean [95 % interval] over scenes\n", figures.scenes);
    // Writing to a String does not fail.
    if let Some(s) = &figures.scorer {
        let _ = writeln!(out, "\nthe scorer and the truth");
        let _ = writeln!(out, "  score of the true caption                            {}", s.truth);
        let _ = writeln!(out, "  it outscores captions with one thing changed in      {}", s.beats_changes);
        let _ = writeln!(out, "  MILS ends wrong, though the truth scores higher, in  {}", s.search_misses);
        let _ = writeln!(out, "  MILS ends wrong on what scores above the truth in    {}", s.scorer_misses);
        for mark in marks {
            if let Some(figure) = s.best_of_all.get(mark.key) {
                let best = format!("the best of all {} captions by score: {}", s.of_all, mark.title);
                let _ = writeln!(out, "  {best:<52} {figure}");
            }
        }
    }
    for arm in &figures.arms {
        let _ = writeln!(out, "\n{}", arm.arm.title());
        let heads: String = marks.iter().map(|m| m.title).chain(["score"]).map(|t| format!("{t:<21}")).collect();
        let _ = writeln!(out, "  step  {heads}scored");
        for s in &arm.steps {
            let figures = marks.iter().filter_map(|m| s.marks.get(m.key)).chain([&s.score]);
            let cells: String = figures.map(|f| format!("{f:<21}")).collect();
            let _ = writeln!(out, "  {:<4}  {cells}{:.0}", s.step, s.scored);
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
pub fn claims(marks: &[Mark], figures: &Figures) -> Vec<(String, bool)> {
    let of = |arm: Arm| figures.arms.iter().find(|a| a.arm == arm);
    let mut out = Vec::new();
    let Some((first, end)) = of(Arm::Loop).and_then(|a| Some((a.steps.first()?, a.steps.last()?))) else { return out };
    let (unheard, recombined) = (of(Arm::NoFeedback), of(Arm::NoLanguageModel));
    let mut claim = |text: String, holds: bool| out.push((text, holds));
    for mark in marks {
        let mean = |row: &StepFigures| row.marks.get(mark.key).map_or(0.0, |f| f.mean);
        let (title, first, end) = (mark.title, mean(first), mean(end));
        if let Some(least) = mark.at_least {
            claim(format!("{title} at the end {end:.3} >= {least:.2}"), end >= least);
        }
        if let Some(least) = mark.gains {
            let gain = end - first;
            claim(format!("{title}: a gain of {gain:.3} >= {least:.2} over step 0"), gain >= least);
        }
        if mark.starts_at_zero {
            claim(format!("{title} at step 0 {first:.3} = 0"), first == 0.0);
        }
        if let Some(last) = unheard.and_then(|a| a.steps.last()).map(mean) {
            claim(format!("{title} without feedback {last:.3}, no better than step 0's {first:.3}"), last <= first);
        }
        if let (true, Some(last)) = (mark.beats_recombination, recombined.and_then(|a| a.steps.last()).map(mean)) {
            claim(format!("{title} {end:.3}, ahead of random recombination's {last:.3}"), end > last);
        }
    }
    out
}
