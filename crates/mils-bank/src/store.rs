//! Embeddings kept on disk, so that a text is embedded once on a machine and not once a run.
//!
//! A file holds the rows of one list of texts under one encoder: `FOLDER/ENCODER/LIST.rows`, named by hashes of both. It
//! is written beside its place and put there whole, never changed, and read where it is mapped. The texts themselves are
//! not in it, but a hash of each: a list that has grown takes the rows of the texts that it had from the older file.
//!
//! ```text
//! 0    magic, dim (u32), 0 (u32), rows (u64)
//! 24   the encoder (32 bytes), the list (32), the rows (32): BLAKE3
//! 120  the first 120 bytes: BLAKE3, 8 bytes
//! 128  of each text BLAKE3, 16 bytes
//! …    rows from the next multiple of 64 on: f32, little-endian
//! ```
//!
//! Whatever is wrong with a file or with the disk costs time and nothing else: it is said, and rows are computed.
#![expect(unsafe_code, reason = "memory-mapping a file")]

use crate::identity::Identity;
use memmap2::Mmap;
use mils_graph::{Bytes, DType, HostTensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// First in every file; the number changes with the format.
const MAGIC: &[u8; 8] = b"MILSROW1";
const HEADER: usize = 128;
const KEY: usize = 16;
const EXTENSION: &str = "rows";
/// A file that was not finished in so long a time never will be.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Stands for a text.
type Key = [u8; KEY];

/// A folder of embeddings.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    most: u64,
}

/// What is known of a list of texts.
pub enum Found {
    /// Rows of all, [texts, dim], in their order, where the file is mapped.
    All(HostTensor),
    /// Rows of some.
    Some(Known),
}

/// Rows of some texts.
pub struct Known {
    /// Of all texts in their order; zeros where they are not known.
    pub rows: Vec<f32>,
    /// Places of those that are not known, ascending.
    pub missing: Vec<usize>,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// In a folder that is made when it is needed, of at most so many bytes.
    pub fn new(folder: PathBuf, most: u64) -> Self {
        Self { folder, most }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The most bytes that it takes.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// What is known of these texts under an encoder. `note` is told what is wrong with files; those are taken away.
    pub fn find(&self, of: &Identity, dim: usize, texts: &[String], note: &mut dyn FnMut(String)) -> Found {
        let keys = keys(texts);
        let path = self.path(of, &list_hash(&keys));
        let expected = Expected { of, dim };
        match RowFile::open(&path, expected).and_then(|file| file.checked()) {
            Ok(file) => {
                touch(&path);
                if let Ok(rows) = file.tensor() {
                    return Found::All(rows);
                }
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => discard(&path, &error, note),
        }
        Found::Some(self.gather(expected, &keys, note))
    }

    /// Rows of the texts that other lists have too.
    fn gather(&self, expected: Expected<'_>, keys: &[Key], note: &mut dyn FnMut(String)) -> Known {
        let dim = expected.dim;
        let mut rows = vec![0.0; keys.len() * dim];
        let mut wanted: HashMap<Key, Vec<usize>> = HashMap::new();
        for (place, key) in keys.iter().enumerate() {
            wanted.entry(*key).or_default().push(place);
        }
        for path in row_files(&self.folder.join(expected.of.name())) {
            if wanted.is_empty() {
                break;
            }
            let file = match RowFile::open(&path, expected) {
                Ok(file) => file,
                Err(error) => {
                    discard(&path, &error, note);
                    continue;
                }
            };
            if !file.keys().iter().any(|key| wanted.contains_key(key)) {
                continue;
            }
            // Its rows are looked at only where they are wanted.
            let file = match file.checked() {
                Ok(file) => file,
                Err(error) => {
                    discard(&path, &error, note);
                    continue;
                }
            };
            touch(&path);
            let Ok(tensor) = file.tensor() else { continue };
            let Some(data) = tensor.as_f32() else { continue };
            for (key, row) in file.keys().iter().zip(data.chunks_exact(dim)) {
                for place in wanted.remove(key).unwrap_or_default() {
                    rows[place * dim..(place + 1) * dim].copy_from_slice(row);
                }
            }
        }
        let mut missing: Vec<usize> = wanted.into_values().flatten().collect();
        missing.sort_unstable();
        Known { rows, missing }
    }

    /// Keeps the rows of a list of texts, and lets go of the files that were not used for longest where there is no room.
    ///
    /// # Errors
    /// If there is no room for it, or the disk refuses.
    pub fn keep(&self, of: &Identity, dim: usize, texts: &[String], rows: &[f32]) -> io::Result<()> {
        let keys = keys(texts);
        if dim == 0 || keys.len().checked_mul(dim) != Some(rows.len()) {
            return Err(io::Error::other("rows and texts do not fit together"));
        }
        let size = (rows_at(keys.len()) + size_of_val(rows)) as u64;
        if size > self.most {
            return Err(io::Error::other(format!(
                "{} MB of embeddings are more than the {} MB that may be kept; raise MILS_CACHE_SIZE",
                size / 1_000_000,
                self.most / 1_000_000
            )));
        }
        let list = list_hash(&keys);
        let path = self.path(of, &list);
        let folder = self.folder.join(of.name());
        fs::create_dir_all(&folder)?;
        self.make_room(size);
        let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        out.write_all(&header(of, dim, &keys, &list, &rows_hash(rows)))?;
        for key in &keys {
            out.write_all(key)?;
        }
        out.write_all(&vec![0; rows_at(keys.len()) - HEADER - keys.len() * KEY])?;
        each_bytes(rows, &mut |bytes| out.write_all(bytes))?;
        out.flush()?;
        drop(out);
        // A file that is there is whole also after a loss of power.
        temporary.as_file().sync_all()?;
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Forgets a list of texts.
    pub fn forget(&self, of: &Identity, texts: &[String]) {
        let keys = keys(texts);
        // It may not be there.
        let _ = fs::remove_file(self.path(of, &list_hash(&keys)));
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let files = self.files();
        Usage { files: files.len(), bytes: files.iter().map(|file| file.bytes).sum() }
    }

    /// Takes everything away. Returns how much there was.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn clear(&self) -> io::Result<Usage> {
        let usage = self.usage();
        self.files().into_iter().try_for_each(|file| fs::remove_file(file.path))?;
        Ok(usage)
    }

    fn path(&self, of: &Identity, list: &blake3::Hash) -> PathBuf {
        self.folder.join(of.name()).join(format!("{}.{EXTENSION}", &list.to_hex()[..32]))
    }

    /// Removes the least recently used until there is room for so many bytes.
    fn make_room(&self, bytes: u64) {
        let mut files = self.files();
        files.sort_by_key(|file| file.used);
        let mut total: u64 = files.iter().map(|file| file.bytes).sum();
        for file in files {
            if total + bytes <= self.most {
                return;
            }
            // Another process may have done it.
            if fs::remove_file(&file.path).is_ok() {
                total -= file.bytes;
            }
        }
    }

    /// All files, without those that are being written; such as never were finished are removed.
    fn files(&self) -> Vec<Kept> {
        let mut all = Vec::new();
        for folder in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            for entry in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let (path, used) = (entry.path(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                if path.extension().is_some_and(|e| e == EXTENSION) {
                    all.push(Kept { path, used, bytes: metadata.len() });
                } else if used.elapsed().is_ok_and(|age| age > STALE) {
                    // Of a process that was killed.
                    let _ = fs::remove_file(path);
                }
            }
        }
        all
    }
}

/// A file of the store.
struct Kept {
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
}

/// What a file should be of.
#[derive(Clone, Copy)]
struct Expected<'a> {
    of: &'a Identity,
    dim: usize,
}

fn row_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == EXTENSION)).collect();
    paths.sort();
    paths
}

/// Says that a file was used; where that cannot be said, it is let go of sooner.
fn touch(path: &Path) {
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn discard(path: &Path, error: &io::Error, note: &mut dyn FnMut(String)) {
    // Another process was quicker.
    if is_missing(error) {
        return;
    }
    note(format!("{}: {error}; texts are embedded anew", path.display()));
    if error.kind() == io::ErrorKind::InvalidData {
        let _ = fs::remove_file(path);
    }
}

/// There is no such file; nor is there one where a folder above it is a file.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a damaged file of embeddings ({what})"))
}

/// Where rows begin.
fn rows_at(count: usize) -> usize {
    (HEADER + count * KEY).next_multiple_of(64)
}

fn keys(texts: &[String]) -> Vec<Key> {
    texts.par_iter().with_min_len(1024).map(|text| key(text)).collect()
}

fn key(text: &str) -> Key {
    let mut key = [0; KEY];
    key.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..KEY]);
    key
}

fn list_hash(keys: &[Key]) -> blake3::Hash {
    blake3::hash(keys.as_flattened())
}

/// The rows as they are in a file, a piece at a time.
fn each_bytes(rows: &[f32], take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    if cfg!(target_endian = "little") {
        return take(bytemuck::cast_slice(rows));
    }
    for piece in rows.chunks(PIECE) {
        let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
        take(&bytes)?;
    }
    Ok(())
}

fn rows_hash(rows: &[f32]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // Hashing does not fail.
    let _ = each_bytes(rows, &mut |bytes| {
        hasher.update_rayon(bytes);
        Ok(())
    });
    hasher.finalize()
}

fn header(of: &Identity, dim: usize, keys: &[Key], list: &blake3::Hash, rows: &blake3::Hash) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend((dim as u32).to_le_bytes());
    header.extend([0; 4]);
    header.extend((keys.len() as u64).to_le_bytes());
    for hash in [of.bytes(), list.as_bytes(), rows.as_bytes()] {
        header.extend(hash);
    }
    let sum = blake3::hash(&header);
    header.extend(&sum.as_bytes()[..8]);
    header
}

/// A mapped file.
struct MappedFile(Mmap);

impl Bytes for MappedFile {
    fn all(&self) -> &[u8] {
        &self.0
    }
}

/// A file whose header and keys are right.
struct RowFile {
    bytes: Arc<dyn Bytes>,
    dim: usize,
    count: usize,
}

impl RowFile {
    fn open(path: &Path, Expected { of, dim }: Expected<'_>) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no file"));
        }
        // SAFETY: the map is read only. Files of the store are in the user's own folder, written whole under another name
        // and never changed after; removing one leaves those who have it mapped what they have. As with checkpoints,
        // another program that truncates it meanwhile would end this process.
        let mapped = unsafe { Mmap::map(&file) }?;
        let all: &[u8] = &mapped;
        let header = all.first_chunk::<HEADER>().ok_or_else(|| damaged("too short"))?;
        if header[120..] != blake3::hash(&header[..120]).as_bytes()[..8] || !header.starts_with(MAGIC) {
            return Err(damaged("header"));
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let (found, count) = (word(8) as usize, word(16));
        if found != dim || header[24..56] != *of.bytes() {
            return Err(damaged("of another encoder"));
        }
        let count = usize::try_from(count).ok().filter(|n| *n <= all.len() / KEY).ok_or_else(|| damaged("length"))?;
        let rows = count.checked_mul(dim).and_then(|n| n.checked_mul(4)).ok_or_else(|| damaged("length"))?;
        if rows_at(count).checked_add(rows) != Some(all.len()) {
            return Err(damaged("length"));
        }
        if header[56..88] != *blake3::hash(&all[HEADER..HEADER + count * KEY]).as_bytes() {
            return Err(damaged("keys"));
        }
        Ok(Self { bytes: Arc::new(MappedFile(mapped)), dim, count })
    }

    fn keys(&self) -> &[Key] {
        self.bytes.all()[HEADER..HEADER + self.count * KEY].as_chunks().0
    }

    fn rows(&self) -> Range<usize> {
        rows_at(self.count)..self.bytes.all().len()
    }

    /// With rows that are right, too: this reads them all.
    fn checked(self) -> io::Result<Self> {
        let all = self.bytes.all();
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(&all[self.rows()]);
        if all[88..120] == *hasher.finalize().as_bytes() { Ok(self) } else { Err(damaged("rows")) }
    }

    fn tensor(&self) -> io::Result<HostTensor> {
        HostTensor::shared(DType::F32, &[self.count, self.dim], &self.bytes, self.rows()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
