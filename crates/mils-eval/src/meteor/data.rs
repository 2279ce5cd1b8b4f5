//! METEOR's own files: function words, abbreviations and WordNet's synonyms out of its jar, or of the folder that it was
//! unpacked to, and the table of paraphrases beside it.

use crate::EvalError;
use crate::ngram::Vocabulary;
use flate2::bufread::MultiGzDecoder;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use std::fs::File;
use std::hash::Hasher;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Abbreviations that keep their full stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    pub(super) always: FxHashSet<String>,
    pub(super) before_numbers: FxHashSet<String>,
}

/// WordNet's words and what their forms are of.
#[derive(Clone, Debug, Default)]
pub(super) struct Synonyms {
    synsets: FxHashMap<String, Vec<u32>>,
    bases: FxHashMap<String, Vec<String>>,
}

/// Endings that WordNet takes off, and what it puts in their place: nouns', verbs', adjectives' (morphy(7WN)).
const ENDINGS: [(&str, &str); 20] = [
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
];

impl Synonyms {
    /// Numbers of the sets of synonyms that a word or its base form is in, in their order.
    pub(super) fn of(&self, word: &str) -> Vec<u32> {
        let direct = |w: &str| self.synsets.get(w).map(Vec::as_slice).unwrap_or_default();
        let mut all = direct(word).to_vec();
        if let Some(bases) = self.bases.get(word) {
            all.extend(bases.iter().flat_map(|b| direct(b)));
        } else if word.len() > 2 && !word.ends_with("ss") {
            let base = |(ending, put): &(&str, &str)| {
                let base = format!("{}{put}", word.strip_suffix(ending)?);
                self.synsets.get(&base)
            };
            all.extend(ENDINGS.iter().find_map(base).into_iter().flatten());
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Phrases of several or of one word, and which others say the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Paraphrases {
    pub(super) numbers: FxHashMap<Box<[u32]>, u32>,
    pub(super) others: Vec<Vec<u32>>,
    pub(super) longest: usize,
}

/// Where METEOR's files are.
#[derive(Clone, Debug)]
pub struct MeteorFiles {
    jar: Source,
    paraphrases: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Source {
    Jar(PathBuf),
    Folder(PathBuf),
}

/// The jar's name in METEOR 1.5 and in the COCO tools.
const JAR: &str = "meteor-1.5.jar";
/// The table's, from either.
const TABLES: [&str; 2] = ["data/paraphrase-en.gz", "paraphrase-en.gz"];

impl MeteorFiles {
    /// Finds them: `path` is METEOR's folder (with `meteor-1.5.jar`, and `data/paraphrase-en.gz`), the jar, or a folder that
    /// it was unpacked to.
    ///
    /// # Errors
    /// If they are not there.
    pub fn find(path: &Path) -> Result<Self, EvalError> {
        let jar = if path.is_dir() { path.join(JAR) } else { path.to_owned() };
        let (jar, folder) = if jar.is_file() {
            let folder = jar.parent().map(Path::to_owned).unwrap_or_default();
            (Source::Jar(jar), folder)
        } else if path.join("synonym/english.synsets").is_file() {
            (Source::Folder(path.to_owned()), path.to_owned())
        } else {
            let what = if path.exists() {
                format!("there is no {JAR} in it")
            } else {
                "there is no such file or folder".into()
            };
            return Err(EvalError::Tool(format!(
                "{}: {what}; name METEOR 1.5's folder, as in the meteor folder of the Python package pycocoevalcap",
                path.display()
            )));
        };
        let paraphrases = TABLES.map(|name| folder.join(name)).into_iter().find(|p| p.is_file());
        Ok(Self { jar, paraphrases })
    }

    /// Whether the table of paraphrases is there.
    pub fn has_paraphrases(&self) -> bool {
        self.paraphrases.is_some()
    }

    /// The table of paraphrases.
    pub fn paraphrases(&self) -> Option<&Path> {
        self.paraphrases.as_deref()
    }

    fn path(&self) -> &Path {
        match &self.jar {
            Source::Jar(path) | Source::Folder(path) => path,
        }
    }

    fn entry(&self, name: &str) -> Result<String, EvalError> {
        let path = self.path();
        let missing = |why: String| EvalError::file(path, format!("{name} cannot be read ({why}); is it METEOR 1.5?"));
        match &self.jar {
            Source::Folder(folder) => std::fs::read_to_string(folder.join(name)).map_err(|e| missing(e.to_string())),
            Source::Jar(jar) => {
                let file = File::open(jar).map_err(|e| EvalError::read(jar, e))?;
                let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| missing(e.to_string()))?;
                let entry = archive.by_name(name).map_err(|e| missing(e.to_string()))?;
                let mut text = String::new();
                // The largest has four million bytes; a jar that says it has more is another one.
                entry.take(64 << 20).read_to_string(&mut text).map_err(|e| missing(e.to_string()))?;
                Ok(text)
            }
        }
    }

    pub(super) fn function_words(&self) -> Result<FxHashSet<String>, EvalError> {
        Ok(self.entry("function/english.words")?.split_whitespace().map(str::to_owned).collect())
    }

    pub(super) fn prefixes(&self) -> Result<Prefixes, EvalError> {
        let mut prefixes = Prefixes::default();
        for line in self.entry("nonbreaking/english.prefixes")?.lines() {
            let (words, comment) = line.split_once('#').unwrap_or((line, ""));
            let of =
                if comment.starts_with("NUMERIC_ONLY") { &mut prefixes.before_numbers } else { &mut prefixes.always };
            of.extend(words.split_whitespace().map(str::to_owned));
        }
        Ok(prefixes)
    }

    pub(super) fn synonyms(&self) -> Result<Synonyms, EvalError> {
        let mut synonyms = Synonyms::default();
        for (word, sets) in pairs(&self.entry("synonym/english.synsets")?) {
            let numbers = sets.split_whitespace().filter_map(|n| n.parse::<u32>().ok());
            synonyms.synsets.entry(word.to_owned()).or_default().extend(numbers);
        }
        for (base, forms) in pairs(&self.entry("synonym/english.exceptions")?) {
            for form in forms.split_whitespace() {
                synonyms.bases.entry(form.to_owned()).or_default().push(base.to_owned());
            }
        }
        Ok(synonyms)
    }

    /// Reads what the table says about the phrases of these texts, which are words of `vocabulary` with a space between them.
    pub(super) fn table(&self, vocabulary: &Vocabulary, texts: &[String]) -> Result<Paraphrases, EvalError> {
        let Some(path) = &self.paraphrases else { return Ok(Paraphrases::default()) };
        let known = phrases(texts);
        let failed = |e| EvalError::read(path, e);
        let file = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
        let mut reader = BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file));
        let mut table = Paraphrases::default();
        let mut lines = [const { Vec::new() }; 3];
        loop {
            // A probability that the matcher does not use, a phrase, and another.
            for line in &mut lines {
                line.clear();
                reader.read_until(b'\n', line).map_err(failed)?;
                while line.last().is_some_and(u8::is_ascii_whitespace) {
                    line.pop();
                }
            }
            if lines[2].is_empty() {
                return Ok(table);
            }
            if known.contains(&hash(&lines[1])) && known.contains(&hash(&lines[2])) {
                table.add(vocabulary, &lines[1], &lines[2]);
            }
        }
    }
}

impl Paraphrases {
    fn add(&mut self, vocabulary: &Vocabulary, phrase: &[u8], other: &[u8]) {
        let words = |text: &[u8]| -> Option<Box<[u32]>> {
            std::str::from_utf8(text).ok()?.split_whitespace().map(|w| vocabulary.find(w)).collect()
        };
        let (Some(phrase), Some(other)) = (words(phrase), words(other)) else { return };
        self.longest = self.longest.max(phrase.len()).max(other.len());
        let (phrase, other) = (self.number(phrase), self.number(other));
        // It holds both ways. A pair that stands in the table both ways is two matches, and so never one that no other touches.
        for (a, b) in [(phrase, other), (other, phrase)] {
            self.others[a as usize].push(b);
        }
    }

    fn number(&mut self, phrase: Box<[u32]>) -> u32 {
        // As many phrases as 32 bits have are in no table.
        let next = u32::try_from(self.others.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(phrase).or_insert(next);
        if number == next {
            self.others.push(Vec::new());
        }
        number
    }
}

/// Most words of a phrase in the table.
pub(super) const LONGEST: usize = 8;

/// Hashes of all phrases of texts.
fn phrases(texts: &[String]) -> FxHashSet<u64> {
    let mut known = FxHashSet::default();
    let mut places = Vec::new();
    for text in texts {
        places.clear();
        let mut start = 0;
        for word in text.split(' ') {
            places.push((start, start + word.len()));
            start += word.len() + 1;
        }
        for (i, (from, _)) in places.iter().enumerate() {
            known.extend(places[i..].iter().take(LONGEST).map(|(_, to)| hash(&text.as_bytes()[*from..*to])));
        }
    }
    known
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// Lines that belong together, two by two.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?.trim(), lines.next()?.trim())))
}
