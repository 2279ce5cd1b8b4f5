//! METEOR 1.5 for English, without Java: exact words, stems, WordNet's synonyms and paraphrases, with the tuned parameters.
//!
//! Denkowski and Lavie, *Meteor universal: language specific translation evaluation for any target language*, 2014. The
//! data are METEOR's own and are read from its files ([`MeteorFiles`]); without them only the stages that need none run
//! (exact and stem), no word counts as a function word, and the scores are comparable with nobody's. The
//! score of a corpus is that of its summed statistics, not a mean.

mod align;
mod data;
mod normalize;

pub use data::MeteorFiles;

use self::align::{Match, Stage, align, chunks};
use self::data::{Paraphrases, Prefixes, Synonyms};
use crate::EvalError;
use crate::ngram::Vocabulary;
use rayon::prelude::*;
use rust_stemmers::{Algorithm, Stemmer};
use rustc_hash::{FxHashMap, FxHashSet};

/// Weight of precision against recall, of the penalty's shape, of the penalty, and of content against function words; tuned
/// on rankings of English (METEOR's task `rank`, its default).
const ALPHA: f64 = 0.85;
const BETA: f64 = 0.2;
const GAMMA: f64 = 0.6;
const DELTA: f64 = 0.75;
/// Weights of the stages.
const WEIGHTS: [f64; STAGES] = [1.0, 0.6, 0.8, 0.6];
/// Partial alignments that are kept.
const BEAM: usize = 40;
/// Exact, stem, synonym, paraphrase.
const STAGES: usize = 4;

/// Words of the two texts: the candidate's and the reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Both {
    /// Of the candidate.
    pub candidate: u64,
    /// Of the reference.
    pub reference: u64,
}

/// What a score is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MeteorStats {
    /// Words.
    pub words: Both,
    /// Function words among them.
    pub function_words: Both,
    /// Matched content words by stage.
    pub content_matches: [Both; STAGES],
    /// Matched function words by stage.
    pub function_matches: [Both; STAGES],
    /// Runs of matches.
    pub chunks: u64,
    /// Matched words.
    pub matches: Both,
}

impl MeteorStats {
    /// The score, 0 to 1.
    pub fn score(&self) -> f64 {
        let side = |of: fn(&Both) -> u64| {
            let matched: f64 = (0..STAGES)
                .map(|s| {
                    let (content, function) = (of(&self.content_matches[s]), of(&self.function_matches[s]));
                    WEIGHTS[s] * (DELTA * content as f64 + (1.0 - DELTA) * function as f64)
                })
                .sum();
            let (words, function) = (of(&self.words), of(&self.function_words));
            let all = DELTA * (words - function.min(words)) as f64 + (1.0 - DELTA) * function as f64;
            if all == 0.0 { 0.0 } else { matched / all }
        };
        let (precision, recall) = (side(|b| b.candidate), side(|b| b.reference));
        if precision == 0.0 || recall == 0.0 {
            return 0.0;
        }
        let mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall);
        let average = (self.matches.candidate + self.matches.reference) as f64 / 2.0;
        let fragmentation = self.breaks() as f64 / average;
        mean * (1.0 - GAMMA * fragmentation.powf(BETA))
    }
}

impl MeteorStats {
    /// Runs of matches that count: where all words match in one run nothing is out of order.
    fn breaks(&self) -> u64 {
        let whole = self.chunks == 1 && self.matches == self.words;
        if whole { 0 } else { self.chunks }
    }
}

impl std::iter::Sum for MeteorStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        fn add(a: &mut Both, b: Both) {
            a.candidate += b.candidate;
            a.reference += b.reference;
        }
        all.fold(Self::default(), |mut sum, one| {
            add(&mut sum.words, one.words);
            add(&mut sum.function_words, one.function_words);
            for s in 0..STAGES {
                add(&mut sum.content_matches[s], one.content_matches[s]);
                add(&mut sum.function_matches[s], one.function_matches[s]);
            }
            // As in the official program, an item without a break adds none to the corpus.
            sum.chunks += one.breaks();
            add(&mut sum.matches, one.matches);
            sum
        })
    }
}

/// METEOR with the data that it has.
pub struct Meteor {
    files: Option<MeteorFiles>,
    prefixes: Prefixes,
    functions: FxHashSet<String>,
    synonyms: Option<Synonyms>,
}

impl Meteor {
    /// With METEOR's own data.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn open(files: MeteorFiles) -> Result<Self, EvalError> {
        let (prefixes, functions) = (files.prefixes()?, files.function_words()?);
        let synonyms = Some(files.synonyms()?);
        Ok(Self { files: Some(files), prefixes, functions, synonyms })
    }

    /// Without data: exact words and stems. `functions` are words that count little; METEOR's own are in its files.
    pub fn without_data(functions: impl IntoIterator<Item = String>) -> Self {
        let functions = functions.into_iter().collect();
        Self { files: None, prefixes: Prefixes::default(), functions, synonyms: None }
    }

    /// Names of the stages that run.
    pub fn stages(&self) -> Vec<&'static str> {
        let paraphrases = self.files.as_ref().is_some_and(MeteorFiles::has_paraphrases);
        let all = [("exact", true), ("stem", true), ("synonym", self.synonyms.is_some()), ("paraphrase", paraphrases)];
        all.into_iter().filter(|s| s.1).map(|s| s.0).collect()
    }

    /// Statistics of candidates, each with its references: those of the reference that gives the best score, of several the
    /// first. Texts are tokenised already, or are to be cut by METEOR's own rules.
    ///
    /// # Errors
    /// If the table of paraphrases cannot be read.
    pub fn stats(&self, candidates: &[String], references: &[Vec<String>]) -> Result<Vec<MeteorStats>, EvalError> {
        let cut = |text: &String| normalize::normalize(text, &self.prefixes).join(" ");
        let candidates: Vec<String> = candidates.par_iter().map(cut).collect();
        let lengths: Vec<usize> = references.iter().map(Vec::len).collect();
        let references: Vec<String> = references.par_iter().flat_map_iter(|r| r.iter().map(cut)).collect();
        let mut texts = candidates;
        let count = texts.len();
        texts.extend(references);
        let words = Words::of(self, &texts)?;
        let sentences: Vec<Sentence> = texts.par_iter().map(|t| words.sentence(t)).collect();
        let (candidates, references) = sentences.split_at(count);
        let mut from = 0;
        let items: Vec<_> = candidates
            .iter()
            .zip(lengths)
            .map(|(candidate, length)| {
                from += length;
                (candidate, &references[from - length..from])
            })
            .collect();
        let best = |(candidate, references): (&Sentence, &[Sentence])| {
            let all = references.iter().map(|r| words.stats(candidate, r));
            let better = |a: (f64, MeteorStats), b: (f64, MeteorStats)| if b.0 > a.0 { b } else { a };
            all.map(|s| (s.score(), s)).reduce(better).map_or_else(|| words.alone(candidate), |b| b.1)
        };
        Ok(items.into_par_iter().map(best).collect())
    }
}

/// A text: its words, and the phrases in it that have paraphrases (start, words, number).
struct Sentence {
    words: Vec<u32>,
    phrases: Vec<(usize, usize, u32)>,
}

/// All that is known of the words of some texts.
struct Words {
    vocabulary: Vocabulary,
    stems: Vec<u32>,
    synsets: Vec<Vec<u32>>,
    function: Vec<bool>,
    table: Paraphrases,
}

impl Words {
    fn of(meteor: &Meteor, texts: &[String]) -> Result<Self, EvalError> {
        let mut vocabulary = Vocabulary::default();
        for text in texts {
            vocabulary.sentence(text);
        }
        let table = match &meteor.files {
            Some(files) => files.table(&vocabulary, texts)?,
            None => Paraphrases::default(),
        };
        let stemmer = Stemmer::create(Algorithm::English);
        let mut stems = Vocabulary::default();
        let numbers = vocabulary.words().map(|w| stems.number(&stemmer.stem(w))).collect();
        let synsets =
            vocabulary.words().map(|w| meteor.synonyms.as_ref().map(|s| s.of(w)).unwrap_or_default()).collect();
        let function = vocabulary.words().map(|w| meteor.functions.contains(w)).collect();
        Ok(Self { vocabulary, stems: numbers, synsets, function, table })
    }

    fn sentence(&self, text: &str) -> Sentence {
        let words: Vec<u32> = text.split_whitespace().filter_map(|w| self.vocabulary.find(w)).collect();
        let mut phrases = Vec::new();
        for start in 0..words.len() {
            for length in 1..=self.table.longest.min(words.len() - start) {
                if let Some(number) = self.table.numbers.get(&words[start..start + length]) {
                    phrases.push((start, length, *number));
                }
            }
        }
        Sentence { words, phrases }
    }

    fn synonyms(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.synsets[a as usize], &self.synsets[b as usize]);
        a.iter().any(|set| b.binary_search(set).is_ok())
    }

    /// All matches of two texts, by their place in the reference, then by stage.
    fn matches(&self, candidate: &Sentence, reference: &Sentence) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut one = |stage, start, other| matches.push(Match { stage, start, length: 1, other, other_length: 1 });
        for (start, r) in reference.words.iter().enumerate() {
            for (other, c) in candidate.words.iter().enumerate() {
                if c == r {
                    one(Stage::Exact, start, other);
                    continue;
                }
                if self.stems[*c as usize] == self.stems[*r as usize] {
                    one(Stage::Stem, start, other);
                }
                if self.synonyms(*c, *r) {
                    one(Stage::Synonym, start, other);
                }
            }
        }
        let mut places: FxHashMap<u32, Vec<(usize, usize)>> = FxHashMap::default();
        for (other, length, number) in &candidate.phrases {
            places.entry(*number).or_default().push((*other, *length));
        }
        for (start, length, number) in &reference.phrases {
            for paraphrase in &self.table.others[*number as usize] {
                for (other, other_length) in places.get(paraphrase).into_iter().flatten() {
                    let (length, other_length) = (*length, *other_length);
                    matches.push(Match {
                        stage: Stage::Paraphrase,
                        start: *start,
                        length,
                        other: *other,
                        other_length,
                    });
                }
            }
        }
        matches.sort_by_key(|m| (m.start, m.stage));
        matches
    }

    /// The statistics of a text that is compared with none.
    fn alone(&self, candidate: &Sentence) -> MeteorStats {
        self.stats(candidate, &Sentence { words: Vec::new(), phrases: Vec::new() })
    }

    fn stats(&self, candidate: &Sentence, reference: &Sentence) -> MeteorStats {
        let count = |words: &[u32]| words.iter().filter(|w| self.function[**w as usize]).count() as u64;
        let mut stats = MeteorStats {
            words: Both { candidate: candidate.words.len() as u64, reference: reference.words.len() as u64 },
            function_words: Both { candidate: count(&candidate.words), reference: count(&reference.words) },
            ..MeteorStats::default()
        };
        let matches = self.matches(candidate, reference);
        let aligned = align(&matches, candidate.words.len(), reference.words.len(), BEAM);
        stats.chunks = chunks(&aligned);
        for m in aligned {
            let (c, r) =
                (&candidate.words[m.other..m.other + m.other_length], &reference.words[m.start..m.start + m.length]);
            let function = Both { candidate: count(c), reference: count(r) };
            let (content, functions) =
                (&mut stats.content_matches[m.stage as usize], &mut stats.function_matches[m.stage as usize]);
            content.candidate += c.len() as u64 - function.candidate;
            content.reference += r.len() as u64 - function.reference;
            functions.candidate += function.candidate;
            functions.reference += function.reference;
            stats.matches.candidate += c.len() as u64;
            stats.matches.reference += r.len() as u64;
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_without_a_break_adds_none_to_the_corpus() {
        let meteor = Meteor::without_data([]);
        let candidates = ["one two three", "one two four three"].map(str::to_owned);
        let references = ["one two three", "one two five three"].map(|text| vec![text.to_owned()]);
        let [whole, broken] = meteor.stats(&candidates, &references).unwrap()[..] else { panic!("two items") };
        assert_eq!((whole.chunks, broken.chunks, whole.score()), (1, 2, 1.0));
        let sum: MeteorStats = [whole, broken].into_iter().sum();
        assert_eq!((sum.chunks, sum.matches.candidate), (2, 6));
    }
}
