//! Captions of moving scenes: from facts to English and back. Every sentence that [`caption`] can make, [`parse`] reads.

use super::facts::{Actor, BACKGROUNDS, Facts, VERBS, nouns};
use crate::facts::{self as still, COLOURS};
use crate::grammar::{strip, take_phrase, with_background, words_of};
use crate::icons;
use rand::{Rng, RngExt};

/// The plainest way to say it; always the same for the same facts.
pub fn canonical(facts: &Facts) -> String {
    sentence(facts, 0, false)
}

/// One of the ways to say it.
pub fn caption(facts: &Facts, rng: &mut impl Rng) -> String {
    let form = rng.random_range(0..3);
    sentence(facts, form, rng.random_bool(0.5))
}

/// `form`: 0 background last, 1 background first, 2 "there is …"; `reversed` names two objects the other way round.
fn sentence(facts: &Facts, form: u8, reversed: bool) -> String {
    let said = |a: Actor| {
        let (noun, colour) = (nouns()[usize::from(a.noun)], COLOURS[usize::from(a.colour)]);
        let article = if colour.starts_with('o') { "an" } else { "a" };
        let (finite, participle) = VERBS[usize::from(a.verb)];
        format!("{article} {colour} {noun} {}", if form == 2 { participle } else { finite })
    };
    let mut parts: Vec<String> = facts.actors().map(said).collect();
    if reversed {
        parts.reverse();
    }
    let background = facts.background.map(|b| still::BACKGROUNDS[usize::from(b)].1);
    with_background(&parts.join(" and "), "there is", background, form)
}

/// Reads a caption; `None` for whatever the grammar does not say. Case, commas, spaces and a full stop do not matter.
pub fn parse(text: &str) -> Option<Facts> {
    let lower = text.to_lowercase();
    let words = words_of(&lower);
    let mut rest: &[&str] = &words;
    let backgrounds = &still::BACKGROUNDS[..BACKGROUNDS];
    let mut background = take_phrase(&mut rest, backgrounds);
    let there_is = strip(&mut rest, &["there", "is"]);
    let first = take_actor(&mut rest, there_is)?;
    let second = if strip(&mut rest, &["and"]) { Some(take_actor(&mut rest, there_is)?) } else { None };
    if background.is_none() {
        background = take_phrase(&mut rest, backgrounds);
    }
    rest.is_empty().then_some(())?;
    match second {
        Some(second) => Facts::two(first, second, background),
        None => Some(Facts { first, second, background }),
    }
}

fn take_actor<'t>(rest: &mut &'t [&'t str], participle: bool) -> Option<Actor> {
    let [article, colour, noun, ..] = *rest else { return None };
    matches!(*article, "a" | "an" | "one").then_some(())?;
    let colour = COLOURS.iter().position(|c| c == colour)?;
    let noun = nouns().iter().position(|n| n == noun)?;
    *rest = &rest[3..];
    let verb = VERBS.iter().position(|verb| {
        let words: Vec<&str> = (if participle { verb.1 } else { verb.0 }).split(' ').collect();
        strip(rest, &words)
    })?;
    Some(Actor { noun: noun as u8, colour: colour as u8, verb: verb as u8 })
}

/// A word of the grammar in the form in which it would be wrong where it stands: "moves" for "moving", "cars" for "car".
pub(crate) fn inflected(word: &str) -> Option<&'static str> {
    let first = |text: &'static str| text.split(' ').next().unwrap_or(text);
    for (finite, participle) in VERBS.map(|(f, p)| (first(f), first(p))) {
        if word == finite {
            return Some(participle);
        }
        if word == participle {
            return Some(finite);
        }
    }
    nouns().contains(&word).then(|| icons::other_number(word)).flatten()
}
