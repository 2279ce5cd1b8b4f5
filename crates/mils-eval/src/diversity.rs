//! How much captions differ: self-BLEU and distinct-n.
//!
//! Distinct-n is the share of n-grams that are different ones (Li et al., *A diversity-promoting objective function for
//! neural conversation models*, 2016). Self-BLEU is BLEU of each caption against all others (Zhu et al., *Texygen*, 2018),
//! here with the arithmetic of [`crate::bleu`]; the lower, the more they differ.

use crate::bleu::BleuCounts;
use crate::ngram::{Gram, LONGEST, Sentence, counts, order};
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Share of different n-grams among all of the sentences, for n from 1 to 4; 0 where there are none.
pub fn distinct(sentences: &[Sentence]) -> [f64; LONGEST] {
    let mut all = [0u64; LONGEST];
    let mut different = FxHashSet::default();
    for (gram, count) in sentences.iter().flat_map(|s| counts(s)) {
        all[order(gram) - 1] += u64::from(count);
        different.insert(gram);
    }
    let mut seen = [0u64; LONGEST];
    for gram in different {
        seen[order(gram) - 1] += 1;
    }
    std::array::from_fn(|n| if all[n] == 0 { 0.0 } else { seen[n] as f64 / all[n] as f64 })
}

/// How often an n-gram occurs at most in one sentence, where that is, and how often in any other.
#[derive(Clone, Copy)]
struct Most {
    first: u32,
    whose: usize,
    second: u32,
}

/// Counts of each sentence against all others. Takes as long as reading them, however many there are.
pub fn self_bleu(sentences: &[Sentence]) -> Vec<BleuCounts> {
    let counted: Vec<Vec<(Gram, u32)>> = sentences.par_iter().map(|s| counts(s)).collect();
    let mut most: FxHashMap<Gram, Most> = FxHashMap::default();
    for (whose, counts) in counted.iter().enumerate() {
        for (gram, count) in counts {
            let entry = most.entry(*gram).or_insert(Most { first: 0, whose, second: 0 });
            if *count > entry.first {
                *entry = Most { first: *count, whose, second: entry.first };
            } else {
                entry.second = entry.second.max(*count);
            }
        }
    }
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    for sentence in sentences {
        *lengths.entry(sentence.len()).or_default() += 1;
    }
    let one = |(number, counts): (usize, &Vec<(Gram, u32)>)| {
        let length = sentences[number].len();
        let mut made = BleuCounts::of(&sentences[number], &[]);
        // Its own length is another's too where several have it.
        let other = |(l, count): (&usize, &usize)| (*l != length || *count > 1).then_some(*l);
        let below = lengths.range(..=length).rev().find_map(other);
        let above = lengths.range(length..).find_map(other);
        let closest = below.into_iter().chain(above).min_by_key(|l| (l.abs_diff(length), *l));
        made.reference_length = closest.unwrap_or(0) as u64;
        for (gram, count) in counts {
            let others = most.get(gram).map_or(0, |m| if m.whose == number { m.second } else { m.first });
            made.correct[order(*gram) - 1] += u64::from(others.min(*count));
        }
        made
    };
    counted.par_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distinct_is_the_share_of_different_grams() {
        let [one, two, three, four] = distinct(&[vec![0, 1, 0, 1], vec![2]]);
        assert_eq!((one, two, three, four), (3.0 / 5.0, 2.0 / 3.0, 1.0, 1.0));
        assert_eq!(distinct(&[vec![]]), [0.0; LONGEST]);
    }

    proptest! {
        /// The quick way counts as BLEU does with all others as references.
        #[test]
        fn self_bleu_is_bleu_against_all_others(sentences in proptest::collection::vec(proptest::collection::vec(0u32..4, 0..7), 1..7)) {
            let made = self_bleu(&sentences);
            for (i, counts) in made.iter().enumerate() {
                let others: Vec<_> = sentences.iter().enumerate().filter(|(j, _)| *j != i).map(|s| s.1.clone()).collect();
                prop_assert_eq!(*counts, BleuCounts::of(&sentences[i], &others));
            }
        }
    }
}
