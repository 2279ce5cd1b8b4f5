//! Where a pack's files come from: repositories of the hub, and files that their authors publish elsewhere.
//!
//! ```toml
//! repo = "org/name"                          # a repository of the hub …
//! revision = "0123456789abcdef0123456789abcdef01234567"   # … at a commit, a tag or a branch (default: main)
//! licence = "Apache-2.0"
//! terms = "not for commercial use"           # what restricts the use; it is shown, and consent is asked for
//! files = [
//!     "config.json",
//!     { file = "model.safetensors", size = 1234, sha256 = "…" },                        # verified where given
//!     { file = "model.pth", about = 1_700_000_000, convert = { prefix = "model." } },   # made safetensors of
//! ]
//! ```
//!
//! In place of `repo`, `url` names a file that the user fetches: nothing but the hub is asked for files.

use crate::Amount;
use crate::download::Remote;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;

/// Files from one place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Source {
    /// From where.
    pub origin: Origin,
    /// Which.
    pub files: Vec<SourceFile>,
    /// Their licence, by its SPDX identifier where it has one.
    pub licence: String,
    /// What restricts their use, in a sentence; consent is asked for.
    pub terms: Option<String>,
}

/// Where files are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A repository of the hub.
    Hub {
        /// `ORG/NAME`.
        repo: String,
        /// A commit, a tag or a branch.
        revision: String,
    },
    /// One file elsewhere, which is not fetched: the user puts it into a folder (`Store::own_file`).
    Elsewhere {
        /// Where its authors publish it.
        url: String,
    },
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path in the repository, with `/`.
    pub file: String,
    /// Bytes, where they are known; verified.
    pub size: Option<u64>,
    /// SHA-256 in hexadecimal, where it is known; verified.
    pub sha256: Option<String>,
    /// About how many bytes it has, to be told; not verified.
    pub about: Option<u64>,
    /// What is made of it.
    pub convert: Option<Conversion>,
}

/// How a checkpoint of PyTorch becomes safetensors; see the crate `mils-pth`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    /// The result's name.
    #[serde(default = "weights")]
    pub to: String,
    /// Only tensors whose names begin with this, which is taken off.
    #[serde(default)]
    pub prefix: String,
    /// Passes over objects of other code than a state dict's.
    #[serde(default)]
    pub skip_objects: bool,
}

fn weights() -> String {
    "model.safetensors".into()
}

impl Default for Conversion {
    /// All tensors, as `model.safetensors`.
    fn default() -> Self {
        Self { to: weights(), prefix: String::new(), skip_objects: false }
    }
}

impl SourceFile {
    /// A file of which nothing else is known.
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), size: None, sha256: None, about: None, convert: None }
    }

    /// Its name in a checkpoint folder.
    pub fn name(&self) -> &str {
        match &self.convert {
            Some(conversion) => &conversion.to,
            None => self.file.rsplit('/').next().unwrap_or_default(),
        }
    }

    /// How much there is to download, as far as it is known.
    pub fn amount(&self) -> Amount {
        Amount { bytes: self.size.or(self.about).unwrap_or_default(), exact: self.size.is_some() }
    }
}

impl Source {
    /// The file as the hub has it; `None` of one that is elsewhere.
    pub fn remote(&self, file: &SourceFile) -> Option<Remote> {
        let Origin::Hub { repo, revision } = &self.origin else { return None };
        let (size, sha256) = (file.size, file.sha256.clone());
        Some(Remote { repo: repo.clone(), revision: revision.clone(), file: file.file.clone(), size, sha256 })
    }

    /// `ORG/NAME`, or the address.
    pub fn place(&self) -> &str {
        match &self.origin {
            Origin::Hub { repo, .. } => repo,
            Origin::Elsewhere { url } => url,
        }
    }

    /// How much there is to download.
    pub fn amount(&self) -> Amount {
        self.files.iter().map(SourceFile::amount).sum()
    }
}

/// A source as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    repo: Option<String>,
    revision: Option<String>,
    url: Option<String>,
    #[serde(default)]
    files: Vec<SourceFile>,
    /// For a single file its name and what else a file may have stand here.
    file: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    about: Option<u64>,
    convert: Option<Conversion>,
    #[serde(default)]
    licence: String,
    terms: Option<String>,
}

impl TryFrom<Raw> for Source {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Raw { repo, revision, url, mut files, file, size, sha256, about, convert, licence, terms } = raw;
        if let Some(file) = file {
            files.push(SourceFile { file, size, sha256, about, convert });
        } else if size.is_some() || sha256.is_some() || about.is_some() || convert.is_some() {
            return Err("`size`, `sha256`, `about` and `convert` belong to a file; name it with `file`".into());
        }
        if files.is_empty() {
            return Err("a source without files; name them with `files`".into());
        }
        let origin = match (repo, url) {
            (Some(repo), None) => Origin::Hub { repo, revision: revision.unwrap_or_else(|| "main".into()) },
            (None, Some(url)) if files.len() == 1 && revision.is_none() => Origin::Elsewhere { url },
            (None, Some(_)) => return Err("a source with `url` has one `file`, and no `revision`".into()),
            _ => return Err("a source has either a `repo` or a `url`".into()),
        };
        let source = Self { origin, files, licence, terms };
        source.check()?;
        Ok(source)
    }
}

impl Source {
    /// Nothing in it may lead out of a folder.
    fn check(&self) -> Result<(), String> {
        for file in &self.files {
            // What is not on the hub must be called as if it were.
            let (repo, revision) = match &self.origin {
                Origin::Hub { repo, revision } => (repo.as_str(), revision.as_str()),
                Origin::Elsewhere { .. } => ("org/name", "main"),
            };
            let sha256 = file.sha256.clone();
            let remote = Remote { size: file.size, sha256, ..Remote::new(repo, revision, &file.file) };
            remote.check().map_err(|e| e.to_string())?;
            if !crate::hub::is_part(file.name()) {
                return Err(format!("`{}` cannot be a file's name", file.name()));
            }
        }
        Ok(())
    }
}

/// A file is written as its name alone, or as a table.
impl<'de> Deserialize<'de> for SourceFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            file: String,
            size: Option<u64>,
            sha256: Option<String>,
            about: Option<u64>,
            convert: Option<Conversion>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SourceFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file's name, or a table with `file`")
            }

            fn visit_str<E: Error>(self, file: &str) -> Result<SourceFile, E> {
                Ok(SourceFile::new(file))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SourceFile, A::Error> {
                let Table { file, size, sha256, about, convert } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(SourceFile { file, size, sha256, about, convert })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// An encoder's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScorerFiles {
    /// A checkpoint folder, relative to the pack's root.
    Folder(PathBuf),
    /// From elsewhere.
    Sources(Vec<Source>),
}

/// They are written as a path, as a source, or as a list of sources.
impl<'de> Deserialize<'de> for ScorerFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ScorerFiles;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, a table with `repo` and `files`, or a list of such tables")
            }

            fn visit_str<E: Error>(self, folder: &str) -> Result<ScorerFiles, E> {
                Ok(ScorerFiles::Folder(folder.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ScorerFiles, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(map)).map(|source| ScorerFiles::Sources(vec![source]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ScorerFiles, A::Error> {
                let mut sources = Vec::new();
                while let Some(source) = list.next_element()? {
                    sources.push(source);
                }
                if sources.is_empty() {
                    Err(A::Error::custom("a list without sources"))
                } else {
                    Ok(ScorerFiles::Sources(sources))
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ScorerFiles, String> {
        #[derive(Deserialize)]
        struct Section {
            scorer: ScorerFiles,
        }
        toml::from_str::<Section>(text).map(|section| section.scorer).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_scorer_is_a_folder_a_source_or_several() {
        assert_eq!(read("scorer = 'clip'").unwrap(), ScorerFiles::Folder("clip".into()));
        let one = read("[scorer]\nrepo = 'org/name'\nfiles = ['a.json', { file = 'x/b.bin', size = 7 }]").unwrap();
        let ScorerFiles::Sources(sources) = one else { unreachable!("it is a source") };
        let [source] = &sources[..] else { unreachable!("it is one") };
        assert_eq!(source.origin, Origin::Hub { repo: "org/name".into(), revision: "main".into() });
        assert_eq!((source.files[0].name(), source.files[1].name()), ("a.json", "b.bin"));
        assert_eq!(source.amount(), Amount { bytes: 7, exact: false });
        let two = "[[scorer]]\nrepo = 'org/a'\nrevision = 'v1'\nfile = 'm.pth'\nsize = 9\nconvert = { prefix = 'model.' }\n\
                   [[scorer]]\nrepo = 'org/b'\nfiles = ['tokenizer.json']\nterms = 'ask'";
        let ScorerFiles::Sources(sources) = read(two).unwrap() else { unreachable!("they are sources") };
        let conversion = Conversion { prefix: "model.".into(), ..Conversion::default() };
        assert_eq!((sources.len(), sources[0].files[0].convert.as_ref()), (2, Some(&conversion)));
        assert_eq!((sources[0].files[0].name(), sources[0].amount().exact), ("model.safetensors", true));
        assert_eq!(sources[1].terms.as_deref(), Some("ask"));
    }

    #[test]
    fn what_cannot_be_a_source_is_said() {
        for (text, says) in [
            ("scorer = 3", "a folder, a table"),
            ("scorer = []", "without sources"),
            ("scorer = { repo = 'org/name' }", "without files"),
            ("scorer = { file = 'x' }", "either a `repo` or a `url`"),
            ("scorer = { repo = 'org/name', url = 'https://x', file = 'x' }", "either a `repo` or a `url`"),
            ("scorer = { repo = 'org/name', url2 = 'x', file = 'x' }", "unknown field `url2`"),
            ("scorer = { url = 'https://x', files = ['a', 'b'] }", "one `file`"),
            ("scorer = { repo = 'org/name', files = ['a'], size = 3 }", "belong to a file"),
            ("scorer = { repo = 'org/../x', files = ['a'] }", "org/../x"),
            ("scorer = { repo = 'org/name', revision = '../x', files = ['a'] }", "../x"),
            ("scorer = { repo = 'org/name', files = ['../a'] }", "../a"),
            ("scorer = { repo = 'org/name', file = 'a.pth', convert = { to = '../a' } }", "../a"),
            ("scorer = { repo = 'org/name', file = 'a', sha256 = 'abc' }", "no SHA-256"),
            ("scorer = { repo = 'org/name', files = [{ name = 'a' }] }", "unknown field `name`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
