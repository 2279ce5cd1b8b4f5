//! Draws facts, changes them, recombines them, and makes the initial set.

use super::facts::{Facts, RECORDED, SOUNDS};
use super::grammar;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Wordings of every single sound in the initial set.
const WORDINGS: usize = 6;
/// Pairs in the initial set.
const PAIRS: usize = 48;

/// One of the sounds that recordings have; now and then any other.
fn any(rng: &mut impl Rng) -> u8 {
    let count = if rng.random_bool(0.75) { RECORDED } else { SOUNDS.len() as u8 };
    rng.random_range(0..count)
}

fn other(not: u8, rng: &mut impl Rng) -> u8 {
    loop {
        let sound = any(rng);
        if sound != not {
            return sound;
        }
    }
}

/// What a recording can be: one sound as often as two.
pub fn recorded(rng: &mut impl Rng) -> Facts {
    let a = rng.random_range(0..RECORDED);
    if rng.random_bool(0.5) {
        return Facts::one(a);
    }
    Facts::two(a, (a + rng.random_range(1..RECORDED)) % RECORDED)
}

/// What a caption can say: any sound, or any two.
pub fn said(rng: &mut impl Rng) -> Facts {
    let a = rng.random_range(0..SOUNDS.len() as u8);
    if rng.random_bool(0.4) { Facts::one(a) } else { Facts::two(a, other(a, rng)) }
}

/// Changes one thing: another sound for one, a sound more, or a sound fewer.
pub fn perturb(facts: &Facts, rng: &mut impl Rng) -> Facts {
    match facts.sounds()[..] {
        [a, b] => {
            let (kept, dropped) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
            if rng.random_bool(0.35) {
                return Facts::one(kept);
            }
            loop {
                let new = other(kept, rng);
                if new != dropped {
                    return Facts::two(kept, new);
                }
            }
        }
        [a, ..] if rng.random_bool(0.5) => Facts::two(a, other(a, rng)),
        [a, ..] => Facts::one(other(a, rng)),
        // Facts have a sound at the least.
        [] => *facts,
    }
}

/// Recombines the pool by the grammar: as many sounds as a random member has, each of a random member.
pub fn recombine(pool: &[Facts], rng: &mut impl Rng) -> Facts {
    let sounds: Vec<u8> = pool.iter().flat_map(Facts::sounds).collect();
    if sounds.is_empty() {
        return said(rng);
    }
    let a = sounds[rng.random_range(0..sounds.len())];
    if pool[rng.random_range(0..pool.len())].sounds().len() == 1 {
        return Facts::one(a);
    }
    let b = (0..20).map(|_| sounds[rng.random_range(0..sounds.len())]).find(|b| *b != a);
    Facts::two(a, b.unwrap_or_else(|| other(a, rng)))
}

/// The texts that a run starts from: every sound in several wordings, those that no recording has among them, and a few
/// pairs, of which none is of two sounds that recordings have: a mixture is never in it.
pub fn initial_set(seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = BTreeSet::new();
    for sound in 0..SOUNDS.len() as u8 {
        let facts = Facts::one(sound);
        out.insert(grammar::canonical(&facts));
        let mut left = WORDINGS - 1;
        while left > 0 {
            left -= usize::from(out.insert(grammar::caption(&facts, &mut rng)));
        }
    }
    let mut left = PAIRS;
    while left > 0 {
        let facts = said(&mut rng);
        let fresh = facts.sounds().len() == 2 && !facts.is_recorded();
        left -= usize::from(fresh && out.insert(grammar::caption(&facts, &mut rng)));
    }
    out.into_iter().collect()
}

/// Something that a language model may say and nobody would: a caption with a word too many or too few, with the end of
/// another one, or with one sound twice. None where every attempt came out as a sentence of the grammar.
pub fn garbled(caption: &str, other: &str, rng: &mut impl Rng) -> Option<String> {
    let named = grammar::named(caption);
    if rng.random_bool(0.2) && !named.is_empty() {
        return Some(grammar::doubled(named[rng.random_range(0..named.len())], rng));
    }
    (0..20).map(|_| crate::garble::spliced(caption, other, rng)).find(|text| grammar::parse(text).is_none())
}
