//! The two files that `torch.save` writes: a ZIP with a pickle and a file a storage, and what was before it.

use crate::dtype::Dtype;
use crate::error::Problem;
use crate::heap::{Heap, Id, Value};
use crate::state::{self, Found};
use crate::{Options, vm};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// The pickle of the old format's magic number, with which such a file begins.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// How a Git LFS pointer begins, left where a file was not fetched.
const GIT_LFS: &[u8] = b"version https://git-lfs";

/// A mapped file, or one in memory.
pub(crate) enum Archive {
    Map(Mmap),
    Memory(Vec<u8>),
}

/// Where storages are in the file, by key.
pub(crate) type Storages = HashMap<String, Range<usize>>;

fn damaged(what: impl std::fmt::Display) -> Problem {
    Problem::file(format!("{what}; the file is damaged or incomplete, copy it again"))
}

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        let file = File::open(path).map_err(Problem::Read)?;
        let kind = file.metadata().map_err(Problem::Read)?;
        if !kind.is_file() {
            return Err(Problem::file("is no file"));
        }
        if kind.len() == 0 {
            // There is no map of nothing.
            return Ok(Self::Memory(Vec::new()));
        }
        #[expect(unsafe_code, reason = "memory-mapping a file")]
        // SAFETY: the map is read only and lives as long as `Archive`. A file that another process truncates meanwhile
        // would end this process; checkpoints are replaced by renaming, not rewritten in place, as everywhere.
        let map = unsafe { Mmap::map(&file) }.map_err(Problem::Read)?;
        Ok(Self::Map(map))
    }

    /// Bytes of the whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }

    /// The tensors that are asked for.
    pub(crate) fn state(&self, options: &Options) -> Result<Found, Problem> {
        let bytes = self.bytes();
        if bytes.is_empty() {
            return Err(Problem::file("is empty; copy it again"));
        }
        let mut heap = Heap::default();
        let (root, storages) = if bytes.starts_with(b"PK\x03\x04") {
            zipped(&mut heap, bytes, options)?
        } else if bytes.starts_with(OLD_MAGIC) {
            old(&mut heap, bytes, options)?
        } else if bytes.starts_with(GIT_LFS) {
            return Err(Problem::file("is a Git LFS pointer in place of the file; run `git lfs pull` in its folder"));
        } else if bytes.starts_with(b"\x80") {
            return Err(Problem::file(
                "is a pickle, but none of torch.save's; load it in Python and save it with that",
            ));
        } else {
            return Err(Problem::file("is no PyTorch checkpoint: neither a ZIP file nor the format before it"));
        };
        state::find(&heap, root, &storages, bytes.len(), options)
    }
}

/// The ZIP: `NAME/data.pkl`, and `NAME/data/KEY` for each storage, stored without compression.
fn zipped<'a>(heap: &mut Heap<'a>, bytes: &'a [u8], options: &Options) -> Result<(Id, Storages), Problem> {
    let mut zip =
        ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(format!("cannot be read as a ZIP file ({e})")))?;
    let mut entries = HashMap::with_capacity(zip.len());
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(|e| damaged(format!("its part {i} cannot be read ({e})")))?;
        let name = entry.name().to_owned();
        if entry.is_dir() {
            continue;
        }
        if entry.encrypted() {
            return Err(Problem::file("is encrypted; torch.save never does that"));
        }
        if entry.compression() != CompressionMethod::Stored {
            return Err(Problem::file(format!(
                "has `{}` compressed, which torch.save never does; unpack it, and load and save it in Python",
                name.escape_debug()
            )));
        }
        let range = entry.data_start().zip(Some(entry.size())).and_then(|(start, size)| {
            let (start, size) = (usize::try_from(start).ok()?, usize::try_from(size).ok()?);
            let range = start..start.checked_add(size)?;
            bytes.get(range.clone()).map(|_| range)
        });
        let range =
            range.ok_or_else(|| damaged(format!("its part `{}` reaches beyond its end", name.escape_debug())))?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(damaged(format!("has two parts `{}`", name.escape_debug())));
        }
    }
    let base = entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).filter(|b| b.matches('/').count() <= 1);
    let base = base
        .min()
        .map(str::to_owned)
        .ok_or_else(|| Problem::file("is a ZIP file, but has no `data.pkl`: no PyTorch checkpoint"))?;
    if entries.contains_key(&format!("{base}constants.pkl")) {
        return Err(Problem::file("is a TorchScript model with its code, not a state dict; save its `state_dict()`"));
    }
    let part = |name: &str| entries.get(&format!("{base}{name}")).map(|range| &bytes[range.clone()]);
    if part("byteorder").is_some_and(|order| order.starts_with(b"big")) {
        return Err(Problem::file("was written with the most significant byte first, which is not supported"));
    }
    let (root, _) = vm::run(heap, part("data.pkl").unwrap_or_default(), options.skip_objects)?;
    let data = format!("{base}data/");
    let storages =
        entries.iter().filter_map(|(name, range)| Some((name.strip_prefix(&data)?.to_owned(), range.clone())));
    Ok((root, storages.collect()))
}

/// The format before the ZIP: five pickles (a magic number, the version, the machine, the value, the storages' keys),
/// then of each storage its number of elements, in 64 bits, and the elements.
fn old<'a>(heap: &mut Heap<'a>, bytes: &'a [u8], options: &Options) -> Result<(Id, Storages), Problem> {
    let mut at = OLD_MAGIC.len();
    let mut next = |heap: &mut Heap<'a>| {
        let (value, length) = vm::run(heap, bytes.get(at..).unwrap_or_default(), options.skip_objects)?;
        at += length;
        Ok::<_, Problem>(value)
    };
    let version = next(heap)?;
    if !matches!(heap.get(version), Value::Int(1001)) {
        return Err(Problem::file("is of an unknown version of the old format"));
    }
    let machine = next(heap)?;
    if entry(heap, machine, "little_endian").is_some_and(|value| matches!(value, Value::Bool(false))) {
        return Err(Problem::file("was written with the most significant byte first, which is not supported"));
    }
    let root = next(heap)?;
    let keys = next(heap)?;
    let types: HashMap<&str, Option<Dtype>> = heap.storages.iter().map(|s| (s.key, s.dtype)).collect();
    let mut storages = HashMap::new();
    for &key in heap.items(keys)? {
        let &Value::Text(key) = heap.get(key) else { return Err(damaged("a storage has no name")) };
        // One that no value names has no type, and nobody knows where the next begins.
        let size =
            types.get(key).copied().ok_or_else(|| damaged(format!("storage `{}` is nobody's", key.escape_debug())))?;
        let size = size.map_or(1, Dtype::size);
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        let length = count.and_then(|n| usize::try_from(n).ok()).and_then(|n| n.checked_mul(size));
        let range = length.and_then(|length| (at + 8).checked_add(length)).map(|end| at + 8..end);
        let range = range.filter(|range| range.end <= bytes.len());
        let range = range.ok_or_else(|| damaged(format!("storage `{}` reaches beyond its end", key.escape_debug())))?;
        at = range.end;
        storages.insert(key.to_owned(), range);
    }
    Ok((root, storages))
}

/// The value under a text of a dictionary.
fn entry<'h, 'a>(heap: &'h Heap<'a>, dict: Id, wanted: &str) -> Option<&'h Value<'a>> {
    let Value::Dict(pairs) = heap.get(dict) else { return None };
    let found = pairs.iter().find(|(key, _)| matches!(heap.get(*key), Value::Text(text) if *text == wanted));
    found.map(|&(_, value)| heap.get(value))
}
