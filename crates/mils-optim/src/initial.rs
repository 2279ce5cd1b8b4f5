//! The texts that runs start from, sorted out once for all of them.

use crate::pool::normal;
use crate::types::{Unusable, UnusableReason};
use std::collections::HashSet;

/// Texts in normal form (outer white space gone, inner white space single), each once, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct InitialSet {
    texts: Vec<String>,
    index: HashSet<String>,
    unusable: Vec<Unusable>,
}

impl InitialSet {
    /// Of any texts. Blanks and repeats are left out, and kept in [`InitialSet::unusable`].
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut set = Self::default();
        for text in texts {
            let clean = normal(&text);
            let reason = if clean.is_empty() {
                UnusableReason::Empty
            } else if set.index.insert(clean.clone()) {
                set.texts.push(clean);
                continue;
            } else {
                UnusableReason::Duplicate
            };
            set.unusable.push(Unusable { text, reason });
        }
        set
    }

    /// The texts.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// What was left out, with the reason.
    pub fn unusable(&self) -> &[Unusable] {
        &self.unusable
    }

    /// Whether a text, in normal form, is one of them.
    pub fn contains(&self, text: &str) -> bool {
        self.index.contains(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_repeats_are_left_out_and_told() {
        let set = InitialSet::new(["a  red\tcar", " ", "a red car ", "b"].map(str::to_owned));
        assert_eq!(set.texts(), ["a red car", "b"]);
        assert!(set.contains("a red car") && !set.contains("a  red\tcar"));
        let reasons: Vec<_> = set.unusable().iter().map(|u| u.reason).collect();
        assert_eq!(reasons, [UnusableReason::Empty, UnusableReason::Duplicate]);
    }
}
