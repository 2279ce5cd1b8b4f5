//! Training examples for the demo generator: what a run's scored list looks like, without running one.
//!
//! A candidate's simulated score is a weighted F1 between its facts and the scene's, plus noise, sometimes with one
//! fact of the scene misperceived: roughly what a small CLIP does.

use crate::worlds::{World, initial};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

/// One training example.
#[derive(serde::Serialize)]
pub struct Example {
    /// Label and text, best last.
    pub items: Vec<(u32, String)>,
    /// A complete, true caption.
    pub target: String,
    /// How good the pool is: 0 stands for the initial set, 1 for the end of a run.
    pub progress: f32,
}

/// Scores to whole numbers from 0 (worst of the list) to `scale` (best).
pub(crate) fn labels(scores: &[f32], scale: u32) -> Vec<u32> {
    let lo = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let hi = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = hi - lo;
    scores.iter().map(|s| if span > 0.0 { ((s - lo) / span * scale as f32).round() as u32 } else { scale }).collect()
}

/// A scorer with its own taste: how much each sort of fact counts, how noisy it is, what it misperceives.
struct Taste<W> {
    weights: Vec<f32>,
    sigma: f32,
    truth: BTreeSet<u16>,
    misread: Option<BTreeSet<u16>>,
    world: PhantomData<W>,
}

/// Normal deviate from twelve uniforms.
pub(crate) fn normal(rng: &mut impl Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

impl<W: World> Taste<W> {
    fn new(truth: &W::Facts, rng: &mut impl Rng) -> Self {
        let misread = rng.random_bool(0.25).then(|| W::atoms(&W::perturb(truth, rng)));
        Self {
            weights: W::ATOM_WEIGHTS.iter().map(|w| w * (0.4 * normal(rng)).exp()).collect(),
            sigma: rng.random_range(0.01..0.09),
            truth: W::atoms(truth),
            misread,
            world: PhantomData,
        }
    }

    fn weight(&self, atom: u16) -> f32 {
        self.weights[usize::from(W::sort(atom))]
    }

    fn match_with(&self, truth: &BTreeSet<u16>, said: &BTreeSet<u16>) -> f32 {
        let sum = |set: &mut dyn Iterator<Item = u16>| set.map(|a| self.weight(a)).sum::<f32>();
        let both = sum(&mut truth.intersection(said).copied());
        2.0 * both / (sum(&mut truth.iter().copied()) + sum(&mut said.iter().copied()))
    }

    fn score(&self, said: &W::Facts, rng: &mut impl Rng) -> f32 {
        let atoms = W::atoms(said);
        let mut score = self.match_with(&self.truth, &atoms);
        if let Some(misread) = &self.misread {
            score = 0.5 * score + 0.5 * self.match_with(misread, &atoms);
        }
        score + self.sigma * normal(rng)
    }
}

/// A candidate as a run at `progress` might have proposed it: the truth with some things changed.
fn candidate<W: World>(truth: &W::Facts, progress: f32, rng: &mut impl Rng) -> W::Facts {
    let mut facts = *truth;
    let most = 1.5 + 6.5 * (1.0 - progress);
    let changes = rng.random_range(0.0..most).ceil() as usize;
    for _ in 0..changes {
        facts = W::perturb(&facts, rng);
    }
    facts
}

/// What a run that has seen only one kind of object so far would hold: part of the truth, partly wrong.
fn partial<W: World>(truth: &W::Facts, rng: &mut impl Rng) -> W::Facts {
    let facts = W::part(truth, rng);
    (0..rng.random_range(0..4)).fold(facts, |facts, _| W::perturb(&facts, rng))
}

/// Simulates the moment of one run. `initial` is the initial set, parsed.
fn example<W: World>(initial: &[(String, W::Facts)], keep: usize, scale: u32, rng: &mut ChaCha8Rng) -> Example {
    let truth = W::truth(rng);
    let taste = Taste::<W>::new(&truth, rng);
    let progress = if rng.random_bool(0.2) { 0.0 } else { rng.random_range(0.0..1.0_f32) };
    let mut pool: BTreeMap<String, W::Facts> = BTreeMap::new();
    for _ in 0..if progress == 0.0 { initial.len() } else { 100 } {
        let (text, facts) = if progress == 0.0 {
            initial[pool.len() % initial.len()].clone()
        } else {
            initial[rng.random_range(0..initial.len())].clone()
        };
        pool.insert(text, facts);
    }
    if progress == 0.0 {
        pool = initial.iter().cloned().collect();
    } else {
        let blind = rng.random_range(0.0..0.5) * (1.0 - progress);
        for _ in 0..rng.random_range(16..120) {
            let facts = if rng.random_bool(f64::from(blind)) {
                partial::<W>(&truth, rng)
            } else {
                candidate::<W>(&truth, progress, rng)
            };
            pool.insert(W::caption(&facts, rng), facts);
        }
        // The answer itself is seldom in the list: what comes next must be new.
        let keep_truth = rng.random_bool(0.2);
        pool.retain(|_, f| keep_truth || *f != truth);
    }
    let mut scored: Vec<(f32, String)> =
        pool.into_iter().map(|(text, facts)| (taste.score(&facts, rng), text)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.truncate(keep);
    scored.reverse();
    let scores: Vec<f32> = scored.iter().map(|s| s.0).collect();
    let items = labels(&scores, scale).into_iter().zip(scored.into_iter().map(|s| s.1)).collect();
    Example { items, target: W::caption(&truth, rng), progress }
}

/// `count` examples, the same for the same seed.
pub fn examples<W: World>(count: usize, seed: u64, keep: usize, scale: u32) -> impl Iterator<Item = Example> {
    let initial = initial::<W>();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(move |_| example::<W>(&initial, keep, scale, &mut rng))
}
