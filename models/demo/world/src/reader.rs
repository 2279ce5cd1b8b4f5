//! What is understood of any text: the things that it names, with what stands right before them, and where they are.
//!
//! [`crate::grammar`] reads sentences whole or not at all. This reads as renderers of pictures do, which follow some
//! wordings and not others: it knows the plainest wording of each fact, in the order of [`crate::grammar::canonical`].
//! A background or a place that is named before any thing, and a pair that is told from its other end ("below", "to the
//! right of"), are not heard. What a text does not say, or not so that it is heard, is left open.
//!
//! ```
//! use mils_demo_world::reader::read;
//! let heard = read("Please draw a small RED fox, really, on the grass!");
//! assert_eq!(heard.things.len(), 0); // there are no foxes in this world
//! assert!(read("two small red ducks, on the grass").background.is_some());
//! assert!(read("on the grass, two small red ducks").background.is_none());
//! ```

use crate::facts::{BACKGROUNDS, COLOURS, Content, POSITIONS, Relation, SIZES, Thing};
use crate::grammar::{strip, take_phrase};
use crate::icons;
use rand::{Rng, RngExt};

/// A thing that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Index of the noun.
    pub noun: u8,
    /// Index of the colour.
    pub colour: Option<u8>,
    /// Index of the size.
    pub size: Option<u8>,
    /// How many, 1 to 3.
    pub count: u8,
}

/// What is understood of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Things, each noun once, in the order in which they are named; three at the most.
    pub things: Vec<Named>,
    /// How the first stands to the second.
    pub relation: Option<Relation>,
    /// Where the only thing is.
    pub position: Option<u8>,
    /// What is behind everything.
    pub background: Option<u8>,
}

/// Most things of a picture.
const MOST: usize = 3;

/// Reads any text. Case and punctuation do not matter.
pub fn read(text: &str) -> Heard {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let (mut heard, mut rest) = (Heard::default(), &words[..]);
    let mut said = Said::default();
    while let Some(word) = rest.first() {
        let things = heard.things.len();
        if things > 0 && said == Said::default() {
            if let Some(background) = take_phrase(&mut rest, &BACKGROUNDS) {
                heard.background.get_or_insert(background);
                continue;
            }
            if let Some(position) = take_phrase(&mut rest, &POSITIONS) {
                heard.position.get_or_insert(position);
                continue;
            }
            let relation = if strip(&mut rest, &["to", "the", "left", "of"]) {
                Some(Relation::LeftOf)
            } else if strip(&mut rest, &["above"]) {
                Some(Relation::Above)
            } else {
                None
            };
            if let Some(relation) = relation {
                if things == 1 {
                    heard.relation = Some(relation);
                }
                continue;
            }
        }
        rest = &rest[1..];
        if let Some(named) = said.hear(word)
            && things < MOST
            && heard.things.iter().all(|thing| thing.noun != named.noun)
        {
            heard.things.push(named);
        }
    }
    heard
}

/// What was said since the last thing, or since the last word that is not understood.
#[derive(Default, PartialEq)]
struct Said {
    count: Option<u8>,
    size: Option<u8>,
    colour: Option<u8>,
}

impl Said {
    /// Takes a word; a noun ends it.
    fn hear(&mut self, word: &str) -> Option<Named> {
        let index = |table: &[&str]| table.iter().position(|name| *name == word).map(|i| i as u8);
        let count = match word {
            "a" | "an" | "one" => Some(1),
            "two" => Some(2),
            "three" => Some(3),
            _ => None,
        };
        if let Some(count) = count {
            *self = Self { count: Some(count), ..Self::default() };
        } else if let Some(size) = index(&SIZES) {
            self.size = Some(size);
        } else if let Some(colour) = index(&COLOURS) {
            self.colour = Some(colour);
        } else {
            let Self { count, size, colour } = std::mem::take(self);
            let (one, many) = (index(icons::nouns()), index(icons::plurals()));
            let noun = one.or(many)?;
            let count = count.unwrap_or(if one.is_some() { 1 } else { 2 });
            return Some(Named { noun, colour, size, count });
        }
        None
    }
}

impl Heard {
    /// What is drawn: what was heard, and the rest at random. `None` where no thing was named.
    pub fn content(&self, rng: &mut impl Rng) -> Option<Content> {
        let mut hue = |named: &Named| named.colour.unwrap_or_else(|| rng.random_range(0..COLOURS.len() as u8));
        let colours: Vec<u8> = self.things.iter().map(&mut hue).collect();
        let mut extent = |named: &Named| named.size.unwrap_or_else(|| rng.random_range(0..2));
        let sizes: Vec<u8> = self.things.iter().map(&mut extent).collect();
        let thing = |i: usize| Thing { noun: self.things[i].noun, colour: colours[i], size: sizes[i] };
        Some(match &self.things[..] {
            [] => return None,
            [only] => Content::One {
                noun: only.noun,
                colour: colours[0],
                count: only.count,
                size: Some(sizes[0]),
                position: Some(self.position.unwrap_or_else(|| rng.random_range(0..POSITIONS.len() as u8))),
            },
            [_, _] => {
                let either = [Relation::LeftOf, Relation::Above];
                let relation = self.relation.unwrap_or_else(|| either[rng.random_range(0..2_usize)]);
                Content::Two { a: thing(0), relation, b: thing(1) }
            }
            // Never more: `read` takes no others.
            [first, second, third, ..] => {
                let mut objects = [(first.noun, colours[0]), (second.noun, colours[1]), (third.noun, colours[2])];
                objects.sort_unstable();
                Content::Three(objects)
            }
        })
    }

    /// The background that is drawn.
    pub fn background(&self, rng: &mut impl Rng) -> u8 {
        self.background.unwrap_or_else(|| rng.random_range(0..BACKGROUNDS.len() as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::{Pictures, scenes};
    use crate::{Split, grammar};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_plainest_wording_is_understood_whole() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for scene in scenes::<Pictures>(Split::HeldOut, 200, 5) {
            let text = grammar::canonical(&scene.facts);
            let heard = read(&text);
            assert_eq!(heard.content(&mut rng), Some(scene.facts.content), "{text}");
            assert_eq!(heard.background, scene.facts.background, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_open() {
        let open = read("in the snow, a big red car to the right of a small duck and four words");
        let colours: Vec<_> = open.things.iter().map(|thing| thing.colour).collect();
        assert_eq!(colours, [Some(0), None]);
        assert_eq!((open.relation, open.background, open.position), (None, None, None));
        assert_eq!(read("nothing of this world"), Heard::default());
        assert_eq!(read("").content(&mut ChaCha8Rng::seed_from_u64(0)), None);
        // A word between parts them.
        assert_eq!(read("a red and shiny car").things[0].colour, None);
        assert_eq!(read("cars").things[0].count, 2);
        assert_eq!(read("a car, a cat, a dog, a duck, a car").things.len(), 3);
    }
}
