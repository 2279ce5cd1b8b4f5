//! What a text must be to get into a set, and counts of what does not.

use serde::Serialize;
use std::collections::HashSet;

/// What texts may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes (UTF-8).
    pub bytes: usize,
    /// Most words: encoders of CLIP's kind read about 77 tokens, which are some fifty words.
    pub words: usize,
}

impl Default for Limits {
    /// 300 bytes, 50 words.
    fn default() -> Self {
        Self { bytes: 300, words: 50 }
    }
}

/// What came of texts. `read` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Texts that came.
    pub read: u64,
    /// Of those, taken.
    pub kept: u64,
    /// Without a letter or a digit.
    pub empty: u64,
    /// Over a limit.
    pub too_long: u64,
    /// There already, but for case, spaces and punctuation.
    pub duplicates: u64,
}

/// Takes texts, each once.
#[derive(Clone, Debug, Default)]
pub struct Cleaner {
    limits: Limits,
    seen: HashSet<[u8; 16]>,
    counts: Counts,
}

impl Cleaner {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The text with outer white space gone and inner white space single, if it is one for the set and not there yet.
    pub fn take(&mut self, text: &str) -> Option<String> {
        self.counts.read += 1;
        // Control characters would reach a terminal; some of them are no white space.
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
        let clean = words.join(" ");
        let Some(key) = key(&clean) else {
            self.counts.empty += 1;
            return None;
        };
        if clean.len() > self.limits.bytes || words.len() > self.limits.words {
            self.counts.too_long += 1;
            return None;
        }
        if !self.seen.insert(key) {
            self.counts.duplicates += 1;
            return None;
        }
        self.counts.kept += 1;
        Some(clean)
    }

    /// What came of all texts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// The same for texts that differ in case, spaces and punctuation alone; `None` for those that have nothing else.
fn key(text: &str) -> Option<[u8; 16]> {
    let mut hash = blake3::Hasher::new();
    let mut any = false;
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        any = true;
        hash.update(word.to_lowercase().as_bytes());
        hash.update(b" ");
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    any.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_once_and_the_others_counted() {
        let mut cleaner = Cleaner::new(Limits { bytes: 20, words: 4 });
        assert_eq!(cleaner.take("  A  red\tcar.\u{7}").as_deref(), Some("A red car."));
        for (text, kept) in [
            ("a RED car", None),
            ("a red-car!", None),
            ("", None),
            (" … !", None),
            ("one two three four five", None),
            ("twenty-one bytes long", None),
            ("a redcar", Some("a redcar")),
            ("ÄÖÜ", Some("ÄÖÜ")),
            ("äöü", None),
        ] {
            assert_eq!(cleaner.take(text).as_deref(), kept, "{text}");
        }
        let Counts { read, kept, empty, too_long, duplicates } = cleaner.counts();
        assert_eq!((read, kept, empty, too_long, duplicates), (10, 3, 2, 2, 3));
    }
}
