//! Sentences spoilt: what a language model that is not sure of itself says.

use rand::{Rng, RngExt};

/// The caption with a word said twice, left out, or taken from another caption, or going over into the other one. It may
/// come out as a sentence after all.
pub fn spliced(caption: &str, other: &str, rng: &mut impl Rng) -> String {
    let (words, others) = (caption.split(' ').collect::<Vec<_>>(), other.split(' ').collect::<Vec<_>>());
    let at = rng.random_range(1..words.len().max(2));
    let from = rng.random_range(0..others.len());
    let (mut begin, end) = (words[..at].to_vec(), &words[at..]);
    match rng.random_range(0..6) {
        0 => begin.extend([words[at - 1]].iter().chain(end)),
        1 => begin.extend(end.iter().skip(1)),
        2 => begin.extend([others[from]].iter().chain(end.iter().skip(1))),
        3 => begin.extend(&others[from..]),
        4 => begin.extend(end.iter().chain(&others[from..])),
        _ => {}
    }
    begin.join(" ")
}
