//! Training examples for the demo generator from simulated runs: the lists that a search holds before it has found the
//! truth.
//!
//! Lists drawn around the truth ([`crate::simulate`]) have the truth in their middle, and a model that learns from them
//! alone takes a vote among what it is shown. The list of a real run sits around what the search has found so far: what
//! is in it was tried and is not the answer. Here a plain evolutionary search climbs on a simulated scorer. The truth
//! itself is never scored, so that the answer is always new. Some searches are stuck: they never come upon some fact of
//! the truth and end on a hill beside it, and what the answer must do is try what the list has not.

use crate::facts::{Content, Facts, RELATION_SORT, Relation, Split, sort};
pub use crate::simulate::Example;
use crate::simulate::{labels, normal};
use crate::{grammar, sample};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// Steps of the longest simulated run.
const MOST_STEPS: usize = 7;
/// Examples of one run.
const PER_RUN: usize = 3;

/// What a scorer hears in a caption: (number, sort), sorted. The sorts and their weights are much like those of the
/// kernel that the demo's encoder is trained on (train/train_clip.py), where numbers and places are not by noun.
fn features(facts: &Facts) -> Vec<(u16, u8)> {
    const LOOSE: u16 = 6000;
    const SIDE: u16 = 7000;
    let mut out: Vec<(u16, u8)> = facts.atoms().into_iter().map(|atom| (atom, sort(atom))).collect();
    // A relation is heard as which noun is on which side, below.
    out.retain(|f| f.1 != RELATION_SORT);
    out.extend(facts.coloured().into_iter().map(|(_, colour)| (LOOSE + u16::from(colour), 7)));
    if let Content::Two { a, relation, b } = facts.content {
        let kind = u16::from(relation == Relation::Above) * 96;
        out.extend([(SIDE + kind + u16::from(a.noun), 6), (SIDE + kind + 48 + u16::from(b.noun), 6)]);
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// A scorer with its own taste and its own errors.
struct Scorer {
    weights: [f32; 8],
    /// What it takes for the truth, each with its share.
    sees: Vec<(f32, Vec<(u16, u8)>)>,
    /// Spread of its error on a statement.
    sigma: f32,
    errors: HashMap<Facts, f32>,
}

impl Scorer {
    fn new(truth: &Facts, rng: &mut impl Rng) -> Self {
        let base = [1.5, 1.0, 0.6, 0.9, 0.8, 1.0, 0.45, 0.2];
        let mut sees = vec![(1.0, features(truth))];
        if rng.random_bool(0.2) {
            let share = rng.random_range(0.1..0.5);
            sees[0].0 = 1.0 - share;
            sees.push((share, features(&sample::perturb(truth, rng))));
        }
        let weights = base.map(|w: f32| w * (0.2 * normal(rng)).exp());
        Self { weights, sees, sigma: rng.random_range(0.005..0.07), errors: HashMap::new() }
    }

    fn weigh(&self, features: &[(u16, u8)]) -> f32 {
        features.iter().map(|f| self.weights[usize::from(f.1)]).sum()
    }

    fn score(&mut self, facts: &Facts, rng: &mut impl Rng) -> f32 {
        let said = features(facts);
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
fn blind_spots(truth: &Facts, rng: &mut impl Rng) -> Vec<u16> {
    let one_kind = truth.nouns().len() == 1;
    // The initial set names every noun, so that the only noun of a scene is not missed.
    let atoms: Vec<u16> = truth.atoms().into_iter().filter(|a| *a >= 48 || !one_kind).collect();
    let count = [0, 0, 1, 1, 1, 2, 2, 3][rng.random_range(0..8)];
    (0..count).map(|_| atoms[rng.random_range(0..atoms.len())]).collect()
}

/// A hill beside the truth: the truth with changes, so many that no blind spot is in it.
fn hill(truth: &Facts, blind: &[u16], rng: &mut impl Rng) -> Facts {
    let mut facts = *truth;
    for _ in 0..200 {
        if !blind.iter().any(|b| facts.atoms().contains(b)) {
            break;
        }
        let tried = sample::perturb(&facts, rng);
        let missed = |f: &Facts| blind.iter().filter(|b| f.atoms().contains(*b)).count();
        if missed(&tried) < missed(&facts) {
            facts = tried;
        }
    }
    facts
}

impl Manner {
    fn candidate(&self, hill: &Facts, pool: &[Facts], rng: &mut impl Rng) -> Facts {
        let several = |facts: Facts, most: usize, rng: &mut _| {
            (0..RngExt::random_range(rng, 1..=most)).fold(facts, |facts, _| sample::perturb(&facts, rng))
        };
        if rng.random_bool(self.insight) {
            several(*hill, 4, rng)
        } else if rng.random_bool(self.recombine) {
            sample::recombine(pool, rng)
        } else {
            // The best stand first; the square of a uniform favours them.
            let at = (rng.random::<f32>().powi(2) * pool.len() as f32) as usize;
            several(pool[at.min(pool.len() - 1)], 2, rng)
        }
    }
}

/// The examples of one simulated run.
fn run(initial: &[(String, Facts)], keep: usize, scale: u32, stuck: bool, rng: &mut ChaCha8Rng) -> Vec<Example> {
    let truth = sample::scene(Split::Train, rng).facts;
    let mut scorer = Scorer::new(&truth, rng);
    let manner = Manner {
        insight: rng.random_range(0.1..0.6),
        recombine: rng.random_range(0.0..1.0),
        count: rng.random_range(6..=32),
    };
    let mut seen: HashSet<String> = HashSet::new();
    let mut pool: Vec<(f32, String, Facts)> = Vec::new();
    let blind = if stuck { blind_spots(&truth, rng) } else { Vec::new() };
    let sees = |facts: &Facts| !blind.iter().any(|b| facts.atoms().contains(b));
    let mut enter = |pool: &mut Vec<(f32, String, Facts)>, text: String, facts: Facts, rng: &mut ChaCha8Rng| {
        if facts != truth && facts.split() == Split::Train && seen.insert(text.clone()) {
            pool.push((scorer.score(&facts, rng), text, facts));
        }
    };
    let rank = |pool: &mut Vec<(f32, String, Facts)>| {
        pool.sort_by(|a, b| b.0.total_cmp(&a.0));
        pool.truncate(keep);
    };
    for (text, facts) in initial {
        enter(&mut pool, text.clone(), *facts, rng);
    }
    rank(&mut pool);
    let mut steps: Vec<usize> = (0..PER_RUN).map(|_| rng.random_range(0..=MOST_STEPS)).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut out = Vec::with_capacity(steps.len());
    for step in 0..=steps.last().copied().unwrap_or_default() {
        if pool.is_empty() {
            break;
        }
        if steps.contains(&step) {
            let scores: Vec<f32> = pool.iter().rev().map(|p| p.0).collect();
            let items = labels(&scores, scale).into_iter().zip(pool.iter().rev().map(|p| p.1.clone())).collect();
            let progress = step as f32 / MOST_STEPS as f32;
            out.push(Example { items, target: grammar::canonical(&truth), progress });
        }
        // The initial set is what it is; what comes later is blind.
        let parents: Vec<Facts> = pool.iter().map(|p| p.2).collect();
        pool.retain(|p| sees(&p.2));
        let hill = hill(&truth, &blind, rng);
        for _ in 0..manner.count {
            let facts = manner.candidate(&hill, &parents, rng);
            if sees(&facts) {
                // Answers are in the plainest words: the same statement in others would cost a score and tell nothing.
                let plain = rng.random_bool(0.9);
                let text = if plain { grammar::canonical(&facts) } else { grammar::caption(&facts, rng) };
                enter(&mut pool, text, facts, rng);
            }
        }
        rank(&mut pool);
    }
    out
}

/// `count` examples, the same for the same seed; `stuck`: three quarters of the searches have blind spots.
pub fn examples(count: usize, seed: u64, keep: usize, scale: u32, stuck: bool) -> Vec<Example> {
    let initial: Vec<(String, Facts)> = sample::initial_set(0)
        .into_iter()
        .filter_map(|text| grammar::parse(&text).map(|facts| (text, facts)))
        .collect();
    let of_run = |i: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i as u64));
        run(&initial, keep, scale, stuck, &mut rng)
    };
    // A run gives two examples at the least on average: steps that coincide count once.
    let mut out: Vec<Example> = (0..count.div_ceil(2)).into_par_iter().flat_map_iter(of_run).collect();
    out.truncate(count);
    out
}
