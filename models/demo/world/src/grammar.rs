//! Captions: from facts to English and back. Every sentence that [`caption`] can make, [`parse`] reads.

use crate::facts::{BACKGROUNDS, COLOURS, Content, Facts, POSITIONS, Relation, SIZES, Thing};
use crate::icons;
use rand::{Rng, RngExt};

const COUNTS: [&str; 4] = ["", "one", "two", "three"];

/// The plainest way to say it; always the same for the same facts.
pub fn canonical(facts: &Facts) -> String {
    sentence(facts, 0, false, [0, 1, 2])
}

/// One of the ways to say it.
pub fn caption(facts: &Facts, rng: &mut impl Rng) -> String {
    let mut order = [0, 1, 2];
    for i in (1..3).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    sentence(facts, rng.random_range(0..3), rng.random_bool(0.5), order)
}

/// `form`: 0 background last, 1 background first, 2 "there is …"; `reversed` tells a pair from its other end.
fn sentence(facts: &Facts, form: u8, reversed: bool, order: [usize; 3]) -> String {
    let background = facts.background.map(|b| BACKGROUNDS[usize::from(b)].1);
    let (body, plural) = match facts.content {
        Content::One { noun, colour, count, size, position } => {
            let mut body = noun_phrase(noun, colour, size, count);
            if let Some(p) = position {
                body = format!("{body} {}", POSITIONS[usize::from(p)].1);
            }
            (body, count > 1)
        }
        Content::Two { a, relation, b } => {
            let (first, word, second) = match (relation, reversed) {
                (Relation::LeftOf, false) => (a, "to the left of", b),
                (Relation::LeftOf, true) => (b, "to the right of", a),
                (Relation::Above, false) => (a, "above", b),
                (Relation::Above, true) => (b, "below", a),
            };
            (format!("{} {word} {}", thing(first), thing(second)), false)
        }
        Content::Three(objects) => {
            let [x, y, z] = order.map(|i| noun_phrase(objects[i].0, objects[i].1, None, 1));
            (format!("{x}, {y} and {z}"), false)
        }
    };
    with_background(&body, if plural { "there are" } else { "there is" }, background, form)
}

/// A sentence of what there is and where; `form`: 0 background last, 1 background first, 2 "there is …".
pub(crate) fn with_background(body: &str, there_is: &str, background: Option<&str>, form: u8) -> String {
    match (form, background) {
        (1, Some(b)) => format!("{b}, {body}"),
        (2, b) => format!("{there_is} {body}{}", b.map(|b| format!(", {b}")).unwrap_or_default()),
        (_, Some(b)) => format!("{body}, {b}"),
        (_, None) => body.to_owned(),
    }
}

fn thing(t: Thing) -> String {
    noun_phrase(t.noun, t.colour, Some(t.size), 1)
}

fn noun_phrase(noun: u8, colour: u8, size: Option<u8>, count: u8) -> String {
    let colour = COLOURS[usize::from(colour)];
    let noun = if count == 1 { icons::nouns()[usize::from(noun)] } else { icons::plurals()[usize::from(noun)] };
    let words = match size {
        Some(s) => format!("{} {colour} {noun}", SIZES[usize::from(s)]),
        None => format!("{colour} {noun}"),
    };
    match count {
        1 if words.starts_with('o') => format!("an {words}"),
        1 => format!("a {words}"),
        _ => format!("{} {words}", COUNTS[usize::from(count.min(3))]),
    }
}

/// What a noun phrase states.
#[derive(Clone, Copy)]
struct Phrase {
    noun: u8,
    colour: u8,
    size: Option<u8>,
    count: u8,
}

/// Reads a caption; `None` for whatever the grammar does not say. Case, commas, spaces and a full stop do not matter.
pub fn parse(text: &str) -> Option<Facts> {
    let lower = text.to_lowercase();
    let words = words_of(&lower);
    let mut rest: &[&str] = &words;
    let mut background = take_phrase(&mut rest, &BACKGROUNDS);
    if rest.len() > 1 && rest[0] == "there" && (rest[1] == "is" || rest[1] == "are") {
        rest = &rest[2..];
    }
    let first = take_noun_phrase(&mut rest)?;
    let content = if let Some((relation, reversed)) = take_relation(&mut rest) {
        let second = take_noun_phrase(&mut rest)?;
        let (a, b) = (as_thing(first)?, as_thing(second)?);
        let (a, b) = if reversed { (b, a) } else { (a, b) };
        (a.noun != b.noun).then_some(Content::Two { a, relation, b })?
    } else if let Some(second) = take_noun_phrase(&mut rest) {
        strip(&mut rest, &["and"]).then_some(())?;
        let third = take_noun_phrase(&mut rest)?;
        three([first, second, third])?
    } else {
        Content::One {
            noun: first.noun,
            colour: first.colour,
            count: first.count,
            size: first.size,
            position: take_phrase(&mut rest, &POSITIONS),
        }
    };
    if background.is_none() {
        background = take_phrase(&mut rest, &BACKGROUNDS);
    }
    rest.is_empty().then_some(Facts { content, background })
}

/// The words of a caption in lower case, without commas, spaces and full stops.
pub(crate) fn words_of(lower: &str) -> Vec<&str> {
    let words = lower.split(|c: char| c.is_whitespace() || c == ',');
    words.map(|w| w.trim_end_matches('.')).filter(|w| !w.is_empty()).collect()
}

/// Three objects in canonical order; `None` where nouns repeat or a size or number is stated.
fn three(phrases: [Phrase; 3]) -> Option<Content> {
    let plain = phrases.iter().all(|p| p.size.is_none() && p.count == 1);
    let mut objects = phrases.map(|p| (p.noun, p.colour));
    objects.sort_unstable();
    let distinct = objects[0].0 != objects[1].0 && objects[1].0 != objects[2].0;
    (plain && distinct).then_some(Content::Three(objects))
}

fn as_thing(p: Phrase) -> Option<Thing> {
    let size = p.size?;
    (p.count == 1).then_some(Thing { noun: p.noun, colour: p.colour, size })
}

/// Takes `words` off the front of `rest` if they stand there.
pub(crate) fn strip<'t>(rest: &mut &'t [&'t str], words: &[&str]) -> bool {
    let found = rest.starts_with(words);
    if found {
        *rest = &rest[words.len()..];
    }
    found
}

/// The index of the phrase of a table that stands at the front of `rest`, which is taken off.
pub(crate) fn take_phrase<'t>(rest: &mut &'t [&'t str], table: &[(&str, &str)]) -> Option<u8> {
    for (i, (_, phrase)) in table.iter().enumerate() {
        let words: Vec<&str> = phrase.split(' ').collect();
        if strip(rest, &words) {
            return Some(i as u8);
        }
    }
    None
}

fn take_relation<'t>(rest: &mut &'t [&'t str]) -> Option<(Relation, bool)> {
    let table: [(&[&str], Relation, bool); 4] = [
        (&["to", "the", "left", "of"], Relation::LeftOf, false),
        (&["to", "the", "right", "of"], Relation::LeftOf, true),
        (&["above"], Relation::Above, false),
        (&["below"], Relation::Above, true),
    ];
    for (words, relation, reversed) in table {
        if strip(rest, words) {
            return Some((relation, reversed));
        }
    }
    None
}

fn take_noun_phrase<'t>(rest: &mut &'t [&'t str]) -> Option<Phrase> {
    let mut words = rest.iter().copied();
    let mut used = 3;
    let count = match words.next()? {
        "a" | "an" | "one" => 1,
        "two" => 2,
        "three" => 3,
        _ => return None,
    };
    let mut word = words.next()?;
    let size = SIZES.iter().position(|s| *s == word);
    if size.is_some() {
        word = words.next()?;
        used += 1;
    }
    let colour = COLOURS.iter().position(|c| *c == word)?;
    let word = words.next()?;
    let names = if count == 1 { icons::nouns() } else { icons::plurals() };
    let noun = names.iter().position(|n| *n == word)?;
    *rest = &rest[used..];
    Some(Phrase { noun: noun as u8, colour: colour as u8, size: size.map(|s| s as u8), count })
}
