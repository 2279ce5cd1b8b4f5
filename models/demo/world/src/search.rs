//! Training examples for the demo generator from simulated runs: the lists that a search holds before it has found the
//! truth.
//!
//! Lists drawn around the truth ([`crate::simulate`]) have the truth in their middle, and a model that learns from them
//! alone takes a vote among what it is shown. The list of a real run sits around what the search has found so far: what
//! is in it was tried and is not the answer. Here a plain evolutionary search climbs on a simulated scorer. The truth
//! itself is never scored, so that the answer is always new. Some searches are stuck: they never come upon some fact of
//! the truth and end on a hill beside it, and what the answer must do is try what the list has not.

use crate::facts::Split;
pub use crate::simulate::Example;
use crate::simulate::{labels, normal};
use crate::worlds::{World, initial};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// Steps of the longest simulated run.
const MOST_STEPS: usize = 7;
/// Examples of one run.
const PER_RUN: usize = 3;

/// A scorer with its own taste and its own errors.
struct Scorer<W: World> {
    weights: Vec<f32>,
    /// What it takes for the truth, each with its share.
    sees: Vec<(f32, Vec<(u16, u8)>)>,
    /// Spread of its error on a statement.
    sigma: f32,
    errors: HashMap<W::Facts, f32>,
}

impl<W: World> Scorer<W> {
    fn new(truth: &W::Facts, rng: &mut impl Rng) -> Self {
        let mut sees = vec![(1.0, W::features(truth))];
        if rng.random_bool(0.2) {
            let share = rng.random_range(0.1..0.5);
            sees[0].0 = 1.0 - share;
            sees.push((share, W::features(&W::perturb(truth, rng))));
        }
        let weights = W::FEATURE_WEIGHTS.iter().map(|w| w * (0.2 * normal(rng)).exp()).collect();
        Self { weights, sees, sigma: rng.random_range(0.005..0.07), errors: HashMap::new() }
    }

    fn weigh(&self, features: &[(u16, u8)]) -> f32 {
        features.iter().map(|f| self.weights[usize::from(f.1)]).sum()
    }

    fn score(&mut self, facts: &W::Facts, rng: &mut impl Rng) -> f32 {
        let said = W::features(facts);
        let mut score = 0.0;
        for (share, seen) in &self.sees {
            let both: Vec<(u16, u8)> = said.iter().filter(|f| seen.binary_search(f).is_ok()).copied().collect();
            score += share * self.weigh(&both) / (self.weigh(&said) * self.weigh(seen)).sqrt();
        }
        let sigma = self.sigma;
        // The same statement in other words errs nearly alike.
        score + *self.errors.entry(*facts).or_insert_with(|| sigma * normal(rng)) + 0.005 * normal(rng)
    }
}

/// How a simulated search finds new candidates; differs from run to run.
struct Manner {
    /// Share of candidates that are near the hill: what a good generator would propose.
    insight: f64,
    /// Share of the rest that recombines the pool, rather than changing one of its members.
    recombine: f64,
    /// Candidates a step.
    count: usize,
}

/// Facts of the truth that a search never comes upon, as atoms; none in a quarter of the searches.
fn blind_spots<W: World>(truth: &W::Facts, rng: &mut impl Rng) -> Vec<u16> {
    let one_kind = W::nouns(truth).len() == 1;
    // The initial set names every noun, so that the only noun of a scene is not missed.
    let atoms: Vec<u16> = W::atoms(truth).into_iter().filter(|a| !W::names_noun(*a) || !one_kind).collect();
    let count = [0, 0, 1, 1, 1, 2, 2, 3][rng.random_range(0..8)];
    (0..count).map(|_| atoms[rng.random_range(0..atoms.len())]).collect()
}

/// A hill beside the truth: the truth with changes, so many that no blind spot is in it.
fn hill<W: World>(truth: &W::Facts, blind: &[u16], rng: &mut impl Rng) -> W::Facts {
    let mut facts = *truth;
    for _ in 0..200 {
        if !blind.iter().any(|b| W::atoms(&facts).contains(b)) {
            break;
        }
        let tried = W::perturb(&facts, rng);
        let missed = |f: &W::Facts| blind.iter().filter(|b| W::atoms(f).contains(*b)).count();
        if missed(&tried) < missed(&facts) {
            facts = tried;
        }
    }
    facts
}

impl Manner {
    fn candidate<W: World>(&self, hill: &W::Facts, pool: &[W::Facts], rng: &mut ChaCha8Rng) -> W::Facts {
        let several = |facts: W::Facts, most: usize, rng: &mut ChaCha8Rng| {
            (0..rng.random_range(1..=most)).fold(facts, |facts, _| W::perturb(&facts, rng))
        };
        if rng.random_bool(self.insight) {
            several(*hill, 4, rng)
        } else if rng.random_bool(self.recombine) {
            W::recombine(pool, rng)
        } else {
            // The best stand first; the square of a uniform favours them.
            let at = (rng.random::<f32>().powi(2) * pool.len() as f32) as usize;
            several(pool[at.min(pool.len() - 1)], 2, rng)
        }
    }
}

/// Texts with scores and what they state.
pub(crate) type Pool<F> = Vec<(f32, String, F)>;

/// The best so many, best first.
pub(crate) fn rank<F>(pool: &mut Pool<F>, keep: usize) {
    pool.sort_by(|a, b| b.0.total_cmp(&a.0));
    pool.truncate(keep);
}

/// After which steps of a run its pool becomes an example: so many of 0 to `most`, those that coincide once.
pub(crate) fn moments(count: usize, most: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut steps: Vec<usize> = (0..count).map(|_| rng.random_range(0..=most)).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}

impl Example {
    /// What a pool, best first, is to a generator.
    pub(crate) fn of<F>(pool: &Pool<F>, scale: u32, target: String, progress: f32) -> Self {
        let scores: Vec<f32> = pool.iter().rev().map(|p| p.0).collect();
        let items = labels(&scores, scale).into_iter().zip(pool.iter().rev().map(|p| p.1.clone())).collect();
        Self { items, target, progress }
    }
}

/// The first `count` examples of so many runs, which are made side by side, each from a seed of its own.
pub(crate) fn gather(
    count: usize,
    runs: usize,
    seed: u64,
    run: impl Fn(&mut ChaCha8Rng) -> Vec<Example> + Sync,
) -> Vec<Example> {
    let of_run =
        |i: usize| run(&mut ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i as u64)));
    let mut out: Vec<Example> = (0..runs).into_par_iter().flat_map_iter(of_run).collect();
    out.truncate(count);
    out
}

/// The examples of one simulated run.
fn run<W: World>(
    initial: &[(String, W::Facts)],
    keep: usize,
    scale: u32,
    stuck: bool,
    rng: &mut ChaCha8Rng,
) -> Vec<Example> {
    let truth = W::truth(rng);
    let mut scorer = Scorer::<W>::new(&truth, rng);
    let manner = Manner {
        insight: rng.random_range(0.1..0.6),
        recombine: rng.random_range(0.0..1.0),
        count: rng.random_range(6..=32),
    };
    let mut seen: HashSet<String> = HashSet::new();
    let mut pool: Pool<W::Facts> = Vec::new();
    let blind = if stuck { blind_spots::<W>(&truth, rng) } else { Vec::new() };
    let sees = |facts: &W::Facts| !blind.iter().any(|b| W::atoms(facts).contains(b));
    let mut enter = |pool: &mut Pool<W::Facts>, text: String, facts: W::Facts, rng: &mut ChaCha8Rng| {
        if facts != truth && W::split(&facts) == Split::Train && seen.insert(text.clone()) {
            pool.push((scorer.score(&facts, rng), text, facts));
        }
    };
    for (text, facts) in initial {
        enter(&mut pool, text.clone(), *facts, rng);
    }
    rank(&mut pool, keep);
    let steps = moments(PER_RUN, MOST_STEPS, rng);
    let mut out = Vec::with_capacity(steps.len());
    for step in 0..=steps.last().copied().unwrap_or_default() {
        if pool.is_empty() {
            break;
        }
        if steps.contains(&step) {
            out.push(Example::of(&pool, scale, W::canonical(&truth), step as f32 / MOST_STEPS as f32));
        }
        // The initial set is what it is; what comes later is blind.
        let parents: Vec<W::Facts> = pool.iter().map(|p| p.2).collect();
        pool.retain(|p| sees(&p.2));
        let hill = hill::<W>(&truth, &blind, rng);
        for _ in 0..manner.count {
            let facts = manner.candidate::<W>(&hill, &parents, rng);
            if sees(&facts) {
                // Answers are in the plainest words: the same statement in others would cost a score and tell nothing.
                let plain = rng.random_bool(0.9);
                let text = if plain { W::canonical(&facts) } else { W::caption(&facts, rng) };
                enter(&mut pool, text, facts, rng);
            }
        }
        rank(&mut pool, keep);
    }
    out
}

/// `count` examples, the same for the same seed; `stuck`: three quarters of the searches have blind spots.
pub fn examples<W: World>(count: usize, seed: u64, keep: usize, scale: u32, stuck: bool) -> Vec<Example> {
    let initial = initial::<W>();
    // A run gives two examples at the least on average: steps that coincide count once.
    gather(count, count.div_ceil(2), seed, |rng| run::<W>(&initial, keep, scale, stuck, rng))
}
