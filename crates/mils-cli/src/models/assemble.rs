//! Checkpoint folders that are put together: converted weights, and files of other repositories beside them.

use super::convert;
use super::watch::Bars;
use anyhow::{Context, Result, anyhow};
use mils_models::download::{DownloadError, Lock, Watch, sha256, size};
use mils_models::{Manifest, Origin, Part, Source, SourceFile, Store};
use mils_pth::{Checkpoint, Options};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Puts the folder of these sources together, all of which are there; `None` if that was interrupted, which leaves
/// nothing. Where the hub cache has one as it is, or there is one already, nothing is done, unless it is to be made `anew`.
pub(super) fn assemble(sources: &[Source], store: &Store, anew: bool, bars: &Bars) -> Result<Option<PathBuf>> {
    let Some(folder) = store.made(sources) else {
        return store.folder(sources).map(Some).context("a file that was fetched is not there");
    };
    let (Some(shelf), Some(key)) = (folder.parent(), folder.file_name()) else {
        return Err(anyhow!("{} is no place for a model", folder.display()));
    };
    fs::create_dir_all(shelf).with_context(|| format!("cannot create {}", shelf.display()))?;
    let key = key.to_string_lossy();
    let lock = shelf.join(format!(".{key}.lock"));
    let _lock = match Lock::wait(&lock, &|| bars.cancelled(), &|| bars.say("waiting for another process")) {
        Err(DownloadError::Cancelled) => return Ok(None),
        lock => lock?,
    };
    // Another process may have made it meanwhile.
    if !anew && let Some(made) = store.folder(sources) {
        return Ok(Some(made));
    }
    let unfinished = shelf.join(format!(".{key}.unfinished"));
    let made = fill(&unfinished, sources, store, bars);
    if !matches!(made, Ok(true)) {
        // It is begun anew the next time; what cannot be removed is said then.
        let _ = fs::remove_dir_all(&unfinished);
        return made.map(|_| None);
    }
    let moved = remove_folder(&folder).and_then(|()| fs::rename(&unfinished, &folder));
    moved.with_context(|| format!("cannot put {} into its place", folder.display()))?;
    Ok(Some(folder))
}

fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes all files and says what they were made of; `false` if it was interrupted.
fn fill(folder: &Path, sources: &[Source], store: &Store, bars: &Bars) -> Result<bool> {
    let cannot = || format!("cannot write to {}", folder.display());
    remove_folder(folder).and_then(|()| fs::create_dir(folder)).with_context(cannot)?;
    let mut parts = Vec::new();
    for source in sources {
        for file in &source.files {
            let Some(from) = store.file(source, file) else {
                return Err(anyhow!("{} of {} is not there", file.file, source.place()));
            };
            let to = folder.join(file.name());
            if !place(&from, &to, file, bars)? {
                return Ok(false);
            }
            let Some((size, sha256)) = hash(&to, bars)? else {
                return Ok(false);
            };
            let revision = match &source.origin {
                Origin::Hub { revision, .. } => Some(revision.clone()),
                Origin::Elsewhere { .. } => None,
            };
            let (name, from, file) = (file.name().to_owned(), source.place().to_owned(), file.file.clone());
            parts.push(Part { name, size, sha256, from, revision, file });
        }
    }
    Manifest { version: 1, parts }.write(folder)?;
    Ok(true)
}

/// Converts a file, or gives it another name; `false` if it was interrupted.
fn place(from: &Path, to: &Path, file: &SourceFile, bars: &Bars) -> Result<bool> {
    let Some(conversion) = &file.convert else {
        // Contents of the cache never change, so that another name for them is as good as a copy.
        let contents = fs::canonicalize(from).with_context(|| format!("cannot read {}", from.display()))?;
        let linked = fs::hard_link(&contents, to).or_else(|_| fs::copy(&contents, to).map(drop));
        linked.with_context(|| format!("cannot write to {}", to.display()))?;
        bars.expect(size_of(to));
        return Ok(true);
    };
    let options = Options { prefix: conversion.prefix.clone(), skip_objects: conversion.skip_objects };
    let checkpoint = Checkpoint::open(from, &options)?;
    // It is written, and then read once to be hashed.
    bars.expect(2 * checkpoint.bytes());
    bars.say(&format!("converting {} ({})", file.file, size(checkpoint.bytes())));
    let mut before = 0;
    convert::write(&checkpoint, to, &mut |done| {
        bars.add(done - before);
        before = done;
        if bars.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |held| held.len())
}

/// The size and the SHA-256 of a file; `None` if that was interrupted.
pub(super) fn hash(path: &Path, bars: &Bars) -> Result<Option<(u64, String)>> {
    let read = sha256(path, &mut |bytes| {
        bars.add(bytes);
        if bars.cancelled() { Err(DownloadError::Cancelled) } else { Ok(()) }
    });
    match read {
        Err(DownloadError::Cancelled) => Ok(None),
        read => Ok(Some(read?)),
    }
}
