//! CIDEr and CIDEr-D: cosines of n-grams, weighted by how few images' references have them.
//!
//! Vedantam, Zitnick and Parikh, *CIDEr: consensus-based image description evaluation*, CVPR 2015. What the COCO tools print
//! as CIDEr is CIDEr-D (weights clipped to the reference's, a Gaussian of the difference in length with sigma 6), and so is
//! what papers report; [`Variant::Plain`] is the paper's first form. Both times 10, as `cider_scorer.py` has it.

use crate::EvalError;
use crate::ngram::{Gram, LONGEST, Sentence, Vocabulary, counts, gram, order, words};
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// CIDEr-D: with clipping and the penalty of lengths. The COCO tools' `CIDEr`.
    D,
    /// Without both.
    Plain,
}

/// Standard deviation of the penalty of lengths, in bigrams.
const SIGMA: f64 = 6.0;

/// In how many images' references an n-gram occurs.
#[derive(Clone, Debug)]
pub struct DocumentFrequencies {
    documents: u64,
    frequencies: FxHashMap<Gram, u32>,
}

/// The file of frequencies.
#[derive(Serialize, Deserialize)]
struct Stored {
    documents: u64,
    frequencies: BTreeMap<String, u32>,
}

impl DocumentFrequencies {
    /// Counts references, of which each entry is one image's.
    pub fn of(references: &[Vec<Sentence>]) -> Self {
        let mut grams: Vec<Gram> = references
            .par_iter()
            .flat_map_iter(|of_one| {
                let mut grams: Vec<Gram> = of_one.iter().flat_map(|r| counts(r)).map(|c| c.0).collect();
                grams.sort_unstable();
                grams.dedup();
                grams
            })
            .collect();
        grams.par_sort_unstable();
        let mut frequencies = FxHashMap::default();
        frequencies.extend(grams.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)));
        Self { documents: references.len() as u64, frequencies }
    }

    /// Reads a file that [`DocumentFrequencies::write`] wrote: `{"documents": 40504, "frequencies": {"a dog": 812, …}}`.
    ///
    /// # Errors
    /// If it cannot be read, or is something else.
    pub fn read(path: &Path, vocabulary: &mut Vocabulary) -> Result<Self, EvalError> {
        let text = crate::read::text(path)?;
        let stored: Stored = serde_json::from_str(&text).map_err(|e| EvalError::line(path, e.line(), e.to_string()))?;
        if stored.documents == 0 {
            return Err(EvalError::file(path, "`documents` is 0; the frequencies are of no images"));
        }
        let mut frequencies = FxHashMap::default();
        for (text, count) in stored.frequencies {
            let sentence = vocabulary.sentence(&text);
            if sentence.is_empty() || sentence.len() > LONGEST {
                return Err(EvalError::file(path, format!("`{text}` is no n-gram of one to four words")));
            }
            frequencies.insert(gram(&sentence), count);
        }
        Ok(Self { documents: stored.documents, frequencies })
    }

    /// Writes them as JSON.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, out: impl std::io::Write, vocabulary: &Vocabulary) -> std::io::Result<()> {
        let text = |gram: Gram| words(gram).map(|w| vocabulary.word(w)).collect::<Vec<_>>().join(" ");
        let frequencies = self.frequencies.iter().map(|(gram, count)| (text(*gram), *count)).collect();
        serde_json::to_writer(out, &Stored { documents: self.documents, frequencies }).map_err(Into::into)
    }

    /// Number of images that were counted.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    fn weigh(&self, sentence: &[u32]) -> Weighted {
        let log_documents = (self.documents as f64).ln();
        let mut norms = [0.0; LONGEST];
        let weigh = |(gram, count): (Gram, u32)| {
            let documents = self.frequencies.get(&gram).copied().unwrap_or(0).max(1);
            let weight = f64::from(count) * (log_documents - f64::from(documents).ln());
            norms[order(gram) - 1] += weight * weight;
            (gram, weight)
        };
        let weights = counts(sentence).into_iter().map(weigh).collect();
        // The reference counts bigrams, not words.
        let length = sentence.len().saturating_sub(1) as f64;
        Weighted { weights, norms: norms.map(f64::sqrt), length }
    }
}

/// n-grams of a sentence with their weights.
struct Weighted {
    weights: Vec<(Gram, f64)>,
    norms: [f64; LONGEST],
    length: f64,
}

/// The similarities of two sentences by the length of n-grams, added up.
fn similarity(candidate: &Weighted, reference: &Weighted, variant: Variant) -> f64 {
    let mut dots = [0.0; LONGEST];
    let mut others = reference.weights.iter().peekable();
    for (gram, weight) in &candidate.weights {
        while others.next_if(|o| o.0 < *gram).is_some() {}
        if let Some((_, other)) = others.next_if(|o| o.0 == *gram) {
            let weight = if variant == Variant::D { weight.min(*other) } else { *weight };
            dots[order(*gram) - 1] += weight * other;
        }
    }
    let delta = candidate.length - reference.length;
    let penalty = if variant == Variant::D { (-(delta * delta) / (2.0 * SIGMA * SIGMA)).exp() } else { 1.0 };
    (0..LONGEST)
        .map(|n| {
            let norm = candidate.norms[n] * reference.norms[n];
            penalty * if norm == 0.0 { dots[n] } else { dots[n] / norm }
        })
        .sum()
}

/// CIDEr of candidates, each with its references (0 without any). That of all is the mean.
pub fn cider(
    candidates: &[Sentence],
    references: &[Vec<Sentence>],
    frequencies: &DocumentFrequencies,
    variant: Variant,
) -> Vec<f64> {
    let score = |(candidate, references): (&Sentence, &Vec<Sentence>)| {
        let candidate = frequencies.weigh(candidate);
        let all: f64 = references.iter().map(|r| similarity(&candidate, &frequencies.weigh(r), variant)).sum();
        10.0 * all / LONGEST as f64 / references.len().max(1) as f64
    };
    candidates.par_iter().zip(references).map(score).collect()
}
