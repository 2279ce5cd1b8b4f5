//! All scored texts of a run, and the best of them.

use crate::initial::InitialSet;
use crate::types::Candidate;
use std::collections::HashSet;

/// Scores as whole numbers that can be told apart: 0 for the least of the list to `scale` for the greatest, linearly
/// between. A list of equal scores gets `scale` throughout. NaN counts as the least.
pub fn relative_labels(scores: &[f32], scale: u32) -> Vec<u32> {
    let lo = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let hi = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = hi - lo;
    scores.iter().map(|s| if span > 0.0 { ((s - lo) / span * scale as f32).round() as u32 } else { scale }).collect()
}

/// The numbers of those that none other dominates: that none beats in one objective and equals at least in all others.
pub fn non_dominated(objectives: &[Vec<f32>]) -> Vec<usize> {
    let free = |i: &usize| !objectives.iter().any(|other| dominates(other, &objectives[*i]));
    (0..objectives.len()).filter(free).collect()
}

/// Every text that was scored, in the order in which it was first seen: those of the initial set, then the others. They
/// are numbered in this order.
pub(crate) struct Pool<'a> {
    initial: &'a InitialSet,
    /// Those that are not of the initial set, and the step of each.
    texts: Vec<String>,
    steps: Vec<usize>,
    index: HashSet<String>,
    scores: Vec<f32>,
}

impl<'a> Pool<'a> {
    /// An initial set with a score each.
    pub(crate) fn new(initial: &'a InitialSet, scores: Vec<f32>) -> Self {
        Self { initial, texts: vec![], steps: vec![], index: HashSet::new(), scores }
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.initial.contains(text) || self.index.contains(text)
    }

    /// Texts that are not there yet, with a score each.
    pub(crate) fn extend(&mut self, step: usize, texts: Vec<String>, scores: Vec<f32>) {
        self.index.extend(texts.iter().cloned());
        self.steps.resize(self.steps.len() + texts.len(), step);
        self.texts.extend(texts);
        self.scores.extend(scores);
    }

    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    /// By number.
    pub(crate) fn scores(&self) -> &[f32] {
        &self.scores
    }

    pub(crate) fn text(&self, number: usize) -> &String {
        let first = self.initial.texts().len();
        if number < first { &self.initial.texts()[number] } else { &self.texts[number - first] }
    }

    /// The last `count`, which are all of the initial set or none.
    pub(crate) fn last(&self, count: usize) -> (&[String], &[f32]) {
        let texts = if self.texts.is_empty() { self.initial.texts() } else { &self.texts };
        (&texts[texts.len() - count..], &self.scores[self.scores.len() - count..])
    }

    pub(crate) fn candidate(&self, number: usize) -> Candidate {
        let step = number.checked_sub(self.initial.texts().len()).map_or(0, |at| self.steps[at]);
        Candidate { text: self.text(number).clone(), score: self.scores[number], step }
    }

    /// The numbers of the `keep` best by a score each, best first; among equals, first seen first.
    pub(crate) fn top(keep: usize, scores: &[f32]) -> Vec<usize> {
        let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        let mut all: Vec<usize> = (0..scores.len()).collect();
        if all.len() > keep && keep > 0 {
            all.select_nth_unstable_by(keep - 1, order);
            all.truncate(keep);
        }
        all.sort_unstable_by(order);
        all
    }
}

/// The numbers of the `keep` best, best first, where each has several objectives beside its score, the higher the better:
/// those that none dominates come first, then those that only they dominate, and so on (non-dominated sorting, Deb et al.
/// 2002). Within a front the greater score decides, among equals the lower number.
pub fn top_of_fronts(keep: usize, scores: &[f32], objectives: &[Vec<f32>]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..scores.len().min(objectives.len())).collect();
    let mut top = Vec::new();
    while top.len() < keep && !left.is_empty() {
        let dominated = |i: usize| left.iter().any(|&j| dominates(&objectives[j], &objectives[i]));
        let (rest, mut front): (Vec<usize>, Vec<usize>) = left.iter().partition(|&&i| dominated(i));
        front.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        top.extend(front);
        left = rest;
    }
    top.truncate(keep);
    top
}

/// Whether `a` beats `b` in one objective and equals it at least in all others.
fn dominates(a: &[f32], b: &[f32]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a >= b) && pairs().any(|(a, b)| a > b)
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

    #[test]
    fn texts_are_numbered_from_the_initial_set_on() {
        let initial = InitialSet::new(["a", "b"].map(str::to_owned));
        let mut pool = Pool::new(&initial, vec![0.5, 0.25]);
        assert_eq!(pool.last(2), (&["a".to_owned(), "b".into()][..], &[0.5, 0.25][..]));
        pool.extend(3, vec!["c".into(), "d".into()], vec![0.75, 0.1]);
        pool.extend(4, vec!["e".into()], vec![0.2]);
        assert_eq!(pool.candidate(3), Candidate { text: "d".into(), score: 0.1, step: 3 });
        assert_eq!((pool.candidate(1).step, pool.candidate(4).step, pool.len()), (0, 4, 5));
        assert!(pool.contains("a") && pool.contains("d") && !pool.contains("f"));
        assert_eq!(pool.last(1), (&["e".to_owned()][..], &[0.2][..]));
    }

    #[test]
    fn those_that_others_beat_in_everything_go_first() {
        let objectives = [[3.0, 1.0], [1.0, 3.0], [2.0, 0.5], [0.9, 2.9], [2.0, 2.0]].map(Vec::from);
        // The third has the best score, and is dominated by the first and the last.
        let scores = [4.0, 4.0, 9.0, 3.8, 4.0];
        assert_eq!(top_of_fronts(3, &scores, &objectives), [0, 1, 4]);
        assert_eq!(non_dominated(&objectives), [0, 1, 4]);
        assert_eq!(top_of_fronts(5, &scores, &objectives), [0, 1, 4, 2, 3]);
        assert_eq!(top_of_fronts(1, &scores, &objectives), [0]);
        assert!(!dominates(&[1.0, 1.0], &[1.0, 1.0]) && dominates(&[1.0, 2.0], &[1.0, 1.0]));
        // What is no number beats nothing and is beaten by nothing; it does not stand in the way.
        assert_eq!(top_of_fronts(2, &[1.0, 2.0], &[vec![f32::NAN], vec![1.0]]), [1, 0]);
    }

    proptest! {
        #[test]
        fn with_one_objective_it_is_the_top(scores in prop::collection::vec(0_u8..6, 1..60), keep in 1_usize..20) {
            let floats: Vec<f32> = scores.iter().map(|&s| f32::from(s)).collect();
            let objectives: Vec<Vec<f32>> = floats.iter().map(|&s| vec![s]).collect();
            prop_assert_eq!(top_of_fronts(keep, &floats, &objectives), Pool::top(keep, &floats));
        }

        #[test]
        fn top_is_a_stable_sort(scores in prop::collection::vec(0_u8..6, 1..60), keep in 1_usize..20) {
            let floats: Vec<f32> = scores.iter().map(|&s| f32::from(s)).collect();
            let mut expected: Vec<usize> = (0..scores.len()).collect();
            expected.sort_by_key(|&i| std::cmp::Reverse(scores[i]));
            expected.truncate(keep);
            prop_assert_eq!(Pool::top(keep, &floats), expected);
        }
    }
}
