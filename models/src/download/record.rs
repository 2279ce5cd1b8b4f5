//! `mils-lock.json` in a repository's folder of the cache: what was fetched of it. A branch is taken at the commit that it
//! was at first, and a file must be the one that it was at first, also where nobody gave its hash.

use super::cache::{Lock, Repository};
use super::{DownloadError, Remote, names};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;

const VERSION: u32 = 1;

/// What was fetched of a repository.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    repo: String,
    files: Vec<Entry>,
}

/// A file that was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// What was asked for.
    pub revision: String,
    /// What that was.
    pub commit: String,
    pub file: String,
    pub size: u64,
    pub sha256: String,
    /// What its contents are called in the cache.
    pub blob: String,
}

impl Record {
    fn path(repository: &Repository) -> PathBuf {
        repository.folder().join("mils-lock.json")
    }

    /// # Errors
    /// If there is one that cannot be understood.
    pub(super) fn read(repository: &Repository) -> Result<Self, DownloadError> {
        let path = Self::path(repository);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { version: VERSION, repo: repository.name.clone(), files: Vec::new() });
            }
            Err(error) => return Err(DownloadError::disk("read", path)(error)),
        };
        let wrong = |problem: String| DownloadError::Record { path: path.clone(), problem };
        let record: Self = serde_json::from_str(&text).map_err(|e| wrong(names::one_line(&e.to_string())))?;
        if record.version != VERSION || record.repo != repository.name {
            return Err(wrong(format!("this is version {} and of {}", record.version, names::one_line(&record.repo))));
        }
        // Both become paths.
        let fits = |e: &Entry| names::is_commit(&e.commit) && names::etag(&e.blob).as_ref() == Some(&e.blob);
        match record.files.iter().find(|entry| !fits(entry)) {
            Some(entry) => Err(wrong(format!("`{}` has no commit or contents", names::one_line(&entry.file)))),
            None => Ok(record),
        }
    }

    /// Changes it, as the only one who does at the time.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(super) fn change(
        repository: &Repository,
        stopped: &dyn Fn() -> bool,
        change: impl FnOnce(&mut Vec<Entry>),
    ) -> Result<(), DownloadError> {
        let _lock = Lock::wait(&repository.lock_file("mils-lock.json"), stopped, &|| ())?;
        let mut record = Self::read(repository)?;
        let before = record.files.clone();
        change(&mut record.files);
        record.files.sort_by(|a, b| (&a.revision, &a.file).cmp(&(&b.revision, &b.file)));
        if record.files == before {
            return Ok(());
        }
        let path = Self::path(repository);
        if record.files.is_empty() {
            return super::cache::remove_if_there(&path);
        }
        let mut text = serde_json::to_string_pretty(&record)
            .map_err(|e| DownloadError::Record { path: path.clone(), problem: e.to_string() })?;
        text.push('\n');
        repository.write(&path, text.as_bytes())
    }

    /// What was fetched as this file.
    pub(super) fn entry(&self, file: &Remote) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.revision == file.revision && entry.file == file.file)
    }

    /// The commit that a branch or tag was taken at, unless a file of it is now given with another hash.
    pub(super) fn commit<'a>(&self, revision: &str, mut files: impl Iterator<Item = &'a Remote>) -> Option<&str> {
        let contradicted = files.any(|file| {
            let given = file.sha256.as_deref().zip(self.entry(file));
            given.is_some_and(|(given, entry)| given != entry.sha256)
        });
        if contradicted {
            return None;
        }
        self.files.iter().find(|entry| entry.revision == revision).map(|entry| entry.commit.as_str())
    }

    /// Whether contents belong to a file other than this one.
    pub(super) fn uses(&self, blob: &str, but: &Remote) -> bool {
        let other = |e: &&Entry| (&e.revision, &e.file) != (&but.revision, &but.file);
        self.files.iter().filter(other).any(|entry| entry.blob == blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn remote(file: &str, sha256: Option<&str>) -> Remote {
        let sha256 = sha256.map(str::to_owned);
        Remote { repo: "org/name".into(), revision: "main".into(), file: file.into(), size: None, sha256 }
    }

    #[test]
    fn what_was_fetched_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(dir.path(), "org/name").unwrap();
        assert!(Record::read(&repository).unwrap().entry(&remote("a", None)).is_none());
        let entry = Entry {
            revision: "main".into(),
            commit: "0".repeat(40),
            file: "a".into(),
            size: 3,
            sha256: "1".repeat(64),
            blob: "2".repeat(40),
        };
        Record::change(&repository, &|| false, |files| files.push(entry.clone())).unwrap();
        let record = Record::read(&repository).unwrap();
        assert_eq!(record.entry(&remote("a", None)), Some(&entry));
        assert_eq!(record.commit("main", [&remote("a", None)].into_iter()), Some(&entry.commit[..]));
        assert_eq!(record.commit("main", [&remote("b", Some("x"))].into_iter()), Some(&entry.commit[..]));
        // A pack that names other contents means another commit.
        assert_eq!(record.commit("main", [&remote("a", Some("x"))].into_iter()), None);
        assert_eq!(record.commit("v1", std::iter::empty()), None);
        Record::change(&repository, &|| false, Vec::clear).unwrap();
        assert!(!Record::path(&repository).exists());
    }

    #[test]
    fn a_damaged_record_is_said_and_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(dir.path(), "org/name").unwrap();
        fs::create_dir_all(repository.folder()).unwrap();
        let entry = |commit: &str, blob: &str| {
            format!(
                r#"{{"version":1,"repo":"org/name","files":[{{"revision":"main","commit":"{commit}","file":"a","size":1,"sha256":"x","blob":"{blob}"}}]}}"#
            )
        };
        for text in [
            "{".to_owned(),
            r#"{"version":2,"repo":"org/name","files":[]}"#.to_owned(),
            r#"{"version":1,"repo":"org/other","files":[]}"#.to_owned(),
            entry("../..", "b"),
            entry(&"0".repeat(40), "../../../b"),
        ] {
            fs::write(Record::path(&repository), text).unwrap();
            let error = Record::read(&repository).unwrap_err().to_string();
            assert!(
                error.contains("mils-lock.json") && error.contains("remove it") && !error.contains('\n'),
                "{error}"
            );
        }
        fs::write(Record::path(&repository), entry(&"0".repeat(40), "b")).unwrap();
        Record::read(&repository).unwrap();
    }
}
