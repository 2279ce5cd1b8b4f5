//! What the worlds have in common: of pictures, and of videos ([`crate::motion`]). Lists for the generator, texts for an
//! encoder's training and the benchmark are made from this alone, alike for each.

use crate::facts::{self, Content, Facts, RELATION_SORT, Relation, Split};
use crate::{grammar, icons, sample};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A scene: what is true, and the seed for all that the facts leave open.
#[derive(Clone, Debug)]
pub struct Scene<F> {
    /// What is true of it; always complete.
    pub facts: F,
    /// Seed of sizes, places, times, noise and texture.
    pub seed: u64,
}

/// A world: what can be true in it, how that is said, and how it is changed.
pub trait World: Sized + 'static {
    /// What a caption states, or what is true of a scene.
    type Facts: Copy + Debug + Eq + Hash + Send + Sync;

    /// How much each sort of atom counts for a simulated scorer.
    const ATOM_WEIGHTS: &'static [f32];
    /// How much each sort of feature counts.
    const FEATURE_WEIGHTS: &'static [f32];

    /// Complete facts, of any split.
    fn facts(rng: &mut impl Rng) -> Self::Facts;
    /// What is true of a scene of the part that training sees; complete.
    fn truth(rng: &mut impl Rng) -> Self::Facts {
        scene::<Self>(Split::Train, rng).facts
    }
    /// The texts that a run starts from.
    fn initial_set() -> Vec<String>;
    /// The plainest way to say it; always the same for the same facts.
    fn canonical(facts: &Self::Facts) -> String;
    /// One of the ways to say it.
    fn caption(facts: &Self::Facts, rng: &mut impl Rng) -> String;
    /// Reads whatever [`Self::caption`] says, and nothing else.
    fn parse(text: &str) -> Option<Self::Facts>;
    /// The part of the world this belongs to.
    fn split(facts: &Self::Facts) -> Split;
    /// The smallest statements, by number.
    fn atoms(facts: &Self::Facts) -> BTreeSet<u16>;
    /// The sort of an atom: an index into [`Self::ATOM_WEIGHTS`].
    fn sort(atom: u16) -> u8;
    /// Whether an atom says that a noun is there, and no more.
    fn names_noun(atom: u16) -> bool;
    /// The nouns that are stated.
    fn nouns(facts: &Self::Facts) -> Vec<u8>;
    /// What a scorer hears in a caption: (number, sort), sorted; a sort is an index into [`Self::FEATURE_WEIGHTS`]. The
    /// sorts and their weights are much like those of the kernel that the world's encoder is trained on.
    fn features(facts: &Self::Facts) -> Vec<(u16, u8)>;
    /// Changes one thing, staying in the part of the world that training sees.
    fn perturb(facts: &Self::Facts, rng: &mut impl Rng) -> Self::Facts;
    /// Changes one thing, in any split; now and then what comes out is what went in.
    fn change(facts: &Self::Facts, rng: &mut impl Rng) -> Self::Facts;
    /// Says the same words of other things, where that is possible, staying in the part that training sees.
    fn confuse(facts: &Self::Facts, rng: &mut impl Rng) -> Self::Facts;
    /// Makes new facts of parts of those in the pool.
    fn recombine(pool: &[Self::Facts], rng: &mut impl Rng) -> Self::Facts;
    /// True facts that leave something out.
    fn shortened(facts: &Self::Facts, rng: &mut impl Rng) -> Self::Facts;
    /// What a run that has seen only one object of a scene so far would hold.
    fn part(truth: &Self::Facts, rng: &mut impl Rng) -> Self::Facts;
    /// A word of the grammar in a form that is wrong where it stands.
    fn inflected(word: &str) -> Option<&'static str>;
}

/// A scene of the given split.
pub fn scene<W: World>(split: Split, rng: &mut impl Rng) -> Scene<W::Facts> {
    loop {
        let facts = W::facts(rng);
        if W::split(&facts) == split {
            return Scene { facts, seed: rng.random() };
        }
    }
}

/// `count` scenes of the given split, the same for the same seed.
pub fn scenes<W: World>(split: Split, count: usize, seed: u64) -> Vec<Scene<W::Facts>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| scene::<W>(split, &mut rng)).collect()
}

/// Tries `once` until it changes something and stays in the part of the world that training sees; the facts as they
/// were where it never does.
pub(crate) fn within<W: World>(facts: &W::Facts, mut once: impl FnMut() -> W::Facts) -> W::Facts {
    let fits = |changed: &W::Facts| changed != facts && W::split(changed) == Split::Train;
    (0..100).map(|_| once()).find(fits).unwrap_or(*facts)
}

/// The initial set with what it states.
pub(crate) fn initial<W: World>() -> Vec<(String, W::Facts)> {
    W::initial_set().into_iter().filter_map(|text| W::parse(&text).map(|facts| (text, facts))).collect()
}

/// The world of pictures.
#[derive(Clone, Copy, Debug)]
pub struct Pictures;

impl World for Pictures {
    type Facts = Facts;

    const ATOM_WEIGHTS: &'static [f32] = &[1.6, 1.0, 0.7, 0.9, 0.8, 1.1, 0.7];
    const FEATURE_WEIGHTS: &'static [f32] = &[1.5, 1.0, 0.6, 0.9, 0.8, 1.0, 0.45, 0.2];

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
        facts::sort(atom)
    }

    fn names_noun(atom: u16) -> bool {
        facts::sort(atom) == 0
    }

    fn nouns(facts: &Facts) -> Vec<u8> {
        facts.nouns()
    }

    fn features(facts: &Facts) -> Vec<(u16, u8)> {
        // Numbers and places are heard whatever the noun (train/train_clip.py), colours so too.
        const LOOSE: u16 = 6000;
        const SIDE: u16 = 7000;
        let mut out: Vec<(u16, u8)> = facts.atoms().into_iter().map(|atom| (atom, facts::sort(atom))).collect();
        // A relation is heard as which noun is on which side, below.
        out.retain(|f| f.1 != RELATION_SORT);
        out.extend(facts.coloured().into_iter().map(|(_, colour)| (LOOSE + u16::from(colour), 7)));
        if let Content::Two { a, relation, b } = facts.content {
            let kind = u16::from(relation == Relation::Above) * 96;
            out.extend([(SIDE + kind + u16::from(a.noun), 6), (SIDE + kind + 48 + u16::from(b.noun), 6)]);
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
        sample::shortened(*facts, rng)
    }

    fn part(truth: &Facts, rng: &mut impl Rng) -> Facts {
        let coloured = truth.coloured();
        let (noun, colour) = coloured[rng.random_range(0..coloured.len())];
        let mut size = rng.random_bool(0.6).then(|| rng.random_range(0..2));
        let mut position = rng.random_bool(0.5).then(|| rng.random_range(0..5));
        let mut count = 1;
        if let Content::One { count: c, size: s, position: p, .. } = truth.content {
            count = c;
            size = size.and(s);
            position = position.and(p);
        }
        Facts {
            content: Content::One { noun, colour, count, size, position },
            background: truth.background.filter(|_| rng.random_bool(0.6)),
        }
    }

    fn inflected(word: &str) -> Option<&'static str> {
        icons::other_number(word)
    }
}
