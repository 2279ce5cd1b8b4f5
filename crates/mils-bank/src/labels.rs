//! Lists of labels: what there is in the world, one thing a line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why labels cannot be read. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A list holds no labels, or a folder no lists.
    #[error("{}: there are no labels; put one on each line", path.display())]
    Empty {
        /// The path.
        path: PathBuf,
    },
}

/// Lists by name, in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, Vec<String>>);

/// The labels of a file: one a line, without outer white space, blank lines, and lines that begin with `#`.
///
/// # Errors
/// If it cannot be read as UTF-8, or holds none.
pub fn read_labels(path: &Path) -> Result<Vec<String>, LabelsError> {
    let text = std::fs::read_to_string(path).map_err(|error| LabelsError::Read { path: path.to_owned(), error })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let labels: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if labels.is_empty() { Err(LabelsError::Empty { path: path.to_owned() }) } else { Ok(labels) }
}

impl Labels {
    /// All lists (`*.txt`) of a folder, each by its file's name.
    ///
    /// # Errors
    /// If the folder or a list cannot be read, or there is none.
    pub fn read(folder: &Path) -> Result<Self, LabelsError> {
        let wrong = |error| LabelsError::Read { path: folder.to_owned(), error };
        let mut all = Self::default();
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let name = path.file_stem().map(|n| n.to_string_lossy().into_owned());
            if let (Some(name), true) = (name, path.extension().is_some_and(|e| e == "txt")) {
                all.0.insert(name, read_labels(&path)?);
            }
        }
        if all.0.is_empty() { Err(LabelsError::Empty { path: folder.to_owned() }) } else { Ok(all) }
    }

    /// Lists that are there already.
    pub fn of<'a>(lists: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>) -> Self {
        let list =
            |(name, labels): (&str, Vec<&str>)| (name.to_owned(), labels.into_iter().map(str::to_owned).collect());
        Self(lists.into_iter().map(list).collect())
    }

    /// With the lists of another folder; of two of one name, the other's.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// A list by its name.
    pub fn list(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Names and lists.
    pub fn lists(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, labels)| (name.as_str(), labels.as_slice()))
    }

    /// Every label once, list by list.
    pub fn all(&self) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        self.0.values().flatten().filter(|label| seen.insert(*label)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lists_are_read_without_comments_and_blanks() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Labels::read(dir.path()).unwrap_err().to_string().contains("there are no labels"));
        fs::write(dir.path().join("b.txt"), "\u{feff}# birds\n  barn   owl \n\nrobin\n").unwrap();
        fs::write(dir.path().join("a.txt"), "ant\nrobin\n").unwrap();
        fs::write(dir.path().join("notes.md"), "not this").unwrap();
        let labels = Labels::read(dir.path()).unwrap();
        assert_eq!(labels.list("b").unwrap(), ["barn owl", "robin"]);
        assert_eq!(labels.all(), ["ant", "robin", "barn owl"]);
        assert_eq!(labels.lists().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
        fs::write(dir.path().join("c.txt"), "# nothing\n").unwrap();
        assert!(Labels::read(dir.path()).unwrap_err().to_string().contains("c.txt: there are no labels"));
        assert!(Labels::read(&dir.path().join("none")).unwrap_err().to_string().starts_with("cannot read"));
    }
}
