//! Training examples for the demo generator from simulated runs on sounds: the lists that a search holds, and what is
//! heard. As [`crate::search`] for pictures.

use super::facts::{Facts, RECORDED, SOUNDS};
use super::{grammar, sample};
use crate::simulate::{Example, labels, normal};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// Steps of the longest simulated run.
const MOST_STEPS: usize = 5;
/// Examples of one run.
const PER_RUN: usize = 2;

/// A scorer with its own errors: how loudly it hears every sound.
struct Scorer {
    heard: Vec<f32>,
    errors: HashMap<Facts, f32>,
    /// Spread of its error on a statement, and on the words of it.
    sigma: [f32; 2],
}

impl Scorer {
    fn new(truth: &Facts, rng: &mut impl Rng) -> Self {
        let mut heard: Vec<f32> = SOUNDS.iter().map(|_| 0.04 * normal(rng)).collect();
        // What recordings have is confused with one another.
        for sound in 0..RECORDED {
            if rng.random_bool(0.25) {
                heard[usize::from(sound)] += rng.random_range(0.0..0.5_f32);
            }
        }
        for sound in truth.sounds() {
            heard[usize::from(sound)] = rng.random_range(0.45..1.0_f32);
        }
        let norm = heard.iter().map(|h| h * h).sum::<f32>().sqrt();
        heard.iter_mut().for_each(|h| *h /= norm);
        let sigma = [rng.random_range(0.0..0.03), rng.random_range(0.002..0.02)];
        Self { heard, errors: HashMap::new(), sigma }
    }

    /// The cosine of what is heard and what is said.
    fn score(&mut self, facts: &Facts, rng: &mut impl Rng) -> f32 {
        let sounds = facts.sounds();
        let heard: f32 = sounds.iter().map(|s| self.heard[usize::from(*s)]).sum();
        let [statement, words] = self.sigma;
        let error = *self.errors.entry(*facts).or_insert_with(|| statement * normal(rng));
        heard / (sounds.len() as f32).sqrt() + error + words * normal(rng)
    }
}

/// The examples of one simulated run.
fn run(initial: &[(String, Facts)], keep: usize, scale: u32, rng: &mut ChaCha8Rng) -> Vec<Example> {
    let truth = sample::recorded(rng);
    let mut scorer = Scorer::new(&truth, rng);
    let (count, insight) = (rng.random_range(4..=32), rng.random_range(0.0..0.5));
    // A mixture is to be new. One sound is in the initial set already, and then nothing better is to be found.
    let hides = truth.sounds().len() == 2 && rng.random_bool(0.9);
    let mut seen: HashSet<String> = HashSet::new();
    let mut pool: Vec<(f32, String, Facts)> = Vec::new();
    let mut enter = |pool: &mut Vec<(f32, String, Facts)>, text: String, facts: Facts, rng: &mut ChaCha8Rng| {
        if !(hides && facts == truth) && seen.insert(text.clone()) {
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
        if steps.contains(&step) && !pool.is_empty() {
            let scores: Vec<f32> = pool.iter().rev().map(|p| p.0).collect();
            let items = labels(&scores, scale).into_iter().zip(pool.iter().rev().map(|p| p.1.clone())).collect();
            let progress = step as f32 / MOST_STEPS as f32;
            out.push(Example { items, target: grammar::canonical(&truth), progress });
        }
        let parents: Vec<Facts> = pool.iter().map(|p| p.2).collect();
        for _ in 0..count {
            let facts = if rng.random_bool(insight) {
                sample::perturb(&truth, rng)
            } else if rng.random_bool(0.5) || parents.is_empty() {
                sample::recombine(&parents, rng)
            } else {
                sample::perturb(&parents[rng.random_range(0..parents.len())], rng)
            };
            let plain = rng.random_bool(0.9);
            let text = if plain { grammar::canonical(&facts) } else { grammar::caption(&facts, rng) };
            enter(&mut pool, text, facts, rng);
        }
        rank(&mut pool);
    }
    out
}

/// `count` examples, the same for the same seed.
pub fn examples(count: usize, seed: u64, keep: usize, scale: u32) -> Vec<Example> {
    let initial: Vec<(String, Facts)> = sample::initial_set(0)
        .into_iter()
        .filter_map(|text| grammar::parse(&text).map(|facts| (text, facts)))
        .collect();
    let of_run = |i: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i as u64));
        run(&initial, keep, scale, &mut rng)
    };
    // Every run gives one example at the least.
    let mut out: Vec<Example> = (0..count).into_par_iter().flat_map_iter(of_run).collect();
    out.truncate(count);
    out
}
