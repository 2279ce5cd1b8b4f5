//! The texts that an encoder's training needs of a scene: true ones, changed ones, and such as nobody would say.

use crate::garble::spliced;
use crate::worlds::World;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;

/// Texts of one scene, with the atoms that they state.
#[derive(Clone, Debug, Serialize)]
pub struct Texts {
    /// The plainest true caption.
    pub caption: String,
    /// What is true.
    pub atoms: BTreeSet<u16>,
    /// Two more full captions, and one that leaves something out.
    pub captions: [String; 3],
    /// What they state.
    pub caption_atoms: [BTreeSet<u16>; 3],
    /// Changed captions: two that say the same words of other things, two with one change, two with more.
    pub negatives: Vec<String>,
    /// What they state.
    pub neg_atoms: Vec<BTreeSet<u16>>,
    /// The two full captions garbled, each where that came out as no sentence.
    pub garbled: Vec<String>,
}

/// The texts of a scene, always the same for the same seed.
pub fn texts<W: World>(facts: &W::Facts, seed: u64) -> Texts {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let described = |facts: &W::Facts, rng: &mut ChaCha8Rng| (W::caption(facts, rng), W::atoms(facts));
    let full = described(facts, &mut rng);
    let again = described(facts, &mut rng);
    let short = described(&W::shortened(facts, &mut rng), &mut rng);
    let negatives: Vec<_> = (0..6)
        .map(|i| {
            // Two say the same words of other things, two are one change away, and two are further off.
            let changes = if i < 4 { 1 } else { rng.random_range(2..=3) };
            let confused = if i < 2 { W::confuse(facts, &mut rng) } else { *facts };
            let left = changes - usize::from(confused != *facts);
            let changed = (0..left).fold(confused, |facts, _| W::perturb(&facts, &mut rng));
            described(&changed, &mut rng)
        })
        .collect();
    let pairs = [(&full.0, &negatives[2].0), (&again.0, &negatives[3].0)];
    let garbled = pairs.into_iter().filter_map(|(own, other)| garbled::<W>(own, other, &mut rng)).collect();
    let (negatives, neg_atoms) = negatives.into_iter().unzip();
    Texts {
        caption: W::canonical(facts),
        atoms: W::atoms(facts),
        captions: [full.0, again.0, short.0],
        caption_atoms: [full.1, again.1, short.1],
        negatives,
        neg_atoms,
        garbled,
    }
}

/// The caption with one of its words in the wrong form: "a small orange tulips".
fn disagreeing<W: World>(words: &[&str], rng: &mut ChaCha8Rng) -> Option<String> {
    let changed = |word: &str| match word.strip_suffix(',') {
        Some(bare) => W::inflected(bare).map(|w| format!("{w},")),
        None => W::inflected(word).map(String::from),
    };
    let found: Vec<(usize, String)> =
        words.iter().enumerate().filter_map(|(i, w)| changed(w).map(|new| (i, new))).collect();
    let (at, new) = found.get(rng.random_range(0..found.len().max(1)))?;
    let mut words = words.to_vec();
    words[*at] = new;
    Some(words.join(" "))
}

/// Something that a language model may say and nobody would: a caption with a word too many or too few, with the end of
/// another one, or with a word in the wrong form. None where every attempt came out as a sentence of the grammar.
fn garbled<W: World>(caption: &str, other: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    let words: Vec<&str> = caption.split(' ').collect();
    (0..20).find_map(|_| {
        let bent = rng.random_bool(0.3);
        let text = if bent { disagreeing::<W>(&words, rng)? } else { spliced(caption, other, rng) };
        W::parse(&text).is_none().then_some(text)
    })
}
