//! Draws moving scenes, changes them, recombines them, and makes the initial set of videos.

use super::Videos;
use super::facts::{Actor, BACKGROUNDS, Facts, NOUNS, VERBS};
use super::grammar;
use crate::facts::Split;
use crate::worlds::within;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn noun(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..NOUNS as u8)
}

fn other_noun(not: u8, rng: &mut impl Rng) -> u8 {
    (not + rng.random_range(1..NOUNS as u8)) % NOUNS as u8
}

fn colour(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..8)
}

fn verb(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..VERBS.len() as u8)
}

fn background(rng: &mut impl Rng) -> u8 {
    rng.random_range(0..BACKGROUNDS as u8)
}

fn actor(noun: u8, rng: &mut impl Rng) -> Actor {
    Actor { noun, colour: colour(rng), verb: verb(rng) }
}

/// Facts of objects that were made to have different nouns.
fn of(first: Actor, second: Option<Actor>, background: Option<u8>) -> Facts {
    let one = Facts { first, second: None, background };
    second.and_then(|second| Facts::two(first, second, background)).unwrap_or(one)
}

/// Complete facts, of any split: one object or two, equally often.
pub fn facts(rng: &mut impl Rng) -> Facts {
    let first = noun(rng);
    let second = rng.random_bool(0.5).then(|| other_noun(first, rng)).map(|n| actor(n, rng));
    of(actor(first, rng), second, Some(background(rng)))
}

/// The texts that a run starts from: 384 captions of one object each, half of them without the background, none with a
/// held-out combination.
pub fn initial_set(seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = std::collections::BTreeSet::new();
    for noun in 0..NOUNS as u8 {
        let mut left = 24;
        while left > 0 {
            let background = rng.random_bool(0.5).then(|| background(&mut rng));
            let facts = of(actor(noun, &mut rng), None, background);
            let fresh = facts.split() == Split::Train && out.insert(grammar::caption(&facts, &mut rng));
            left -= usize::from(fresh);
        }
    }
    out.into_iter().collect()
}

/// Changes one thing, staying in the part of the world that training sees.
pub fn perturb(facts: &Facts, rng: &mut impl Rng) -> Facts {
    within::<Videos>(facts, || change(*facts, rng))
}

/// Changes what is done and by which, and not what is there, staying in the part of the world that training sees: what
/// a scorer that hears captions as bags of words, or sees one frame, does not notice.
pub fn confuse(facts: &Facts, rng: &mut impl Rng) -> Facts {
    within::<Videos>(facts, || {
        let (mut first, mut second) = (facts.first, facts.second);
        match &mut second {
            Some(other) if rng.random_bool(0.4) => std::mem::swap(&mut first.colour, &mut other.colour),
            Some(other) if rng.random_bool(0.5) => std::mem::swap(&mut first.verb, &mut other.verb),
            Some(other) if rng.random_bool(0.5) => other.verb = near(other.verb, rng),
            _ => first.verb = near(first.verb, rng),
        }
        of(first, second, facts.background)
    })
}

/// Mostly a verb of the same sort: of moves another one, and grows for shrinks and appears for disappears.
fn near(verb: u8, rng: &mut impl Rng) -> u8 {
    if rng.random_bool(0.3) {
        return self::verb(rng);
    }
    match verb {
        0..4 => rng.random_range(0..4),
        4 => 5,
        5 => 4,
        7 => 8,
        8 => 7,
        _ => self::verb(rng),
    }
}

/// Changes one thing, in any split; now and then what comes out is what went in.
pub fn change(facts: Facts, rng: &mut impl Rng) -> Facts {
    let Facts { mut first, mut second, background } = facts;
    match rng.random_range(0..100) {
        0..15 => return Facts { background: Some(self::background(rng)), ..facts },
        15..19 => return Facts { background: None, ..facts },
        _ => {}
    }
    let Some(mut other) = second else {
        match rng.random_range(0..100) {
            0..38 => first.noun = noun(rng),
            38..60 => first.colour = colour(rng),
            60..90 => first.verb = verb(rng),
            _ => second = Some(actor(other_noun(first.noun, rng), rng)),
        }
        return of(first, second, background);
    };
    // Either of the two is changed equally often.
    if rng.random_bool(0.5) {
        std::mem::swap(&mut first, &mut other);
    }
    match rng.random_range(0..100) {
        0..32 => first.noun = other_noun(other.noun, rng),
        32..50 => first.colour = colour(rng),
        50..74 => first.verb = verb(rng),
        74..82 => std::mem::swap(&mut first.colour, &mut other.colour),
        82..92 => std::mem::swap(&mut first.verb, &mut other.verb),
        _ => return of(first, None, background),
    }
    of(first, Some(other), background)
}

/// A true caption that leaves something out, or all of it.
pub fn shortened(facts: &Facts, rng: &mut impl Rng) -> Facts {
    let background = facts.background.filter(|_| rng.random_bool(0.6));
    match facts.second {
        Some(second) if rng.random_bool(0.6) => {
            of(if rng.random_bool(0.5) { facts.first } else { second }, None, background)
        }
        second => of(facts.first, second, background),
    }
}

/// What a run that has seen only one object so far would hold.
pub(crate) fn part(truth: &Facts, rng: &mut impl Rng) -> Facts {
    let chosen = truth.second.filter(|_| rng.random_bool(0.5)).unwrap_or(truth.first);
    of(chosen, None, truth.background.filter(|_| rng.random_bool(0.6)))
}

/// Recombines the pool by the grammar: as many objects as a random member has, then every part independently from a
/// random member that states it (at random where none does). May reach combinations of either split.
pub fn recombine(pool: &[Facts], rng: &mut impl Rng) -> Facts {
    fn pick<T: Copy>(from: &[T], rng: &mut impl Rng) -> Option<T> {
        (!from.is_empty()).then(|| from[rng.random_range(0..from.len())])
    }
    let actors: Vec<Actor> = pool.iter().flat_map(Facts::actors).collect();
    let backgrounds: Vec<u8> = pool.iter().filter_map(|f| f.background).collect();
    let mix = |noun: u8, rng: &mut _| Actor {
        noun,
        colour: pick(&actors, rng).map_or_else(|| colour(rng), |a| a.colour),
        verb: pick(&actors, rng).map_or_else(|| verb(rng), |a| a.verb),
    };
    let first = pick(&actors, rng).map_or_else(|| noun(rng), |a| a.noun);
    let two = pick(pool, rng).is_some_and(|f| f.second.is_some());
    let second = two.then(|| {
        let found = (0..20).filter_map(|_| pick(&actors, rng)).find(|a| a.noun != first);
        found.map_or_else(|| other_noun(first, rng), |a| a.noun)
    });
    let background = pick(&backgrounds, rng).unwrap_or_else(|| background(rng));
    let second = second.map(|noun| mix(noun, rng));
    of(mix(first, rng), second, Some(background))
}
