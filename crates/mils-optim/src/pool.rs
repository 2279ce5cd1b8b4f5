//! All scored texts of a run, and the best of them.

use crate::types::Candidate;
use std::collections::HashMap;

/// Scores as whole numbers that can be told apart: 0 for the least of the list to `scale` for the greatest, linearly
/// between. A list of equal scores gets `scale` throughout. NaN counts as the least.
pub fn relative_labels(scores: &[f32], scale: u32) -> Vec<u32> {
    let lo = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let hi = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = hi - lo;
    scores.iter().map(|s| if span > 0.0 { ((s - lo) / span * scale as f32).round() as u32 } else { scale }).collect()
}

/// Every text that was scored, in the order in which it was first seen.
#[derive(Default)]
pub(crate) struct Pool {
    seen: Vec<Candidate>,
    index: HashMap<String, usize>,
}

impl Pool {
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.index.contains_key(text)
    }

    pub(crate) fn insert(&mut self, candidate: Candidate) {
        self.index.insert(candidate.text.clone(), self.seen.len());
        self.seen.push(candidate);
    }

    pub(crate) fn all(&self) -> &[Candidate] {
        &self.seen
    }

    /// The numbers of the `keep` best by `score` (given by number), best first; among equals, first seen first.
    pub(crate) fn top(&self, keep: usize, score: impl Fn(usize) -> f32) -> Vec<usize> {
        let order = |a: &usize, b: &usize| score(*b).total_cmp(&score(*a)).then(a.cmp(b));
        let mut all: Vec<usize> = (0..self.seen.len()).collect();
        if all.len() > keep && keep > 0 {
            all.select_nth_unstable_by(keep - 1, order);
            all.truncate(keep);
        }
        all.sort_unstable_by(order);
        all
    }
}

/// One text in its normal form: outer white space gone, inner white space single.
pub(crate) fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_span_the_scale() {
        assert_eq!(relative_labels(&[0.1, 0.3, 0.2], 100), [0, 100, 50]);
        assert_eq!(relative_labels(&[0.25, 0.25], 100), [100, 100]);
        assert_eq!(relative_labels(&[], 100), [0_u32; 0]);
    }

    proptest! {
        #[test]
        fn top_is_a_stable_sort(scores in prop::collection::vec(0_u8..6, 1..60), keep in 1_usize..20) {
            let mut pool = Pool::default();
            for (i, &s) in scores.iter().enumerate() {
                pool.insert(Candidate { text: i.to_string(), score: f32::from(s), step: 0 });
            }
            let mut expected: Vec<usize> = (0..scores.len()).collect();
            expected.sort_by_key(|&i| std::cmp::Reverse(scores[i]));
            expected.truncate(keep);
            prop_assert_eq!(pool.top(keep, |i| pool.all()[i].score), expected);
        }
    }
}
