//! ROUGE-L as the COCO tools compute it: an F-measure (beta 1.2) of the longest common subsequence, of the best precision
//! and the best recall over the references.
//!
//! Lin, *ROUGE: a package for automatic evaluation of summaries*, 2004; `rouge.py` of coco-caption.

use crate::ngram::Sentence;
use rayon::prelude::*;

/// Weight of recall against precision.
const BETA: f64 = 1.2;

/// Length of the longest common subsequence.
fn common(a: &[u32], b: &[u32], row: &mut Vec<usize>) -> usize {
    row.clear();
    row.resize(b.len() + 1, 0);
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// ROUGE-L of one candidate; 0 without references.
pub fn rouge_l(candidate: &[u32], references: &[Sentence]) -> f64 {
    // The COCO tools cut at spaces, so that an empty text is one empty word, and two of them are alike.
    const EMPTY: &[u32] = &[u32::MAX];
    let filled = |s: &'_ [u32]| if s.is_empty() { EMPTY.to_vec() } else { s.to_vec() };
    let candidate = filled(candidate);
    let mut row = Vec::new();
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference = filled(reference);
        let length = common(&reference, &candidate, &mut row) as f64;
        precision = precision.max(length / candidate.len() as f64);
        recall = recall.max(length / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// ROUGE-L of candidates, each with its references. That of all is the mean.
pub fn rouge_l_all(candidates: &[Sentence], references: &[Vec<Sentence>]) -> Vec<f64> {
    candidates.par_iter().zip(references).map(|(c, r)| rouge_l(c, r)).collect()
}
