//! Checkpoint folders that are put together: converted weights, and files of other repositories beside them.

use super::convert;
use super::watch::Bars;
use anyhow::{Context, Result, anyhow};
use mils_models::download::{Watch, size};
use mils_models::{Manifest, Origin, Part, Source, SourceFile, Store};
use mils_pth::{Checkpoint, Options};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock that another process has is tried.
const GLANCE: Duration = Duration::from_millis(100);

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
    let Some(_lock) = lock(&shelf.join(format!(".{key}.lock")), bars)? else { return Ok(None) };
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

/// Waits for a lock, which is held until it is dropped; `None` if that was interrupted.
fn lock(path: &Path, bars: &Bars) -> Result<Option<File>> {
    let cannot = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(path).with_context(cannot)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if bars.cancelled() => return Ok(None),
            Err(TryLockError::WouldBlock) => {
                bars.say("waiting for another process");
                std::thread::sleep(GLANCE);
            }
            // Some network disks have no locks. Two processes would make the same.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(Some(file));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
    }
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
            let Some((size, sha256)) = hash(&to, &mut |bytes| bars.add(bytes), &|| bars.cancelled())? else {
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

/// The size and the SHA-256 of a file; `None` if it was `stopped`. `told` hears of bytes as they are read.
pub(super) fn hash(
    path: &Path,
    told: &mut dyn FnMut(u64),
    stopped: &dyn Fn() -> bool,
) -> Result<Option<(u64, String)>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let (mut hash, mut total, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut piece).with_context(cannot)?;
        if n == 0 {
            break;
        }
        hash.update(&piece[..n]);
        total += n as u64;
        told(n as u64);
        if stopped() {
            return Ok(None);
        }
    }
    let digits = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some((total, digits)))
}
