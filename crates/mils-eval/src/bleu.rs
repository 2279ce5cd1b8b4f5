//! BLEU as the COCO tools compute it: the reference length closest to the candidate's (the shorter of two), and tiny
//! constants in place of smoothing.
//!
//! Papineni et al., *BLEU: a method for automatic evaluation of machine translation*, ACL 2002. The arithmetic is that of
//! `bleu_scorer.py` of coco-caption with the option `closest`: of a candidate's precision of n-grams, (correct + 1e-15) /
//! (guessed + 1e-9); BLEU-n is the geometric mean of the first n precisions, times exp(1 - 1/r) where r = (length +
//! 1e-15) / (reference length + 1e-9) is below 1.

use crate::ngram::{LONGEST, Sentence, counts, order};
use rayon::prelude::*;

/// What BLEU needs to know of one candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BleuCounts {
    /// n-grams that references have too, by n; each counts as often as in the reference that has it most.
    pub correct: [u64; LONGEST],
    /// n-grams of the candidate.
    pub guess: [u64; LONGEST],
    /// Words of the candidate.
    pub candidate_length: u64,
    /// Words of the reference whose length is closest.
    pub reference_length: u64,
}

impl BleuCounts {
    /// Counts one candidate. Without references all n-grams are wrong.
    pub fn of(candidate: &[u32], references: &[Sentence]) -> Self {
        let length = candidate.len();
        let mut made = Self {
            guess: std::array::from_fn(|n| length.saturating_sub(n) as u64),
            candidate_length: length as u64,
            ..Self::default()
        };
        let closest = references.iter().map(|r| (r.len().abs_diff(length), r.len())).min();
        made.reference_length = closest.map_or(0, |c| c.1 as u64);
        let references: Vec<_> = references.iter().map(|r| counts(r)).collect();
        for (gram, count) in counts(candidate) {
            let find = |r: &Vec<_>| r.binary_search_by_key(&gram, |c: &(_, u32)| c.0).map_or(0, |at| r[at].1);
            let most = references.iter().map(find).max().unwrap_or(0);
            made.correct[order(gram) - 1] += u64::from(most.min(count));
        }
        made
    }

    /// BLEU-1 to BLEU-4 of these counts.
    pub fn scores(&self) -> [f64; LONGEST] {
        const SMALL: f64 = 1e-9;
        const TINY: f64 = 1e-15;
        let mut product = 1.0;
        let ratio = (self.candidate_length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        std::array::from_fn(|n| {
            product *= (self.correct[n] as f64 + TINY) / (self.guess[n] as f64 + SMALL);
            product.powf(1.0 / (n + 1) as f64) * brevity
        })
    }
}

impl std::iter::Sum for BleuCounts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            for n in 0..LONGEST {
                sum.correct[n] += one.correct[n];
                sum.guess[n] += one.guess[n];
            }
            sum.candidate_length += one.candidate_length;
            sum.reference_length += one.reference_length;
            sum
        })
    }
}

/// Counts candidates, each with its references. BLEU of all of them is [`BleuCounts::scores`] of the sum.
pub fn bleu(candidates: &[Sentence], references: &[Vec<Sentence>]) -> Vec<BleuCounts> {
    candidates.par_iter().zip(references).map(|(c, r)| BleuCounts::of(c, r)).collect()
}
