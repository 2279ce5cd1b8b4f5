//! Moving scenes: one or two objects, each of which does something, on a background.
//!
//! The world of videos is smaller than that of pictures, for an encoder that looks at eight frames at once has more to
//! learn: 16 of the nouns, four of the backgrounds, no sizes, numbers or places, but nine verbs. It has the same icons,
//! colours and backgrounds, and the same camera.
//!
//! ```
//! use mils_demo_world::motion::{facts, grammar};
//! let truth = grammar::parse("a green apple grows and a blue duck turns, at night").unwrap();
//! let said = grammar::parse("There is a green apple shrinking, at night.").unwrap();
//! assert_eq!((facts::noun_recall(&truth, &said), facts::verb_accuracy(&truth, &said)), (0.5, 0.0));
//! ```

pub mod facts;
pub mod grammar;
pub mod render;
pub mod sample;

pub use facts::Facts;

/// A moving scene.
pub type Scene = crate::worlds::Scene<Facts>;

use crate::facts::Split;
use crate::worlds::World;
use facts::{BACKGROUND, COLOUR, VERB};
use rand::Rng;
use std::collections::BTreeSet;

/// The world of moving scenes.
#[derive(Clone, Copy, Debug)]
pub struct Videos;

impl World for Videos {
    type Facts = Facts;

    const ATOM_WEIGHTS: &'static [f32] = &[1.6, 1.0, 1.1, 1.1];
    const FEATURE_WEIGHTS: &'static [f32] = &[1.5, 0.9, 1.1, 1.0, 0.3, 0.4];

    fn facts(rng: &mut impl Rng) -> Facts {
        sample::facts(rng)
    }

    fn initial_set() -> Vec<String> {
        sample::initial_set(0)
    }

    fn canonical(facts: &Facts) -> String {
        grammar::canonical(facts)
    }

    fn caption(facts: &Facts, rng: &mut impl Rng) -> String {
        grammar::caption(facts, rng)
    }

    fn parse(text: &str) -> Option<Facts> {
        grammar::parse(text)
    }

    fn split(facts: &Facts) -> Split {
        facts.split()
    }

    fn atoms(facts: &Facts) -> BTreeSet<u16> {
        facts.atoms()
    }

    fn sort(atom: u16) -> u8 {
        [COLOUR, VERB, BACKGROUND].iter().filter(|begin| atom >= **begin).count() as u8
    }

    fn names_noun(atom: u16) -> bool {
        atom < COLOUR
    }

    fn nouns(facts: &Facts) -> Vec<u8> {
        facts.nouns()
    }

    fn features(facts: &Facts) -> Vec<(u16, u8)> {
        // By themselves, whatever the noun: colours and verbs.
        const ANY_COLOUR: u16 = 1000;
        const ANY_VERB: u16 = 1100;
        let mut out: Vec<(u16, u8)> = facts.atoms().into_iter().map(|atom| (atom, Self::sort(atom))).collect();
        for actor in facts.actors() {
            out.extend([(ANY_COLOUR + u16::from(actor.colour), 4), (ANY_VERB + u16::from(actor.verb), 5)]);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    fn perturb(facts: &Facts, rng: &mut impl Rng) -> Facts {
        sample::perturb(facts, rng)
    }

    fn change(facts: &Facts, rng: &mut impl Rng) -> Facts {
        sample::change(*facts, rng)
    }

    fn confuse(facts: &Facts, rng: &mut impl Rng) -> Facts {
        sample::confuse(facts, rng)
    }

    fn recombine(pool: &[Facts], rng: &mut impl Rng) -> Facts {
        sample::recombine(pool, rng)
    }

    fn shortened(facts: &Facts, rng: &mut impl Rng) -> Facts {
        sample::shortened(facts, rng)
    }

    fn part(truth: &Facts, rng: &mut impl Rng) -> Facts {
        sample::part(truth, rng)
    }

    fn inflected(word: &str) -> Option<&'static str> {
        grammar::inflected(word)
    }
}
