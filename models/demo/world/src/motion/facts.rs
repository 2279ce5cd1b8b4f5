//! What can be true of a moving scene, and how a caption is judged against it.

use crate::facts::{self as still, COLOURS, HELD_OUT_PERCENT, Split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Number of nouns of the moving world.
pub const NOUNS: usize = 16;
/// The nouns that can move, by index, as indices into [`crate::icons::nouns`]: outlines that are hard to confuse, and
/// that look different when they are turned.
pub(crate) const ICONS: [u8; NOUNS] = [0, 2, 3, 8, 11, 13, 15, 22, 24, 26, 29, 32, 33, 34, 39, 44];
/// What an object can do, by index, as said of it: "grows", and after "there is": "growing".
pub const VERBS: [(&str, &str); 9] = [
    ("moves to the left", "moving to the left"),
    ("moves to the right", "moving to the right"),
    ("moves up", "moving up"),
    ("moves down", "moving down"),
    ("grows", "growing"),
    ("shrinks", "shrinking"),
    ("turns", "turning"),
    ("appears", "appearing"),
    ("disappears", "disappearing"),
];
/// The first so many of [`still::BACKGROUNDS`].
pub const BACKGROUNDS: usize = 4;

/// An object and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Index of the noun, below [`NOUNS`].
    pub noun: u8,
    /// Index of the colour.
    pub colour: u8,
    /// Index of the verb.
    pub verb: u8,
}

/// All that a caption states, or all that is true of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Facts {
    /// The object, or of two that with the lower noun.
    pub first: Actor,
    /// The other one; its noun is another.
    pub second: Option<Actor>,
    /// Index of the background; a caption may leave it out.
    pub background: Option<u8>,
}

pub(super) const COLOUR: u16 = NOUNS as u16;
pub(super) const VERB: u16 = COLOUR + (NOUNS * COLOURS.len()) as u16;
pub(super) const BACKGROUND: u16 = VERB + (NOUNS * VERBS.len()) as u16;

/// The nouns, by index.
pub fn nouns() -> [&'static str; NOUNS] {
    ICONS.map(|i| crate::icons::nouns()[usize::from(i)])
}

/// Every possible atom's name, in the order of their numbers.
pub fn atom_names() -> Vec<String> {
    let nouns = nouns();
    let mut out: Vec<String> = nouns.iter().map(|n| format!("noun:{n}")).collect();
    out.extend(nouns.iter().flat_map(|n| COLOURS.map(|c| format!("colour:{n}-{c}"))));
    out.extend(nouns.iter().flat_map(|n| VERBS.map(|(v, _)| format!("verb:{n}-{v}"))));
    out.extend(still::BACKGROUNDS[..BACKGROUNDS].iter().map(|(b, _)| format!("background:{b}")));
    out
}

impl Facts {
    /// Two objects in either order; nothing where their nouns are the same.
    pub fn two(a: Actor, b: Actor, background: Option<u8>) -> Option<Self> {
        let (first, second) = if a.noun < b.noun { (a, b) } else { (b, a) };
        (a.noun != b.noun).then_some(Self { first, second: Some(second), background })
    }

    /// The objects, in the order of their nouns.
    pub fn actors(&self) -> impl Iterator<Item = Actor> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The nouns that are stated.
    pub fn nouns(&self) -> Vec<u8> {
        self.actors().map(|a| a.noun).collect()
    }

    /// The atoms that are stated, sorted, as numbers into [`atom_names`].
    pub fn atoms(&self) -> BTreeSet<u16> {
        let mut out = BTreeSet::new();
        for Actor { noun, colour, verb } in self.actors() {
            let (noun, colours, verbs) = (u16::from(noun), COLOURS.len() as u16, VERBS.len() as u16);
            out.extend([noun, COLOUR + noun * colours + u16::from(colour), VERB + noun * verbs + u16::from(verb)]);
        }
        out.extend(self.background.map(|b| BACKGROUND + u16::from(b)));
        out
    }

    /// Whether all is stated that a scene has.
    pub fn is_complete(&self) -> bool {
        self.background.is_some()
    }

    /// The part of the world this belongs to: held out when any of its (noun, colour, verb) triples is.
    pub fn split(&self) -> Split {
        let triple = |a: Actor| (u64::from(a.noun) * 8 + u64::from(a.colour)) * 16 + u64::from(a.verb);
        // Numbers beyond those of pictures, for a choice of its own.
        let held = self.actors().any(|a| still::chance_of(10_000 + triple(a)) < HELD_OUT_PERCENT);
        if held { Split::HeldOut } else { Split::Train }
    }
}

/// The share of the scene's nouns that the caption names, 0 to 1.
pub fn noun_recall(truth: &Facts, caption: &Facts) -> f32 {
    share(truth, caption, |atom| atom < COLOUR)
}

/// The share of the scene's objects of which the caption says what they do, by their nouns, 0 to 1.
pub fn verb_accuracy(truth: &Facts, caption: &Facts) -> f32 {
    share(truth, caption, |atom| (VERB..BACKGROUND).contains(&atom))
}

/// The share of the scene's atoms other than its nouns that the caption states rightly, 0 to 1.
pub fn attribute_accuracy(truth: &Facts, caption: &Facts) -> f32 {
    share(truth, caption, |atom| atom >= COLOUR)
}

/// Whether the caption says everything that is true, and nothing else.
pub fn exact(truth: &Facts, caption: &Facts) -> bool {
    truth == caption
}

/// The share of the scene's atoms of some sort that the caption states; of objects, a scene always has some.
fn share(truth: &Facts, caption: &Facts, of_sort: impl Fn(u16) -> bool) -> f32 {
    let said = caption.atoms();
    let wanted: Vec<u16> = truth.atoms().into_iter().filter(|a| of_sort(*a)).collect();
    wanted.iter().filter(|a| said.contains(a)).count() as f32 / wanted.len().max(1) as f32
}
