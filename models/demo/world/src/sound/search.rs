//! Training examples for the demo generator from simulated runs on sounds: the lists that a search holds, and what is
//! heard. As [`crate::search`] for pictures.

use super::facts::{Facts, RECORDED, SOUNDS};
use super::{grammar, sample};
use crate::search::{Pool, gather, moments, rank};
use crate::simulate::{Example, normal};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
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
    let mut pool: Pool<Facts> = Vec::new();
    let mut enter = |pool: &mut Pool<Facts>, text: String, facts: Facts, rng: &mut ChaCha8Rng| {
        if !(hides && facts == truth) && seen.insert(text.clone()) {
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
        if steps.contains(&step) && !pool.is_empty() {
            out.push(Example::of(&pool, scale, grammar::canonical(&truth), step as f32 / MOST_STEPS as f32));
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
        rank(&mut pool, keep);
    }
    out
}

/// `count` examples, the same for the same seed.
pub fn examples(count: usize, seed: u64, keep: usize, scale: u32) -> Vec<Example> {
    let initial: Vec<(String, Facts)> = sample::initial_set(0)
        .into_iter()
        .filter_map(|text| grammar::parse(&text).map(|facts| (text, facts)))
        .collect();
    // Every run gives one example at the least.
    gather(count, count, seed, |rng| run(&initial, keep, scale, rng))
}
