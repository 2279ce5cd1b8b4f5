//! Sets of captions from patterns: a small grammar over lists of labels, drawn from evenly and by a seed.
//!
//! A grammar is a text file. `[name]` opens a rule, each line after it is one way to say it, and `[caption]` is where a
//! text begins. In a line, `{name}` stands for a rule or a list of labels, `{name+}` for the plural of what comes of it,
//! and `(a|b|)` for one of a few words or none. `3* ` before a line makes it come three times as often; `#` opens a
//! comment. The list of labels `name` is the file `name.txt`.
//!
//! Everything is drawn as cards are, without putting them back until the deck is used up: so each label comes as often
//! as every other of its list.

use crate::Cleaner;
use crate::labels::{Labels, LabelsError};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Words of a caption, least and most.
const WORDS: std::ops::RangeInclusive<usize> = 4..=18;
/// So many draws in a row that give nothing new are the end.
const PATIENCE: usize = 20_000;
/// Rules in rules, at most.
const DEPTH: usize = 24;
/// Short words, and such as may well come twice.
const COMMON: [&str; 14] = [
    "with", "from", "into", "over", "their", "them", "that", "front", "while", "then", "near", "under", "behind",
    "through",
];

/// Why there is no set. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// The grammar is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Grammar {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A list of labels is wrong.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// It does not hold so many different texts.
    #[error("the grammar gives {found} texts, not {wanted}; write more lines, or ask for fewer")]
    TooFew {
        /// As many as came.
        found: usize,
        /// As many as were asked for.
        wanted: usize,
    },
}

/// A part of a line.
#[derive(Debug)]
enum Part {
    Words(String),
    Rule { rule: usize, plural: bool },
    Choice(Vec<Vec<Part>>),
}

/// Ways to say a thing, each as often as it says.
#[derive(Debug, Default)]
struct Rule {
    lines: Vec<Vec<Part>>,
    /// Numbers of lines.
    deck: Vec<usize>,
}

/// A grammar with its labels.
#[derive(Debug)]
pub struct Grammar {
    rules: Vec<Rule>,
    begin: usize,
}

/// A line that is not parsed yet, with its number.
type Raw = (usize, String);

impl Grammar {
    /// Reads a grammar; its labels are in the folders of `labels`, in any of them.
    ///
    /// # Errors
    /// If a file cannot be read, a line is wrong, a name means nothing, or rules lead in a circle.
    pub fn read(path: &Path, labels: &Labels) -> Result<Self, ComposeError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ComposeError::Read { path: path.to_owned(), error })?;
        Self::parse(path, &text, labels)
    }

    fn parse(path: &Path, text: &str, labels: &Labels) -> Result<Self, ComposeError> {
        let wrong = |line: usize, problem: String| ComposeError::Grammar { path: path.to_owned(), line, problem };
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut raw: Vec<Vec<Raw>> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (number, line) = (at + 1, line.trim_end());
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                if names.insert(name.to_owned(), raw.len()).is_some() {
                    return Err(wrong(number, format!("the rule [{name}] is there twice")));
                }
                raw.push(Vec::new());
            } else if let Some(rule) = raw.last_mut() {
                rule.push((number, line.to_owned()));
            } else {
                return Err(wrong(number, "stands before the first [rule]".into()));
            }
        }
        let begin = *names.get("caption").ok_or_else(|| wrong(1, "there is no rule [caption]".into()))?;
        let mut lists: Vec<Vec<String>> = Vec::new();
        let first = raw.len();
        let mut rules: Vec<Rule> = Vec::new();
        for lines in raw {
            let mut rule = Rule::default();
            for (number, line) in lines {
                let (times, line) = weighted(&line);
                let mut find = |name: &str| {
                    if let Some(rule) = names.get(name) {
                        return Some(*rule);
                    }
                    let list = labels.list(name)?;
                    names.insert(name.to_owned(), first + lists.len());
                    lists.push(list.to_vec());
                    Some(first + lists.len() - 1)
                };
                let parts = parts(line, &mut find).map_err(|problem| wrong(number, problem))?;
                rule.deck.resize(rule.deck.len() + times, rule.lines.len());
                rule.lines.push(parts);
            }
            rules.push(rule);
        }
        for list in lists {
            let deck = (0..list.len()).collect();
            rules.push(Rule { lines: list.into_iter().map(|label| vec![Part::Words(label)]).collect(), deck });
        }
        let grammar = Self { rules, begin };
        if let Some(name) = grammar.endless(&names) {
            return Err(wrong(1, format!("the rule [{name}] is empty, or leads back to itself")));
        }
        Ok(grammar)
    }

    /// A rule that has no end, or no line.
    fn endless(&self, names: &HashMap<String, usize>) -> Option<String> {
        fn depth(grammar: &Grammar, parts: &[Part], level: usize) -> bool {
            parts.iter().all(|part| match part {
                Part::Words(_) => true,
                Part::Rule { rule, .. } => {
                    let lines = &grammar.rules[*rule].lines;
                    level < DEPTH && !lines.is_empty() && lines.iter().all(|line| depth(grammar, line, level + 1))
                }
                Part::Choice(choices) => choices.iter().all(|choice| depth(grammar, choice, level)),
            })
        }
        let bad = |rule: usize| !depth(self, &[Part::Rule { rule, plural: false }], 0);
        let mut bad: Vec<&String> = names.iter().filter(|(_, rule)| bad(**rule)).map(|(name, _)| name).collect();
        bad.sort_unstable();
        bad.first().map(|name| (*name).clone())
    }

    /// So many different texts, the same for the same seed.
    ///
    /// # Errors
    /// [`ComposeError::TooFew`] where the grammar gives no more.
    pub fn compose(&self, count: usize, seed: u64) -> Result<Vec<String>, ComposeError> {
        let mut draw =
            Draw { rng: ChaCha8Rng::seed_from_u64(seed), decks: self.rules.iter().map(|_| Vec::new()).collect() };
        let mut cleaner = Cleaner::default();
        let (mut texts, mut vain) = (Vec::with_capacity(count), 0);
        while texts.len() < count {
            let mut text = String::new();
            self.say(self.begin, &mut draw, &mut text);
            let text = with_articles(&text);
            let new = if is_caption(&text) { cleaner.take(&text) } else { None };
            vain = if new.is_some() { 0 } else { vain + 1 };
            texts.extend(new);
            if vain == PATIENCE {
                return Err(ComposeError::TooFew { found: texts.len(), wanted: count });
            }
        }
        Ok(texts)
    }

    fn say(&self, rule: usize, draw: &mut Draw, out: &mut String) {
        let line = draw.card(rule, &self.rules[rule].deck);
        self.say_parts(&self.rules[rule].lines[line], draw, out);
    }

    fn say_parts(&self, parts: &[Part], draw: &mut Draw, out: &mut String) {
        for part in parts {
            match part {
                Part::Words(words) => out.push_str(words),
                Part::Rule { rule, plural: false } => self.say(*rule, draw, out),
                Part::Rule { rule, plural: true } => {
                    let mut one = String::new();
                    self.say(*rule, draw, &mut one);
                    out.push_str(&plural(&one));
                }
                Part::Choice(choices) => {
                    let choice = draw.rng.random_range(0..choices.len());
                    self.say_parts(&choices[choice], draw, out);
                }
            }
        }
    }
}

struct Draw {
    rng: ChaCha8Rng,
    /// What is left of each rule's deck.
    decks: Vec<Vec<usize>>,
}

impl Draw {
    fn card(&mut self, rule: usize, whole: &[usize]) -> usize {
        let deck = &mut self.decks[rule];
        if deck.is_empty() {
            deck.extend_from_slice(whole);
            deck.shuffle(&mut self.rng);
        }
        // No rule is without lines.
        deck.pop().unwrap_or_default()
    }
}

/// How often a line is in its deck, and the rest of it.
fn weighted(line: &str) -> (usize, &str) {
    let told = line.split_once('*').and_then(|(times, rest)| Some((times.parse().ok()?, rest.trim_start())));
    told.filter(|(times, _)| (1..=1000).contains(times)).unwrap_or((1, line))
}

/// The parts of a line.
fn parts(line: &str, find: &mut dyn FnMut(&str) -> Option<usize>) -> Result<Vec<Part>, String> {
    let mut rest = line;
    let mut open: Vec<(Vec<Vec<Part>>, Vec<Part>)> = Vec::new();
    let mut now: Vec<Part> = Vec::new();
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '{' => {
                let (name, later) = after.split_once('}').ok_or("a { is not closed")?;
                let (name, plural) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
                let rule = find(name).ok_or_else(|| format!("{{{name}}} is no rule and no list of labels"))?;
                now.push(Part::Rule { rule, plural });
                rest = later;
            }
            '(' => {
                open.push((Vec::new(), std::mem::take(&mut now)));
                rest = after;
            }
            '|' | ')' => {
                let (choices, before) = open.last_mut().ok_or_else(|| format!("a {c} is not inside ( )"))?;
                choices.push(std::mem::take(&mut now));
                if c == ')' {
                    now = std::mem::take(before);
                    now.extend(open.pop().map(|(choices, _)| Part::Choice(choices)));
                }
                rest = after;
            }
            '}' => return Err("a } was not opened".into()),
            _ => {
                let end = rest.find(['{', '}', '(', ')', '|']).unwrap_or(rest.len());
                now.push(Part::Words(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
    }
    if open.is_empty() { Ok(now) } else { Err("a ( is not closed".into()) }
}

/// Single spaces, none before a comma, and `an` where it is said so.
fn with_articles(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut out = String::with_capacity(text.len() + 8);
    for (i, &word) in words.iter().enumerate() {
        if !out.is_empty() && word != "," {
            out.push(' ');
        }
        let before = words.get(i + 1).copied().unwrap_or_default();
        out.push_str(if word == "a" && begins_with_a_vowel(before) { "an" } else { word });
    }
    out
}

/// As it is spoken.
fn begins_with_a_vowel(word: &str) -> bool {
    let like_you = ["uni", "use", "usu", "uku", "eu", "one", "ute"];
    let silent = ["hour", "honest", "heir", "honour", "x-ray"];
    silent.iter().any(|s| word.starts_with(s))
        || word.starts_with(['a', 'e', 'i', 'o', 'u'])
            && !like_you.iter().any(|l| word.starts_with(l) && !word.starts_with("unin"))
}

/// Of a right length, and without a word that comes twice.
fn is_caption(text: &str) -> bool {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|w| !w.is_empty()).collect();
    let mut seen: Vec<&str> = Vec::new();
    for word in &words {
        // One and many of a thing are the same word.
        let stem = word.strip_suffix('s').unwrap_or(word);
        if word.len() < 3 || ["the", "and", "its", "his", "her", "for"].contains(word) || COMMON.contains(word) {
            continue;
        }
        if seen.contains(&stem) {
            return false;
        }
        seen.push(stem);
    }
    WORDS.contains(&text.split(' ').count())
}

/// The plural of a noun with what belongs to it: of `cup of tea`, `cups of tea`.
fn plural(phrase: &str) -> String {
    let ends = [" of ", " with ", " in "].iter().filter_map(|of| phrase.find(of)).min().unwrap_or(phrase.len());
    let (head, rest) = phrase.split_at(ends);
    let (before, noun) = head.rsplit_once(' ').map_or(("", head), |(before, noun)| (before, noun));
    let space = if before.is_empty() { "" } else { " " };
    format!("{before}{space}{}{rest}", plural_noun(noun))
}

fn plural_noun(noun: &str) -> String {
    let same = ["sheep", "deer", "fish", "elk", "moose", "trout", "aircraft", "wildebeest", "squid"];
    let odd = [
        ("man", "men"),
        ("child", "children"),
        ("mouse", "mice"),
        ("goose", "geese"),
        ("ox", "oxen"),
        ("calf", "calves"),
        ("wolf", "wolves"),
        ("leaf", "leaves"),
        ("loaf", "loaves"),
        ("knife", "knives"),
        ("scarf", "scarves"),
        ("shelf", "shelves"),
        ("potato", "potatoes"),
        ("tomato", "tomatoes"),
        ("mango", "mangoes"),
        ("volcano", "volcanoes"),
        ("buffalo", "buffaloes"),
        ("cactus", "cacti"),
    ];
    if same.contains(&noun) {
        return noun.to_owned();
    }
    if let Some((one, many)) = odd.iter().find(|(one, _)| noun.ends_with(one)) {
        return format!("{}{many}", &noun[..noun.len() - one.len()]);
    }
    let vowel = |c: Option<char>| c.is_some_and(|c| "aeiou".contains(c));
    if let Some(stem) = noun.strip_suffix('y').filter(|stem| !vowel(stem.chars().last())) {
        return format!("{stem}ies");
    }
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| noun.ends_with(end));
    format!("{noun}{}", if hisses { "es" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grammar(text: &str) -> Result<Grammar, ComposeError> {
        let labels = Labels::of([("pets", vec!["cat", "owl", "old dog"])]);
        Grammar::parse(Path::new("g.txt"), text, &labels)
    }

    #[test]
    fn texts_are_drawn_evenly_and_by_the_seed() {
        let text =
            "# pets\n[caption]\na {pets} {does}\n2* many {pets+} {does}\n\n[does]\nin (a|the) big house\nat night";
        let grammar = grammar(text).unwrap();
        let texts = grammar.compose(12, 7).unwrap();
        assert_eq!(texts, grammar.compose(12, 7).unwrap());
        assert_ne!(texts, grammar.compose(12, 8).unwrap());
        let with = |word: &str| texts.iter().filter(|t| t.contains(word)).count();
        assert!(with("an owl") > 0 && with("a owl") == 0 && with("many old dogs") > 0, "{texts:?}");
        assert!(with("cat") >= 3 && with("owl") >= 3 && with("old dog") >= 3, "{texts:?}");
        // 3 pets, one or many of them, 3 places.
        assert_eq!(grammar.compose(18, 1).unwrap().len(), 18);
        let error = grammar.compose(19, 1).unwrap_err().to_string();
        assert!(error.contains("gives 18 texts, not 19"), "{error}");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, says) in [
            ("[caption]\na {bird} sings", "g.txt, line 2: {bird} is no rule"),
            ("[caption]\na (b|c", "line 2: a ( is not closed"),
            ("[caption]\na b) c", "line 2: a ) is not inside"),
            ("[caption]\na {b", "a { is not closed"),
            ("[caption]\na b}", "a } was not opened"),
            ("a\n[caption]", "line 1: stands before"),
            ("[x]\na", "no rule [caption]"),
            ("[caption]\na {x}\n[x]\nb {caption}", "leads back to itself"),
            ("[caption]\na {x}\n[x]", "[caption] is empty, or"),
            ("[caption]\na\n[caption]\nb", "line 3: the rule [caption] is there twice"),
        ] {
            let error = grammar(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn english_is_kept_to() {
        for (one, many) in [
            ("cup of tea", "cups of tea"),
            ("man with a hat", "men with a hat"),
            ("old woman", "old women"),
            ("sheep", "sheep"),
            ("cherry", "cherries"),
            ("toy", "toys"),
            ("bench", "benches"),
            ("bread knife", "bread knives"),
            ("sweet potato", "sweet potatoes"),
            ("banjo", "banjos"),
        ] {
            assert_eq!(plural(one), many);
        }
        assert_eq!(with_articles("a hour , a  unicorn and a old ukulele"), "an hour, a unicorn and an old ukulele");
        assert!(is_caption("a cat on a mat with a dog with a bone"));
        assert!(!is_caption("a cat and three cats play"), "twice the same word");
        assert!(!is_caption("a red cat"), "too short");
    }
}
