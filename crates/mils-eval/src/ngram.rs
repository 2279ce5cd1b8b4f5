//! Words as numbers, and n-grams as numbers of words.

use rustc_hash::FxHashMap;

/// A tokenised text: the numbers of its words in a [`Vocabulary`].
pub type Sentence = Vec<u32>;

/// Longest n-gram that is counted.
pub const LONGEST: usize = 4;

/// Numbers for words.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    numbers: FxHashMap<Box<str>, u32>,
    words: Vec<Box<str>>,
}

impl Vocabulary {
    /// The number of a word, new or known.
    pub fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        // As many words as this fit no memory.
        let number = u32::try_from(self.words.len()).unwrap_or(u32::MAX - 1);
        self.words.push(word.into());
        self.numbers.insert(word.into(), number);
        number
    }

    /// A text of words with white space between them.
    pub fn sentence(&mut self, text: &str) -> Sentence {
        text.split_whitespace().map(|word| self.number(word)).collect()
    }

    /// A word by its number.
    pub fn word(&self, number: u32) -> &str {
        self.words.get(number as usize).map_or("", |w| w)
    }

    /// All words, by their numbers.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        self.words.iter().map(|w| &**w)
    }

    /// The number of a word that is known.
    pub fn find(&self, word: &str) -> Option<u32> {
        self.numbers.get(word).copied()
    }
}

/// An n-gram of up to four words: 32 bits a word, which are its number and one more, the last word lowest.
pub type Gram = u128;

/// The n-gram of these words.
pub fn gram(words: &[u32]) -> Gram {
    words.iter().fold(0, |gram, word| gram << 32 | Gram::from(word + 1))
}

/// How many words an n-gram has.
pub fn order(gram: Gram) -> usize {
    LONGEST - (gram.leading_zeros() / 32) as usize
}

/// The words of an n-gram.
pub fn words(gram: Gram) -> impl Iterator<Item = u32> {
    // The cast keeps the lowest 32 bits, which are one word.
    (0..order(gram)).rev().map(move |place| ((gram >> (32 * place)) as u32).wrapping_sub(1))
}

/// The n-grams of one to four words with how often they occur, in their order.
pub fn counts(sentence: &[u32]) -> Vec<(Gram, u32)> {
    let mut grams: Vec<Gram> = (1..=LONGEST).flat_map(|n| sentence.windows(n).map(gram)).collect();
    grams.sort_unstable();
    let mut counts: Vec<(Gram, u32)> = Vec::with_capacity(grams.len());
    for gram in grams {
        match counts.last_mut() {
            Some((last, count)) if *last == gram => *count += 1,
            _ => counts.push((gram, 1)),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_are_counted_by_length_and_words() {
        let mut vocabulary = Vocabulary::default();
        let sentence = vocabulary.sentence("a b a  b c");
        assert_eq!(sentence, [0, 1, 0, 1, 2]);
        let counts = counts(&sentence);
        let of = |text: &str| {
            let words: Vec<u32> = text.split(' ').map(|w| vocabulary.find(w).unwrap()).collect();
            counts.iter().find(|(g, _)| *g == gram(&words)).map(|c| c.1)
        };
        assert_eq!((of("a"), of("c"), of("a b"), of("b a b c"), of("b b")), (Some(2), Some(1), Some(2), Some(1), None));
        let by_length = |n: usize| counts.iter().filter(|(g, _)| order(*g) == n).map(|c| c.1).sum::<u32>();
        assert_eq!([by_length(1), by_length(2), by_length(3), by_length(4)], [5, 4, 3, 2]);
        assert_eq!(words(gram(&[7, 0, 9])).collect::<Vec<_>>(), [7, 0, 9]);
    }
}
