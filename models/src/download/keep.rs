//! What is in the cache: finding it, verifying it, and removing it.

use super::cache::{self, Found, Lock, Repository, remove_if_there};
use super::get::known_commit;
use super::hash::Digests;
use super::record::{Entry, Record};
use super::{Against, DownloadError, Hub, Remote, Verified, Watch, names};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the cache.
pub(super) struct Located {
    pub found: Found,
    /// Whether it is the one that is meant, as far as that can be told without reading it.
    pub is_meant: bool,
    /// What the record says of it.
    entry: Option<Entry>,
}

/// # Errors
/// If it cannot be called that, or the record of its repository cannot be read.
pub(super) fn locate(hub: &Hub, file: &Remote) -> Result<Option<Located>, DownloadError> {
    file.check()?;
    let repository = Repository::new(&hub.cache, &file.repo)?;
    let record = Record::read(&repository)?;
    let Some(commit) = known_commit(&record, &repository, &file.revision, std::iter::once(file)) else {
        return Ok(None);
    };
    let entry = record.entry(file).filter(|entry| entry.commit == commit);
    Ok(repository.find(&commit, &file.file).map(|found| {
        let is_meant = cache::is_meant(&found, file, entry);
        Located { found, is_meant, entry: entry.cloned() }
    }))
}

/// See [`Hub::cached_files`].
pub(super) fn cached_files(hub: &Hub, repo: &str, revision: &str) -> Vec<(Remote, PathBuf)> {
    let Ok(repository) = Repository::new(&hub.cache, repo) else { return Vec::new() };
    let commits = fs::read_dir(repository.snapshots()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names = BTreeSet::new();
    for commit in commits {
        let inside = files(&commit).into_iter().filter_map(|path| Some(path.strip_prefix(&commit).ok()?.to_owned()));
        let parts = |path: PathBuf| path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        names.extend(inside.map(parts));
    }
    // Which of the commits is meant is the record's to tell.
    let remotes = names.into_iter().map(|name| Remote::new(repo, revision, &name));
    remotes.filter_map(|remote| Some((remote.clone(), hub.cached(&remote)?))).collect()
}

/// See [`Hub::verify`].
pub(super) fn verify(hub: &Hub, file: &Remote, watch: &dyn Watch) -> Result<Verified, DownloadError> {
    let missing = || DownloadError::NotCached { repo: file.repo.clone(), file: file.file.clone() };
    let Located { found, entry, .. } = locate(hub, file)?.ok_or_else(missing)?;
    watch.began(file, Some(found.size), 0);
    let with_git = found.blob.as_deref().is_some_and(names::is_git);
    let (digests, size) = Digests::of(&found.path, with_git, &mut |bytes| {
        watch.got(file, bytes);
        if watch.cancelled() { Err(DownloadError::Cancelled) } else { Ok(()) }
    })?;
    let damaged = |(what, found_hash, expected)| DownloadError::Damaged {
        path: found.path.clone(),
        what,
        found: found_hash,
        expected,
        remedy: "remove it and download it again",
    };
    if let Some(given) = file.size.filter(|given| *given != size) {
        return Err(damaged(("size", size.to_string(), given.to_string())));
    }
    let expected = [
        (Against::Given, file.sha256.as_deref()),
        (Against::Record, entry.as_ref().map(|entry| entry.sha256.as_str())),
        (Against::Name, found.blob.as_deref().filter(|blob| names::is_sha256(blob) || names::is_git(blob))),
    ];
    let mut against = Against::Nothing;
    for (by, hash) in expected {
        let Some(hash) = hash else { continue };
        if let Some(difference) = digests.differs(hash) {
            return Err(damaged(difference));
        }
        if against == Against::Nothing {
            against = by;
        }
    }
    watch.done(file);
    Ok(Verified { path: found.path, size, sha256: digests.sha256, against })
}

/// See [`Hub::remove`].
pub(super) fn remove(hub: &Hub, file: &Remote) -> Result<u64, DownloadError> {
    file.check()?;
    let repository = Repository::new(&hub.cache, &file.repo)?;
    if !repository.folder().is_dir() {
        return Ok(0);
    }
    let record = Record::read(&repository)?;
    // Also what another hash was given for since: it is what there is.
    let commit = known_commit(&record, &repository, &file.revision, std::iter::empty());
    let found = commit.as_ref().and_then(|commit| repository.find(commit, &file.file));
    let blob = found.as_ref().and_then(|found| found.blob.clone());
    let blob = blob.or_else(|| record.entry(file).map(|entry| entry.blob.clone())).or_else(|| file.sha256.clone());
    let blob = blob.and_then(|blob| names::etag(&blob));
    let busy = || DownloadError::Busy { repo: file.repo.clone(), file: file.file.clone() };
    let _lock = match &blob {
        Some(blob) => Some(Lock::try_now(&repository.lock_file(blob))?.ok_or_else(busy)?),
        None => None,
    };
    let mut freed = 0;
    if let Some(commit) = &commit {
        freed += take_away(&repository.pointer(commit, &file.file))?;
    }
    Record::change(&repository, &|| false, |files| {
        files.retain(|entry| (&entry.revision, &entry.file) != (&file.revision, &file.file));
    })?;
    if let Some(blob) = blob.filter(|blob| !record.uses(blob, file) && !is_linked(&repository.snapshots(), blob)) {
        freed += take_away(&repository.blob(&blob))?;
        freed += take_away(&repository.part(&blob))?;
    }
    tidy(&repository, &mut freed)?;
    Ok(freed)
}

/// Removes a file, and says how many bytes that freed: none if it was a link, or has another name.
fn take_away(path: &Path) -> Result<u64, DownloadError> {
    let freed = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |held| own_size(&held));
    remove_if_there(path)?;
    Ok(freed)
}

#[cfg(unix)]
fn own_size(held: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    if held.nlink() > 1 { 0 } else { held.len() }
}

#[cfg(not(unix))]
fn own_size(held: &fs::Metadata) -> u64 {
    held.len()
}

/// Whether a link below a folder leads to these contents.
fn is_linked(folder: &Path, blob: &str) -> bool {
    let leads = |path: &Path| fs::read_link(path).is_ok_and(|target| target.file_name().is_some_and(|n| n == blob));
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => is_linked(&entry.path(), blob),
        Ok(kind) if kind.is_symlink() => leads(&entry.path()),
        _ => false,
    })
}

/// Removes folders that hold nothing, references to snapshots that are not there, and with the last snapshot what was
/// begun and the repository's folder.
fn tidy(repository: &Repository, freed: &mut u64) -> Result<(), DownloadError> {
    prune(&repository.snapshots());
    for path in files(&repository.folder().join("refs")) {
        let commit = fs::read_to_string(&path).unwrap_or_default();
        // Python complains of those.
        if names::is_commit(commit.trim()) && !repository.snapshots().join(commit.trim()).exists() {
            remove_if_there(&path)?;
        }
    }
    prune(&repository.folder().join("refs"));
    if repository.snapshots().exists() {
        return Ok(());
    }
    for path in files(&repository.blobs()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(etag) = name.strip_suffix(".incomplete") else { continue };
        // Python has a name of its own for each process after the tag.
        let etag = etag.split('.').next().unwrap_or(etag);
        // Another process may be at it.
        if let Some(_lock) = Lock::try_now(&repository.lock_file(etag))? {
            *freed += take_away(&path)?;
        }
    }
    prune(&repository.blobs());
    // Only if nothing of others is in it.
    let _ = fs::remove_dir(repository.folder());
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all = Vec::new();
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            _ => all.push(entry.path()),
        }
    }
    all
}

/// Removes a folder and those in it, as far as they are empty.
fn prune(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            prune(&entry.path());
        }
    }
    // One that is not empty stays, and says so.
    let _ = fs::remove_dir(folder);
}
