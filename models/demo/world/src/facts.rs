//! What can be true of a scene, and how a caption is judged against it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Number of nouns; a noun is an index into [`crate::icons::nouns`].
pub const NOUNS: usize = 48;
/// Colours, by index.
pub const COLOURS: [&str; 8] = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"];
/// Sizes, by index.
pub const SIZES: [&str; 2] = ["small", "big"];
/// Where a group of one kind stands, by index: a name and the phrase a caption uses.
pub const POSITIONS: [(&str, &str); 5] = [
    ("left", "on the left"),
    ("right", "on the right"),
    ("top", "at the top"),
    ("bottom", "at the bottom"),
    ("middle", "in the middle"),
];
/// Backgrounds, by index: a name and the phrase a caption uses.
pub const BACKGROUNDS: [(&str, &str); 8] = [
    ("grass", "on the grass"),
    ("snow", "in the snow"),
    ("sand", "on the sand"),
    ("night", "at night"),
    ("water", "on the water"),
    ("sky", "in the sky"),
    ("wood", "on a wooden table"),
    ("brick", "in front of a brick wall"),
];
/// The share of (noun, colour, background) triples that training never sees, in per cent.
pub const HELD_OUT_PERCENT: u64 = 12;

/// How the first object of a pair stands to the second. `right of` and `below` are the same facts read backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The first is to the left of the second.
    LeftOf,
    /// The first is above the second.
    Above,
}

/// One object of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thing {
    /// Index of the noun.
    pub noun: u8,
    /// Index of the colour.
    pub colour: u8,
    /// Index of the size.
    pub size: u8,
}

/// What is in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// One to three equal objects; a caption may leave out size and position.
    One {
        /// Index of the noun.
        noun: u8,
        /// Index of the colour.
        colour: u8,
        /// How many, 1 to 3.
        count: u8,
        /// Index of the size.
        size: Option<u8>,
        /// Index of the position.
        position: Option<u8>,
    },
    /// Two objects of different nouns, one to the left of or above the other.
    Two {
        /// The first object.
        a: Thing,
        /// How it stands to the second.
        relation: Relation,
        /// The second object.
        b: Thing,
    },
    /// Three objects of different nouns, as (noun, colour), sorted by noun.
    Three([(u8, u8); 3]),
}

/// All that a caption states, or all that is true of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Facts {
    /// What is in the picture.
    pub content: Content,
    /// Index of the background; a caption may leave it out.
    pub background: Option<u8>,
}

/// Which part of the world something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Split {
    /// Seen in training.
    Train,
    /// Contains a combination that training never sees.
    HeldOut,
}

/// The smallest statements, numbered; see [`atom_names`] for the numbering.
mod layout {
    pub(super) const NOUN: u16 = 0;
    pub(super) const COLOUR: u16 = NOUN + 48;
    pub(super) const SIZE: u16 = COLOUR + 48 * 8;
    pub(super) const COUNT: u16 = SIZE + 48 * 2;
    pub(super) const POSITION: u16 = COUNT + 48 * 3;
    pub(super) const BACKGROUND: u16 = POSITION + 48 * 5;
    pub(super) const RELATION: u16 = BACKGROUND + 8;
    pub(super) const END: u16 = RELATION + 2 * 48 * 48;
}

/// Every possible atom's name, in the order of their numbers.
pub fn atom_names() -> Vec<String> {
    let nouns = crate::icons::nouns();
    let mut out = Vec::with_capacity(usize::from(layout::END));
    out.extend(nouns.iter().map(|n| format!("noun:{n}")));
    for n in nouns {
        out.extend(COLOURS.iter().map(|c| format!("colour:{n}-{c}")));
    }
    for n in nouns {
        out.extend(SIZES.iter().map(|s| format!("size:{n}-{s}")));
    }
    for n in nouns {
        out.extend((1..=3).map(|k| format!("count:{n}-{k}")));
    }
    for n in nouns {
        out.extend(POSITIONS.iter().map(|(p, _)| format!("position:{n}-{p}")));
    }
    out.extend(BACKGROUNDS.iter().map(|(b, _)| format!("background:{b}")));
    for word in ["left-of", "above"] {
        for a in nouns {
            out.extend(nouns.iter().map(|b| format!("rel:{a}-{word}-{b}")));
        }
    }
    out
}

/// The sort of an atom, in the order of [`atom_names`]: noun, colour, size, count, position, background, relation.
pub(crate) fn sort(atom: u16) -> u8 {
    let begins = [layout::COLOUR, layout::SIZE, layout::COUNT, layout::POSITION, layout::BACKGROUND, layout::RELATION];
    begins.iter().filter(|begin| atom >= **begin).count() as u8
}

/// The sort of relations, see [`sort`].
pub(crate) const RELATION_SORT: u8 = 6;

impl Facts {
    /// The nouns that are stated, in reading order.
    pub fn nouns(&self) -> Vec<u8> {
        match self.content {
            Content::One { noun, .. } => vec![noun],
            Content::Two { a, b, .. } => vec![a.noun, b.noun],
            Content::Three(objects) => objects.iter().map(|o| o.0).collect(),
        }
    }

    /// The (noun, colour) pairs that are stated.
    pub fn coloured(&self) -> Vec<(u8, u8)> {
        match self.content {
            Content::One { noun, colour, .. } => vec![(noun, colour)],
            Content::Two { a, b, .. } => vec![(a.noun, a.colour), (b.noun, b.colour)],
            Content::Three(objects) => objects.to_vec(),
        }
    }

    /// The atoms that are stated, sorted, as numbers into [`atom_names`].
    pub fn atoms(&self) -> BTreeSet<u16> {
        let mut out = BTreeSet::new();
        for (noun, colour) in self.coloured() {
            out.insert(layout::NOUN + u16::from(noun));
            out.insert(layout::COLOUR + u16::from(noun) * 8 + u16::from(colour));
        }
        match self.content {
            Content::One { noun, count, size, position, .. } => {
                out.insert(layout::COUNT + u16::from(noun) * 3 + u16::from(count) - 1);
                out.extend(size.map(|s| layout::SIZE + u16::from(noun) * 2 + u16::from(s)));
                out.extend(position.map(|p| layout::POSITION + u16::from(noun) * 5 + u16::from(p)));
            }
            Content::Two { a, relation, b } => {
                for t in [a, b] {
                    out.insert(layout::SIZE + u16::from(t.noun) * 2 + u16::from(t.size));
                }
                let kind = u16::from(relation == Relation::Above);
                out.insert(layout::RELATION + kind * 48 * 48 + u16::from(a.noun) * 48 + u16::from(b.noun));
            }
            Content::Three(_) => {}
        }
        out.extend(self.background.map(|b| layout::BACKGROUND + u16::from(b)));
        out
    }

    /// Whether all is stated that a scene of this kind has.
    pub fn is_complete(&self) -> bool {
        let content = match self.content {
            Content::One { size, position, .. } => size.is_some() && position.is_some(),
            Content::Two { .. } | Content::Three(_) => true,
        };
        content && self.background.is_some()
    }

    /// The part of the world this belongs to: held out when any of its (noun, colour, background) triples is.
    pub fn split(&self) -> Split {
        let Some(background) = self.background else {
            return Split::Train;
        };
        let held = self.coloured().iter().any(|&(noun, colour)| held_out(noun, colour, background));
        if held { Split::HeldOut } else { Split::Train }
    }
}

/// The fixed choice of held-out triples.
fn held_out(noun: u8, colour: u8, background: u8) -> bool {
    chance_of(u64::from(noun) * 64 + u64::from(colour) * 8 + u64::from(background)) < HELD_OUT_PERCENT
}

/// A number below 100, always the same for the same combination (SplitMix64's finaliser over the combination's number).
pub(crate) fn chance_of(combination: u64) -> u64 {
    let mut z = combination.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) % 100
}

/// Harmonic mean of precision and recall over atoms, 0 to 1.
pub fn f1(truth: &Facts, caption: &Facts) -> f32 {
    let (a, b) = (truth.atoms(), caption.atoms());
    2.0 * a.intersection(&b).count() as f32 / (a.len() + b.len()) as f32
}

/// The share of the scene's nouns that the caption names, 0 to 1.
pub fn noun_recall(truth: &Facts, caption: &Facts) -> f32 {
    let (truth, said) = (truth.nouns(), caption.nouns());
    truth.iter().filter(|n| said.contains(n)).count() as f32 / truth.len() as f32
}

/// The share of the scene's atoms other than its nouns that the caption states rightly, 0 to 1.
pub fn attribute_accuracy(truth: &Facts, caption: &Facts) -> f32 {
    let said = caption.atoms();
    let wanted: Vec<u16> = truth.atoms().into_iter().filter(|&a| a >= layout::COLOUR).collect();
    wanted.iter().filter(|a| said.contains(a)).count() as f32 / wanted.len() as f32
}

/// Whether the caption says everything that is true, and nothing else.
pub fn exact(truth: &Facts, caption: &Facts) -> bool {
    truth == caption
}
