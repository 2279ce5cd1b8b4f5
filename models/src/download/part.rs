//! Contents of a file on their way into the cache: what there is of them, where to go on, and whether they are right.

use super::cache::is_at;
use super::hash::{Digests, Hashes};
use super::{DownloadError, size as in_words};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file's contents so far.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hashes: Hashes,
    /// Bytes that are there.
    at: u64,
    /// Bytes that there will be.
    size: u64,
    with_git: bool,
}

impl Part {
    /// Takes up what is there, or begins.
    ///
    /// # Errors
    /// If it cannot be read or written, or `each` says so, which is told of the bytes that are read again.
    pub(super) fn open(
        path: &Path,
        size: u64,
        with_git: bool,
        each: &mut dyn FnMut(u64) -> Result<(), DownloadError>,
    ) -> Result<Self, DownloadError> {
        super::cache::create_folder_of(path)?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(DownloadError::disk("open", path))?;
        let there = file.metadata().map_err(DownloadError::disk("read", path))?.len();
        let mut part = Self { path: path.to_owned(), file, hashes: Hashes::new(size, with_git), at: 0, size, with_git };
        if there > size {
            part.restart()?;
        } else {
            part.at = part.hashes.take(&part.file, path, there, each)?;
        }
        Ok(part)
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn is_whole(&self) -> bool {
        self.at == self.size
    }

    /// Forgets all of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn restart(&mut self) -> Result<(), DownloadError> {
        self.empty().map_err(DownloadError::disk("write", &self.path))?;
        (self.at, self.hashes) = (0, Hashes::new(self.size, self.with_git));
        Ok(())
    }

    /// In a file of its own: on disks whose locks do nothing, as those of some clusters, another process may be at this one.
    #[cfg(unix)]
    fn empty(&mut self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = File::options().create_new(true).read(true).write(true).open(&self.path)?;
        Ok(())
    }

    /// An open file cannot be replaced there.
    #[cfg(not(unix))]
    fn empty(&mut self) -> io::Result<()> {
        use std::io::Seek;
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// # Errors
    /// If it cannot be written. The caller sees that it is not too much.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        self.file.write_all(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DownloadError::Space {
                needed: self.size - self.at,
                free: 0,
                folder: self.path.parent().unwrap_or(&self.path).to_owned(),
            },
            _ => DownloadError::disk("write", &self.path)(error),
        })?;
        self.hashes.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The hashes of what is there, which must be whole.
    pub(super) fn digests(&mut self) -> Digests {
        std::mem::replace(&mut self.hashes, Hashes::new(self.size, self.with_git)).finish()
    }

    /// Makes it the contents, after they were found to be right. They are on the disk before they have their name.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn publish(self, path: &Path) -> Result<(), DownloadError> {
        self.file.sync_all().map_err(DownloadError::disk("write", &self.path))?;
        let same = self.file.metadata().is_ok_and(|held| held.len() == self.size) && is_at(&self.file, &self.path);
        if !same {
            let other = io::Error::other("another process changed it; let one at a time download it");
            return Err(DownloadError::disk("publish", &self.path)(other));
        }
        // An open file is not renamed everywhere.
        drop(self.file);
        fs::rename(&self.path, path).map_err(DownloadError::disk("write", path))?;
        // So is their name, where folders can be opened; without, a power cut costs a download and no more.
        let _ = path.parent().and_then(|folder| File::open(folder).ok()).map(|folder| folder.sync_all());
        Ok(())
    }

    /// # Errors
    /// If it cannot be removed.
    pub(super) fn discard(self) -> Result<(), DownloadError> {
        drop(self.file);
        super::cache::remove_if_there(&self.path)
    }

    /// For notes.
    pub(super) fn describe(&self) -> String {
        format!("{} of {}", in_words(self.at), in_words(self.size))
    }
}

/// Where an answer to a request for a range begins, and how long the whole is: `bytes 5-9/10`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((first.parse().ok()?, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, size: u64) -> Part {
        Part::open(path, size, true, &mut |_| Ok(())).unwrap()
    }

    #[test]
    fn a_part_is_taken_up_and_has_the_hash_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blobs/x.incomplete");
        let mut part = open(&path, 6);
        part.push(b"hel").unwrap();
        drop(part);
        let mut part = open(&path, 6);
        assert_eq!((part.at(), part.is_whole()), (3, false));
        part.push(b"lo\n").unwrap();
        assert!(part.is_whole());
        assert_eq!(part.digests().git.as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        part.publish(&dir.path().join("blobs/x")).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(dir.path().join("blobs/x")).unwrap(), b"hello\n");
    }

    #[test]
    fn what_is_too_long_or_wrong_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.incomplete");
        fs::write(&path, "far too long").unwrap();
        let mut part = open(&path, 6);
        assert_eq!(part.at(), 0);
        part.push(b"wrong").unwrap();
        part.restart().unwrap();
        part.push(b"hello\n").unwrap();
        assert_eq!(part.digests().git.as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        assert_eq!(fs::read(&path).unwrap(), b"hello\n");
        part.discard().unwrap();
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_no_lock_kept_out_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (path, blob) = (dir.path().join("x.incomplete"), dir.path().join("x"));
        let mut first = open(&path, 6);
        first.push(b"hel").unwrap();
        let mut second = open(&path, 6);
        second.restart().unwrap();
        first.push(b"lo\n").unwrap();
        assert!(first.is_whole());
        let error = first.publish(&blob).unwrap_err().to_string();
        assert!(error.contains("another process") && !blob.exists(), "{error}");
        second.push(b"hello\n").unwrap();
        second.publish(&blob).unwrap();
        assert_eq!(fs::read(&blob).unwrap(), b"hello\n");
    }

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for nonsense in ["", "bytes", "bytes */10", "bytes x-9/10", "5-9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(nonsense), None, "{nonsense}");
        }
    }
}
