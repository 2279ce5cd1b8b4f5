//! Candidates put to their references, and metrics over all of them.

use crate::bleu::{BleuCounts, bleu};
use crate::cider::{DocumentFrequencies, Variant, cider};
use crate::diversity::{distinct, self_bleu};
use crate::meteor::{Meteor, MeteorStats};
use crate::ngram::{LONGEST, Sentence, Vocabulary};
use crate::read::{Entries, names, way};
use crate::rouge::rouge_l_all;
use crate::{EvalError, ptb};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// What is done about references without a candidate, and candidates without references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is an error.
    Refuse,
    /// References without a candidate count as failed.
    Fail,
    /// They are left out, and counted.
    LeaveOut,
}

/// Candidates with their references, in the references' order.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Ids.
    pub ids: Vec<String>,
    /// Captions; empty where there is none.
    pub candidates: Vec<String>,
    /// Why there is none.
    pub errors: Vec<Option<String>>,
    /// References.
    pub references: Vec<Vec<String>>,
    /// How many were left out.
    pub left_out: usize,
}

impl Corpus {
    /// Puts them together. An id that is a file's path stands for that, its name, its stem, or the number at the stem's
    /// end (`COCO_val2014_000000000042.jpg` is 42): whichever is an id of most references.
    ///
    /// # Errors
    /// If some do not belong together, and `mismatch` refuses that.
    pub fn join(candidates: &Entries, references: &Entries, mismatch: Mismatch) -> Result<Self, EvalError> {
        let wanted: HashSet<&str> = references.entries.iter().map(|e| &*e.id).collect();
        let named: Vec<[Option<String>; 4]> = candidates.entries.iter().map(|e| names(&e.id)).collect();
        let way = way(&named, &wanted);
        let mut by_id = HashMap::new();
        let mut unknown = Vec::new();
        for (entry, name) in candidates.entries.iter().zip(named) {
            let id = name.into_iter().nth(way).flatten().unwrap_or_default();
            if !wanted.contains(&*id) {
                unknown.push(format!("`{}` (line {})", entry.id, entry.line));
            } else if let Some(other) = by_id.insert(id, entry) {
                let problem = format!(
                    "`{}` (line {}) and `{}` (line {}) are the same item",
                    other.id, other.line, entry.id, entry.line
                );
                return Err(EvalError::Mismatch(problem));
            }
        }
        let missing: Vec<String> = references
            .entries
            .iter()
            .filter(|e| !by_id.contains_key(&e.id))
            .map(|e| format!("`{}` (line {})", e.id, e.line))
            .collect();
        if !unknown.is_empty() && mismatch != Mismatch::LeaveOut {
            let problem = format!("{} candidates have no references: {}", unknown.len(), some(&unknown));
            return Err(EvalError::Mismatch(problem));
        }
        if !missing.is_empty() && mismatch == Mismatch::Refuse {
            let problem = format!("{} references have no candidate: {}", missing.len(), some(&missing));
            return Err(EvalError::Mismatch(problem));
        }
        if by_id.is_empty() {
            return Err(EvalError::Mismatch("no id of the candidates is one of the references".into()));
        }
        let mut made = Self { left_out: unknown.len(), ..Self::default() };
        for of in &references.entries {
            let (caption, error) = match by_id.get(&of.id) {
                Some(entry) => (entry.texts.first().cloned().unwrap_or_default(), entry.error.clone()),
                None if mismatch == Mismatch::LeaveOut => {
                    made.left_out += 1;
                    continue;
                }
                None => (String::new(), Some("there is no candidate".into())),
            };
            made.ids.push(of.id.clone());
            made.candidates.push(caption);
            made.errors.push(error);
            made.references.push(of.texts.clone());
        }
        Ok(made)
    }

    /// How many items have failed.
    pub fn failed(&self) -> usize {
        self.errors.iter().flatten().count()
    }
}

/// The first few of many, for a message.
pub fn some(all: &[String]) -> String {
    let more = if all.len() > 5 { format!(" and {} more", all.len() - 5) } else { String::new() };
    all.iter().take(5).cloned().collect::<Vec<_>>().join(", ") + &more
}

/// A corpus cut into words.
pub struct Words {
    /// Candidates as the COCO tools score them.
    pub candidates: Vec<String>,
    /// References.
    pub references: Vec<Vec<String>>,
    /// Words by number.
    pub vocabulary: Vocabulary,
    candidate_numbers: Vec<Sentence>,
    reference_numbers: Vec<Vec<Sentence>>,
    failed: Vec<bool>,
}

impl Words {
    /// Cuts all texts with the treebank tokenizer.
    pub fn of(corpus: &Corpus) -> Self {
        let candidates: Vec<String> = corpus.candidates.par_iter().map(|t| ptb::words(t)).collect();
        let references: Vec<Vec<String>> =
            corpus.references.par_iter().map(|r| r.iter().map(|t| ptb::words(t)).collect()).collect();
        let mut vocabulary = Vocabulary::default();
        let candidate_numbers = candidates.iter().map(|t| vocabulary.sentence(t)).collect();
        let reference_numbers = references.iter().map(|r| r.iter().map(|t| vocabulary.sentence(t)).collect()).collect();
        let failed = corpus.errors.iter().map(Option::is_some).collect();
        Self { candidates, references, vocabulary, candidate_numbers, reference_numbers, failed }
    }

    /// Another system's candidates of the same items, whose references need not be cut again.
    pub fn with_candidates(&self, corpus: &Corpus) -> Self {
        let candidates: Vec<String> = corpus.candidates.par_iter().map(|t| ptb::words(t)).collect();
        let mut vocabulary = self.vocabulary.clone();
        let candidate_numbers = candidates.iter().map(|t| vocabulary.sentence(t)).collect();
        let failed = corpus.errors.iter().map(Option::is_some).collect();
        let (references, reference_numbers) = (self.references.clone(), self.reference_numbers.clone());
        Self { candidates, references, vocabulary, candidate_numbers, reference_numbers, failed }
    }

    /// BLEU-1 to BLEU-4.
    pub fn bleu(&self) -> (BleuCounts, Vec<Series>) {
        let counts = bleu(&self.candidate_numbers, &self.reference_numbers);
        (counts.iter().copied().sum(), Series::bleu("bleu", &counts))
    }

    /// ROUGE-L.
    pub fn rouge_l(&self) -> Series {
        Series::mean("rouge-l", self.zeroed(rouge_l_all(&self.candidate_numbers, &self.reference_numbers)))
    }

    /// Frequencies of the references' n-grams.
    pub fn frequencies(&self) -> DocumentFrequencies {
        DocumentFrequencies::of(&self.reference_numbers)
    }

    /// CIDEr in one of its forms.
    pub fn cider(&self, name: &'static str, frequencies: &DocumentFrequencies, variant: Variant) -> Series {
        Series::mean(name, self.zeroed(cider(&self.candidate_numbers, &self.reference_numbers, frequencies, variant)))
    }

    /// METEOR.
    ///
    /// # Errors
    /// If its data cannot be read.
    pub fn meteor(&self, meteor: &Meteor) -> Result<Series, EvalError> {
        Ok(Series { name: "meteor".into(), kind: Kind::Meteor(meteor.stats(&self.candidates, &self.references)?) })
    }

    /// Self-BLEU-1 to 4 of the candidates that did not fail; of the others 0.
    pub fn self_bleu(&self) -> Vec<Series> {
        let scores: Vec<[f64; LONGEST]> = self_bleu(&self.candidate_numbers).iter().map(BleuCounts::scores).collect();
        let of =
            |n: usize| Series::mean(format!("self-bleu-{}", n + 1), self.zeroed(scores.iter().map(|s| s[n]).collect()));
        (0..LONGEST).map(of).collect()
    }

    /// Distinct-1 to 4 of all candidates.
    pub fn distinct(&self) -> [f64; LONGEST] {
        distinct(&self.candidate_numbers)
    }

    /// What failed scores nothing.
    pub fn zeroed(&self, mut scores: Vec<f64>) -> Vec<f64> {
        for (score, failed) in scores.iter_mut().zip(&self.failed) {
            if *failed {
                *score = 0.0;
            }
        }
        scores
    }
}

/// A metric's values of items, and how they make one of all.
#[derive(Clone, Debug)]
pub struct Series {
    /// Of the metric, as reports call it.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Mean(Vec<f64>),
    Bleu(usize, std::sync::Arc<[BleuCounts]>),
    Meteor(Vec<MeteorStats>),
}

impl Series {
    /// One whose score is the items' mean.
    pub fn mean(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self { name: name.into(), kind: Kind::Mean(values) }
    }

    fn bleu(name: &str, counts: &[BleuCounts]) -> Vec<Self> {
        let counts: std::sync::Arc<[BleuCounts]> = counts.into();
        (0..LONGEST).map(|n| Self { name: format!("{name}-{}", n + 1), kind: Kind::Bleu(n, counts.clone()) }).collect()
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Mean(values) => values.len(),
            Kind::Bleu(_, counts) => counts.len(),
            Kind::Meteor(stats) => stats.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item's score.
    pub fn item(&self, at: usize) -> f64 {
        match &self.kind {
            Kind::Mean(values) => values[at],
            Kind::Bleu(n, counts) => counts[at].scores()[*n],
            Kind::Meteor(stats) => stats[at].score(),
        }
    }

    /// The score of all.
    pub fn score(&self) -> f64 {
        self.over(0..self.len())
    }

    /// The score of some items.
    pub(crate) fn over(&self, items: impl IntoIterator<Item = usize>) -> f64 {
        let items = items.into_iter();
        match &self.kind {
            Kind::Mean(values) => {
                let (count, sum) = items.fold((0usize, 0.0), |(count, sum), at| (count + 1, sum + values[at]));
                if count == 0 { 0.0 } else { sum / count as f64 }
            }
            Kind::Bleu(n, counts) => items.map(|at| counts[at]).sum::<BleuCounts>().scores()[*n],
            Kind::Meteor(stats) => items.map(|at| stats[at]).sum::<MeteorStats>().score(),
        }
    }

    /// The score of a system that is made of two: each item is the second's where `swap` is not `second`.
    pub(crate) fn mixed(a: &Self, b: &Self, swap: &[bool], second: bool) -> f64 {
        fn pick<'a, T>(a: &'a [T], b: &'a [T], swap: &'a [bool], second: bool) -> impl Iterator<Item = &'a T> {
            a.iter().zip(b).zip(swap).map(move |((a, b), swap)| if *swap == second { a } else { b })
        }
        match (&a.kind, &b.kind) {
            (Kind::Mean(a), Kind::Mean(b)) => pick(a, b, swap, second).sum::<f64>() / swap.len().max(1) as f64,
            (Kind::Bleu(n, a), Kind::Bleu(_, b)) => pick(a, b, swap, second).copied().sum::<BleuCounts>().scores()[*n],
            (Kind::Meteor(a), Kind::Meteor(b)) => pick(a, b, swap, second).copied().sum::<MeteorStats>().score(),
            // Two series of one metric are of one kind.
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Entry;

    fn entries(all: &[(&str, &[&str], Option<&str>)]) -> Entries {
        let one = |(line, (id, texts, error)): (usize, &(&str, &[&str], Option<&str>))| Entry {
            id: (*id).into(),
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
            error: error.map(str::to_owned),
            line: line + 1,
        };
        Entries { entries: all.iter().enumerate().map(one).collect(), warnings: Vec::new() }
    }

    #[test]
    fn what_failed_scores_nothing_and_stays_in_the_mean() {
        let references =
            entries(&[("7", &["a dog runs on the grass"], None), ("12", &["a cat sits on the mat"], None)]);
        let candidates = entries(&[
            ("x/COCO_000012.jpg", &["a cat sits on the mat"], None),
            ("x/COCO_000007.jpg", &[], Some("damaged")),
        ]);
        let corpus = Corpus::join(&candidates, &references, Mismatch::Refuse).unwrap();
        assert_eq!((corpus.ids.clone(), corpus.failed()), (vec!["7".to_owned(), "12".to_owned()], 1));
        let words = Words::of(&corpus);
        let rouge = words.rouge_l();
        assert_eq!((rouge.item(0), rouge.item(1), rouge.score()), (0.0, 1.0, 0.5));
        let (counts, series) = words.bleu();
        assert_eq!((counts.candidate_length, counts.reference_length), (6, 12));
        assert!(series[3].item(0) == 0.0 && (series[0].score() - (-1.0f64).exp()).abs() < 1e-6);
        let meteor = words.meteor(&Meteor::without_data([])).unwrap();
        assert!(meteor.item(0) == 0.0 && meteor.item(1) == 1.0 && meteor.score() < 0.6);
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let references = entries(&[("1", &["a"], None), ("2", &["b"], None)]);
        let join = |candidates: &Entries, mismatch| Corpus::join(candidates, &references, mismatch);
        let error = join(&entries(&[("1", &["a"], None)]), Mismatch::Refuse).unwrap_err().to_string();
        assert_eq!(error, "1 references have no candidate: `2` (line 2)");
        let error =
            join(&entries(&[("1", &["a"], None), ("9", &["a"], None)]), Mismatch::Fail).unwrap_err().to_string();
        assert_eq!(error, "1 candidates have no references: `9` (line 2)");
        let failed = join(&entries(&[("1", &["a"], None)]), Mismatch::Fail).unwrap();
        assert_eq!((failed.ids.len(), failed.failed()), (2, 1));
        let left = join(&entries(&[("1", &["a"], None), ("9", &["a"], None)]), Mismatch::LeaveOut).unwrap();
        assert_eq!((left.ids.len(), left.left_out), (1, 2));
        let error =
            join(&entries(&[("a/1.jpg", &["a"], None), ("b/1.jpg", &["a"], None)]), Mismatch::Fail).unwrap_err();
        assert!(error.to_string().contains("are the same item"), "{error}");
    }
}
