//! Captions of sounds: from facts to English and back. Every sentence that [`caption`] can make, [`parse`] reads.

use super::facts::{Facts, SOUNDS, Sound};
use rand::{Rng, RngExt};

/// What may stand before noun phrases; the first only before those that are made of a sound and what makes it.
const OPENINGS: [&str; 2] = ["the sound of", "one can hear"];

/// The plainest way to say it; always the same for the same facts.
pub fn canonical(facts: &Facts) -> String {
    let clauses: Vec<&str> = facts.sounds().iter().map(|s| of(*s).clauses[0]).collect();
    clauses.join(" while ")
}

/// One of the ways to say it.
pub fn caption(facts: &Facts, rng: &mut impl Rng) -> String {
    let mut sounds = facts.sounds();
    if rng.random_bool(0.5) {
        sounds.reverse();
    }
    sentence(&sounds, rng)
}

/// One sound said twice: nobody would, and [`parse`] does not read it.
pub fn doubled(sound: u8, rng: &mut impl Rng) -> String {
    sentence(&[sound, sound], rng)
}

fn sentence(sounds: &[u8], rng: &mut impl Rng) -> String {
    let form = rng.random_range(0..6);
    let parts: Vec<&str> = sounds
        .iter()
        .map(|s| match form {
            0..=2 => pick(of(*s).clauses, rng),
            4 => of(*s).phrases[0],
            _ => pick(&of(*s).phrases, rng),
        })
        .collect();
    let joined = parts.join(if form < 2 { " while " } else { " and " });
    match form {
        4 | 5 => format!("{} {joined}", OPENINGS[form - 4]),
        _ => joined,
    }
}

fn of(sound: u8) -> &'static Sound {
    &SOUNDS[usize::from(sound)]
}

fn pick<'a>(from: &[&'a str], rng: &mut impl Rng) -> &'a str {
    from[rng.random_range(0..from.len())]
}

/// Reads a caption; `None` for whatever the grammar does not say. Case, commas, spaces and a full stop do not matter.
pub fn parse(text: &str) -> Option<Facts> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| c.is_whitespace() || c == ',')
        .map(|w| w.trim_end_matches('.'))
        .filter(|w| !w.is_empty())
        .collect();
    let said = words.join(" ");
    let opening = OPENINGS.iter().position(|o| said.strip_prefix(o).is_some_and(|rest| rest.starts_with(' ')));
    let body = opening.map_or(&said[..], |i| &said[OPENINGS[i].len() + 1..]);
    let clause = |text: &str| find(|s| s.clauses.contains(&text));
    let phrase = |text: &str| match opening {
        Some(0) => find(|s| s.phrases[0] == text),
        _ => find(|s| s.phrases.contains(&text)),
    };
    let both = |(a, b): (&str, &str), read: &dyn Fn(&str) -> Option<u8>| {
        let (a, b) = (read(a)?, read(b)?);
        (a != b).then(|| Facts::two(a, b))
    };
    let clauses_allowed = opening.is_none();
    if let Some(pair) = body.split_once(" while ") {
        return clauses_allowed.then(|| both(pair, &clause)).flatten();
    }
    if let Some(pair) = body.split_once(" and ") {
        let read = clauses_allowed.then(|| both(pair, &clause)).flatten();
        return read.or_else(|| both(pair, &phrase));
    }
    let read = if clauses_allowed { clause(body) } else { None };
    read.or_else(|| phrase(body)).map(Facts::one)
}

/// All that a caption can say.
pub fn all() -> Vec<Facts> {
    let count = SOUNDS.len() as u8;
    // Two of the same are one.
    (0..count).flat_map(|a| (a..count).map(move |b| Facts::two(a, b))).collect()
}

/// The sounds of which a wording stands somewhere in a text, whether that is a sentence or not.
pub fn named(text: &str) -> Vec<u8> {
    let padded = format!(" {text} ");
    let stands = |wording: &&str| padded.contains(&format!(" {wording} "));
    let count = SOUNDS.len() as u8;
    (0..count).filter(|s| of(*s).clauses.iter().chain(&of(*s).phrases).any(&stands)).collect()
}

fn find(is: impl Fn(&Sound) -> bool) -> Option<u8> {
    // As many as a u8 can count: there are 28.
    SOUNDS.iter().position(is).map(|i| i as u8)
}
