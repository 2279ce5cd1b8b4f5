//! The two hashes that the hub knows files by: SHA-256 of large ones, and of others what git calls them by.

use super::DownloadError;
use super::names::{is_git, is_sha256};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// How much is read at a time.
pub(super) const PIECE: usize = 256 << 10;

/// Hashes of the bytes so far.
pub(super) struct Hashes {
    sha256: Sha256,
    git: Sha1,
    /// git's is computed only where it is asked for: it costs as much as the other.
    with_git: bool,
}

/// The hashes of a file, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digests {
    pub sha256: String,
    /// As git names its blob.
    pub git: Option<String>,
}

impl Hashes {
    /// Of a file with so many bytes, which git hashes first.
    pub(super) fn new(size: u64, with_git: bool) -> Self {
        let mut git = Sha1::new();
        git.update(format!("blob {size}\0"));
        Self { sha256: Sha256::new(), git, with_git }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if self.with_git {
            self.git.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Digests {
        let git = self.with_git.then(|| hexadecimal(&self.git.finalize()));
        Digests { sha256: hexadecimal(&self.sha256.finalize()), git }
    }

    /// Takes in what a reader has; at most so many bytes. Says how many that were.
    ///
    /// # Errors
    /// If it cannot be read, or it is cancelled.
    pub(super) fn take(
        &mut self,
        mut reader: impl Read,
        path: &Path,
        most: u64,
        each: &mut dyn FnMut(u64) -> Result<(), DownloadError>,
    ) -> Result<u64, DownloadError> {
        let mut piece = vec![0; PIECE];
        let mut taken = 0;
        while taken < most {
            let room = piece.len().min(usize::try_from(most - taken).unwrap_or(usize::MAX));
            let n = match reader.read(&mut piece[..room]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(DownloadError::disk("read", path)(error)),
            };
            self.update(&piece[..n]);
            taken += n as u64;
            each(n as u64)?;
        }
        Ok(taken)
    }
}

impl Digests {
    /// Of a file as it is. `each` is told of the bytes that were read.
    ///
    /// # Errors
    /// If it cannot be read, or `each` says so.
    pub(super) fn of(
        path: &Path,
        with_git: bool,
        each: &mut dyn FnMut(u64) -> Result<(), DownloadError>,
    ) -> Result<(Self, u64), DownloadError> {
        let file = File::open(path).map_err(DownloadError::disk("open", path))?;
        let size = file.metadata().map_err(DownloadError::disk("read", path))?.len();
        let mut hashes = Hashes::new(size, with_git);
        let taken = hashes.take(file, path, u64::MAX, each)?;
        Ok((hashes.finish(), taken))
    }

    /// What differs from a hash that can be one or the other: what it is, what was found and what was expected. `None` if
    /// it agrees, or is neither.
    pub(super) fn differs(&self, expected: &str) -> Option<(&'static str, String, String)> {
        let (what, found) = match &self.git {
            _ if is_sha256(expected) => ("SHA-256", &self.sha256),
            Some(git) if is_git(expected) => ("git hash", git),
            _ => return None,
        };
        (found != expected).then(|| (what, found.clone(), expected.to_owned()))
    }
}

/// The size of a file and its SHA-256 in hexadecimal. `each` is told of the bytes that were read.
///
/// # Errors
/// If it cannot be read, or `each` says so.
pub fn sha256(
    path: &Path,
    each: &mut dyn FnMut(u64) -> Result<(), DownloadError>,
) -> Result<(u64, String), DownloadError> {
    let (digests, size) = Digests::of(path, false, each)?;
    Ok((size, digests.sha256))
}

/// Bytes in hexadecimal, as hashes are written.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        let (digests, size) = Digests::of(&path, true, &mut |_| Ok(())).unwrap();
        assert_eq!(size, 6);
        // `git hash-object`, `sha256sum`.
        assert_eq!(digests.git.as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        assert_eq!(digests.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(digests.differs(&digests.sha256), None);
        assert_eq!(digests.differs("ce013625030ba8dba906f756967f9e9ca394464a"), None);
        assert_eq!(digests.differs("no-hash-3"), None);
        assert_eq!(digests.differs(&"0".repeat(64)).unwrap().0, "SHA-256");
        assert_eq!(digests.differs(&"0".repeat(40)).unwrap().0, "git hash");
        let plain = Digests::of(&path, false, &mut |_| Ok(())).unwrap().0;
        assert_eq!(plain.differs(&"0".repeat(40)), None);
    }

    #[test]
    fn taking_stops_at_the_most_and_where_it_is_told() {
        let mut hashes = Hashes::new(5, false);
        let nobody = Path::new("x");
        assert_eq!(hashes.take(&b"hello, world"[..], nobody, 5, &mut |_| Ok(())).unwrap(), 5);
        let mut same = Hashes::new(5, false);
        same.update(b"hello");
        assert_eq!(hashes.finish(), same.finish());
        let stopped = Hashes::new(5, false).take(&b"hello"[..], nobody, 5, &mut |_| Err(DownloadError::Cancelled));
        assert!(matches!(stopped, Err(DownloadError::Cancelled)));
    }
}
