//! The initial sets that come with the project, made of lists and patterns that it wrote.
//!
//! A grammar is a text file: a heading in brackets names what the lines below it say in turn, and `<name>` in a line stands
//! for one of that name's. `<a name>` is the same with its article, unless a heading has just these words. `[text]` is
//! where a text begins. [`compose`] draws texts at random until there are enough different ones.
//!
//! `cargo run --release -p mils-models --example banks` writes models/banks/*.txt.

use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};

/// The sets that come with the project: what they are for, and the grammars whose names they use, their own last.
pub const SETS: [(&str, &[&str]); 3] = [
    ("image", &[include_str!("../banks/image.grammar")]),
    ("video", &[include_str!("../banks/image.grammar"), include_str!("../banks/video.grammar")]),
    ("sound", &[include_str!("../banks/sound.grammar")]),
];

/// Texts in each of them.
pub const SET_TEXTS: usize = 12_000;

/// How many words a text has.
const WORDS: std::ops::RangeInclusive<usize> = 3..=18;
/// Names in names; a grammar that goes deeper goes round in circles.
const MOST_DEPTH: usize = 12;

/// What is wrong with a grammar.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A line stands before any heading.
    #[error("line {line}: `{text}` stands under no [heading]")]
    NoHeading {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A name that no heading has.
    #[error("<{0}> is said, and there is no [{0}]")]
    NoName(String),
    /// A `<` without its `>`.
    #[error("`{0}` has a < without a >")]
    Open(String),
    /// Names that lead back to themselves.
    #[error("<{0}> leads back to itself")]
    Circle(String),
    /// It does not say so many different texts.
    #[error("only {found} texts of {wanted} were found")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many were asked for.
        wanted: usize,
    },
}

/// Ways to say each name.
pub struct Grammar(BTreeMap<String, Vec<String>>);

impl Grammar {
    /// Reads grammars; a heading takes the place of an earlier grammar's of the same name.
    ///
    /// # Errors
    /// If a line stands under no heading.
    pub fn read(grammars: &[&str]) -> Result<Self, GrammarError> {
        let mut all = BTreeMap::new();
        for grammar in grammars {
            let mut own: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut heading: Option<String> = None;
            for (i, line) in grammar.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    heading = Some(name.to_owned());
                    continue;
                }
                let ways = line.split(" | ").map(|way| way.trim().to_owned());
                match &heading {
                    Some(name) => own.entry(name.clone()).or_default().extend(ways),
                    None => return Err(GrammarError::NoHeading { line: i + 1, text: line.to_owned() }),
                }
            }
            all.extend(own);
        }
        Ok(Self(all))
    }

    /// The names and how each can be said, for whoever wants the lists.
    pub fn lists(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, ways)| (&name[..], &ways[..]))
    }

    fn say(&self, name: &str, depth: usize, rng: &mut ChaCha8Rng) -> Result<String, GrammarError> {
        if depth > MOST_DEPTH {
            return Err(GrammarError::Circle(name.to_owned()));
        }
        let plain = name.strip_prefix("a ").or_else(|| name.strip_prefix("an "));
        let (ways, article) = match (self.0.get(name), plain.and_then(|plain| self.0.get(plain))) {
            (Some(ways), _) => (ways, false),
            (None, Some(ways)) => (ways, true),
            (None, None) => return Err(GrammarError::NoName(name.to_owned())),
        };
        // A heading has at least one line below it, or it would not be there.
        let mut rest = ways.choose(rng).map_or("", |way| &way[..]);
        let mut said = String::new();
        while let Some((before, after)) = rest.split_once('<') {
            let (inner, after) = after.split_once('>').ok_or_else(|| GrammarError::Open(rest.to_owned()))?;
            said += before;
            said += &self.say(inner, depth + 1, rng)?;
            rest = after;
        }
        said += rest;
        Ok(if article { format!("{} {said}", article_of(&said)) } else { said })
    }
}

/// By how the word sounds.
fn article_of(word: &str) -> &'static str {
    let consonant = ["uni", "use", "usu", "eu", "one", "ukulele"].iter().any(|s| word.starts_with(s));
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) && !consonant;
    if vowel || ["hour", "honest", "heir"].iter().any(|s| word.starts_with(s)) { "an" } else { "a" }
}

/// `count` different texts of the grammars, the same for the same seed. A text that says a word twice is not taken.
///
/// # Errors
/// If a grammar is wrong, or does not say so many.
pub fn compose(grammars: &[&str], count: usize, seed: u64) -> Result<Vec<String>, GrammarError> {
    let grammar = Grammar::read(grammars)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut seen, mut texts) = (HashSet::new(), Vec::with_capacity(count));
    for _ in 0..count.saturating_mul(100) {
        if texts.len() == count {
            break;
        }
        let text = grammar.say("text", 0, &mut rng)?;
        if well_formed(&text) && seen.insert(text.clone()) {
            texts.push(text);
        }
    }
    if texts.len() < count { Err(GrammarError::TooFew { found: texts.len(), wanted: count }) } else { Ok(texts) }
}

/// Of a length that captions have, and without a longer word that is said twice, whether alone or in the plural.
fn well_formed(text: &str) -> bool {
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let mut long = HashSet::new();
    WORDS.contains(&words.len())
        && words.iter().filter(|word| word.len() > 3).all(|word| long.insert(word.trim_end_matches('s')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_and_their_articles_are_said() {
        let grammar = "[text]\n<a fruit> and <an old fruit> on <a way>\n[fruit]\napple\n[old fruit]\nunusual pear\n[a way]\nthe side";
        assert_eq!(compose(&[grammar], 1, 0).unwrap(), ["an apple and an unusual pear on the side"]);
        for (grammar, error) in [
            ("x", GrammarError::NoHeading { line: 1, text: "x".into() }),
            ("[text]\n<y> z", GrammarError::NoName("y".into())),
            ("[text]\n<text> z", GrammarError::Circle("text".into())),
            ("[text]\n<text", GrammarError::Open("<text".into())),
            ("[text]\none two three", GrammarError::TooFew { found: 1, wanted: 2 }),
        ] {
            assert_eq!(compose(&[grammar], 2, 0).unwrap_err(), error);
        }
    }

    #[test]
    fn articles_go_by_sound() {
        for (word, article) in
            [("owl", "an"), ("uniform", "a"), ("umbrella", "an"), ("hourglass", "an"), ("house", "a")]
        {
            assert_eq!(article_of(word), article, "{word}");
        }
    }

    #[test]
    fn the_sets_that_are_shipped_are_what_the_lists_say() {
        for (name, grammars) in SETS {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("banks/{name}.txt"));
            let shipped = std::fs::read_to_string(&file).unwrap();
            let texts = compose(grammars, SET_TEXTS, 0).unwrap();
            assert!(shipped.lines().eq(texts.iter()), "{} is not what its lists say; make it anew", file.display());
            // Every list is used by some text, or it is left from something.
            let grammar = Grammar::read(&grammars[grammars.len() - 1..]).unwrap();
            let lines: Vec<&String> = grammar.lists().flat_map(|(_, ways)| ways).collect();
            for (name, _) in grammar.lists().filter(|(name, _)| *name != "text") {
                let said =
                    |line: &&String| ["<", "<a ", "<an "].iter().any(|open| line.contains(&format!("{open}{name}>")));
                assert!(lines.iter().any(said), "[{name}] is never said");
            }
        }
    }
}
