//! The layout of the cache, as `huggingface_hub` has it:
//!
//! ```text
//! models--ORG--NAME/blobs/ETAG                   contents, by the hub's tag for them
//! models--ORG--NAME/blobs/ETAG.incomplete        what there is of them so far
//! models--ORG--NAME/refs/REVISION                the commit that a branch or tag was at
//! models--ORG--NAME/snapshots/COMMIT/FILE        a link to contents
//! models--ORG--NAME/mils-lock.json               ours: what was fetched (record.rs)
//! .locks/models--ORG--NAME/ETAG.lock             locked while contents are written
//! ```

use super::{DownloadError, Remote, names};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a lock that another has is tried.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a lock is waited for before that is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// A repository's place in the cache.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    /// `ORG/NAME`.
    pub name: String,
    cache: PathBuf,
    folder: String,
}

/// A file as it is in a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What its contents are called, where it is a link to them.
    pub blob: Option<String>,
    /// Bytes.
    pub size: u64,
}

/// Makes a link with this text at this place.
pub(super) type Linker = fn(&Path, &Path) -> io::Result<()>;

#[cfg(unix)]
pub(super) fn symlink(text: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(text, at)
}

#[cfg(windows)]
pub(super) fn symlink(text: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(text, at)
}

impl Repository {
    /// # Errors
    /// If it cannot be called that.
    pub(super) fn new(cache: &Path, name: &str) -> Result<Self, DownloadError> {
        Ok(Self { name: name.to_owned(), cache: cache.to_owned(), folder: names::repository(name)? })
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.folder().join("blobs")
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    pub(super) fn part(&self, etag: &str) -> PathBuf {
        self.blobs().join(format!("{etag}.incomplete"))
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder().join("snapshots")
    }

    /// The commit that a branch or tag was at when it was asked for, or the commit itself.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if names::is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| names::is_commit(commit))
    }

    /// Notes the commit that a branch or tag is at.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(super) fn point(&self, revision: &str, commit: &str) -> Result<(), DownloadError> {
        if names::is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write(&self.folder().join("refs").join(revision), commit.as_bytes())
    }

    /// Writes a small file as a whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), DownloadError> {
        create_folder_of(path)?;
        // Not beside it: all that is in refs/ is a reference.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = self.folder().join(format!(".{name}.{}", std::process::id()));
        let written = fs::write(&unfinished, contents).and_then(|()| fs::rename(&unfinished, path));
        written.map_err(|error| {
            // It is not there, or of no use.
            let _ = fs::remove_file(&unfinished);
            DownloadError::disk("write", path)(error)
        })
    }

    /// A file in the snapshot of a commit, whatever it holds.
    pub(super) fn find(&self, commit: &str, file: &str) -> Option<Found> {
        let path = self.pointer(commit, file);
        let held = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let target = fs::read_link(&path).ok();
        // The first link only: contents may be a link themselves, to a store that several repositories share.
        let blob = target.and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
        Some(Found { path, blob, size: held.len() })
    }

    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        let mut path = self.snapshots().join(commit);
        path.extend(file.split('/'));
        path
    }

    /// Puts contents into the snapshot of a commit: by a link, or where the system or its disk has none, as the same file
    /// by another name, or as a copy.
    ///
    /// # Errors
    /// If neither can be made.
    pub(super) fn link(
        &self,
        etag: &str,
        commit: &str,
        file: &str,
        symlink: Linker,
        hard_link: Linker,
    ) -> Result<PathBuf, DownloadError> {
        let (pointer, blob) = (self.pointer(commit, file), self.blob(etag));
        create_folder_of(&pointer)?;
        let mut text = PathBuf::new();
        // Out of the file's folders, the commit's and snapshots/.
        text.extend(std::iter::repeat_n("..", file.split('/').count() + 1));
        text.extend(["blobs", etag]);
        if fs::read_link(&pointer).is_ok_and(|there| there == text) {
            return Ok(pointer);
        }
        remove_if_there(&pointer)?;
        if symlink(&text, &pointer).is_ok() || hard_link(&blob, &pointer).is_ok() {
            return Ok(pointer);
        }
        // Another process may have made it meanwhile.
        if fs::read_link(&pointer).is_ok_and(|there| there == text) {
            return Ok(pointer);
        }
        let copy = self.blobs().join(format!("{etag}.copy"));
        let copied = fs::copy(&blob, &copy).and_then(|_| fs::rename(&copy, &pointer));
        copied.map_err(DownloadError::disk("write", &pointer))?;
        Ok(pointer)
    }

    /// What locks contents, or with another name the record.
    pub(super) fn lock_file(&self, name: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{name}.lock"))
    }
}

/// A file that is locked by this process, as long as it is held. Where a disk has no locks, it is held all the same.
pub struct Lock {
    file: Option<File>,
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started has it for a moment too.
    fn drop(&mut self) {
        let _ = self.file.as_ref().map(File::unlock);
    }
}

impl Lock {
    /// Waits for a lock; its file is made where it is not there. `note` is told if that takes a while.
    ///
    /// # Errors
    /// [`DownloadError::Cancelled`] if it is `stopped` meanwhile; or if there can be no such file.
    pub fn wait(path: &Path, stopped: &dyn Fn() -> bool, note: &dyn Fn()) -> Result<Self, DownloadError> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_now(path)? {
                return Ok(lock);
            }
            if stopped() {
                return Err(DownloadError::Cancelled);
            }
            if !told && began.elapsed() > PATIENCE {
                told = true;
                note();
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// The lock, if nobody has it.
    ///
    /// # Errors
    /// If there can be no such file.
    pub(super) fn try_now(path: &Path) -> Result<Option<Self>, DownloadError> {
        create_folder_of(path)?;
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(DownloadError::disk("open", path))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => Ok(Some(Self { file: Some(file) })),
            // Whoever had it removed it: the next will lock another file.
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            // Some network disks have no locks. What two processes write into each other is found by its hash.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Self { file: None }))
            }
            Err(TryLockError::Error(error)) => Err(DownloadError::disk("lock", path)(error)),
        }
    }
}

#[cfg(unix)]
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().is_ok_and(|a| fs::metadata(path).is_ok_and(|b| same(a, b)))
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
pub(super) fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// # Errors
/// If it cannot be made.
pub(super) fn create_folder_of(path: &Path) -> Result<(), DownloadError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(DownloadError::disk("create", folder))
}

/// # Errors
/// If it is there, and cannot be removed.
pub(super) fn remove_if_there(path: &Path) -> Result<(), DownloadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DownloadError::disk("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether what is in a snapshot is the file that is meant, as far as that can be told without reading it.
pub(super) fn is_meant(found: &Found, file: &Remote, recorded: Option<&super::record::Entry>) -> bool {
    let hash = |hash: &str| file.sha256.as_deref().is_none_or(|given| given == hash);
    let by_name = found.blob.as_deref().is_none_or(|blob| !names::is_sha256(blob) || hash(blob));
    let by_record = recorded.is_none_or(|entry| entry.size == found.size && hash(&entry.sha256));
    by_name && by_record && file.size.is_none_or(|size| size == found.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(dir: &Path) -> Repository {
        let repository = Repository::new(dir, "org/name").unwrap();
        fs::create_dir_all(repository.blobs()).unwrap();
        fs::write(repository.blob("abc"), "contents").unwrap();
        repository
    }

    fn no_link(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn contents_are_linked_or_copied_into_snapshots() {
        let kinds: [(Linker, Linker); 3] =
            [(symlink, |a, b| fs::hard_link(a, b)), (no_link, |a, b| fs::hard_link(a, b)), (no_link, no_link)];
        for (number, (soft, hard)) in kinds.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let repository = repository(dir.path());
            for file in ["config.json", "a/b/c.bin"] {
                // Once more, and over what led elsewhere.
                for _ in 0..2 {
                    let path = repository.link("abc", COMMIT, file, soft, hard).unwrap();
                    assert_eq!(path, dir.path().join("models--org--name/snapshots").join(COMMIT).join(file));
                    assert_eq!(fs::read_to_string(&path).unwrap(), "contents");
                    let found = repository.find(COMMIT, file).unwrap();
                    assert_eq!((found.blob.as_deref(), found.size), ((number == 0).then_some("abc"), 8));
                }
                fs::write(repository.blob("def"), "others").unwrap();
                let path = repository.link("def", COMMIT, file, soft, hard).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), "others");
            }
            assert_eq!(fs::read_to_string(repository.blob("abc")).unwrap(), "contents");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_as_pythons_are() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        for (file, text) in [("x", "../../blobs/abc"), ("a/b/x", "../../../../blobs/abc")] {
            let path = repository.link("abc", COMMIT, file, symlink, no_link).unwrap();
            assert_eq!(fs::read_link(path).unwrap(), Path::new(text));
        }
    }

    #[test]
    fn references_are_read_as_they_are_written_and_only_if_they_are_commits() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        assert_eq!(repository.commit("main"), None);
        repository.point("refs/pr/1", COMMIT).unwrap();
        assert_eq!(repository.commit("refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(repository.commit(COMMIT).as_deref(), Some(COMMIT));
        repository.point(COMMIT, COMMIT).unwrap();
        assert!(!repository.folder().join("refs").join(COMMIT).exists());
        fs::write(repository.folder().join("refs/bad"), "../../..").unwrap();
        assert_eq!(repository.commit("bad"), None);
        let hidden = fs::read_dir(repository.folder()).unwrap().flatten();
        assert!(hidden.map(|e| e.file_name()).all(|name| !name.to_string_lossy().starts_with('.')));
    }

    #[test]
    fn a_lock_is_had_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.lock");
        let held = Lock::try_now(&path).unwrap().unwrap();
        assert!(Lock::try_now(&path).unwrap().is_none());
        assert!(matches!(Lock::wait(&path, &|| true, &|| ()), Err(DownloadError::Cancelled)));
        drop(held);
        let held = Lock::wait(&path, &|| false, &|| ()).unwrap();
        // Others may remove it when they are done.
        fs::remove_file(&path).unwrap();
        assert!(Lock::try_now(&path).unwrap().is_some());
        drop(held);
    }
}
