//! The weights' file, whole or in shards: every tensor by name, checked.
#![expect(unsafe_code, reason = "memory-mapping a file")]

use crate::EncoderError;
use crate::files::{GIT_LFS, GIT_LFS_PROBLEM, unreadable};
use crate::layout::read_json;
use crate::tensors::{Role, Source, Tensor, View};
use half::{bf16, f16};
use memmap2::Mmap;
use mils_graph::{Bytes, DType, HostTensor, TensorData, TensorError};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How matrices and tables are held on a device. Everything is computed in f32, whatever this is; vectors (biases,
/// norms, positions) are always held in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the checkpoint has them: half the memory where that is f16 or bf16, at no loss.
    #[default]
    AsStored,
    /// 32 bits.
    F32,
    /// IEEE half precision: 11 bits of every number, none above 65,504.
    F16,
    /// The upper half of an f32: 8 bits of every number.
    BF16,
}

/// Where a tensor's bytes are.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A file in memory, which tensors are lent from.
struct MappedFile(Mmap);

impl Bytes for MappedFile {
    fn all(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        // SAFETY: the map is shared, not private, and read only: pages that are let go hold what the file holds, and
        // come back from there when they are read.
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Elements that a thread looks at or converts at a time.
const PIECE: usize = 1 << 16;

/// The files of a checkpoint, memory-mapped, and the tensors in them.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    files: Vec<(PathBuf, Arc<dyn Bytes>)>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens the file of this name, or the shards that its index names.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self, EncoderError> {
        let (single, index) = (folder.join(name), folder.join(format!("{name}.index.json")));
        let paths = if !single.exists() && index.exists() { shards(folder, &index)? } else { vec![single] };
        let mut files: Vec<(PathBuf, Arc<dyn Bytes>)> = Vec::new();
        let mut entries = BTreeMap::new();
        for path in paths {
            let mapped = MappedFile(map(&path)?);
            index_file(files.len(), &path, &mapped.0, &mut entries)?;
            files.push((path, Arc::new(mapped)));
        }
        Ok(Self { folder: folder.into(), files, entries })
    }

    /// For messages: the file, or the folder of several.
    pub(crate) fn path(&self) -> &Path {
        if let [(path, _)] = &self.files[..] { path } else { &self.folder }
    }

    /// Shape of a tensor, if there is one of this name.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A single number, of shape [] or [1].
    pub(crate) fn scalar(&self, name: &str) -> Result<f32, EncoderError> {
        let shape = self.shape(name).filter(|s| s == &[1]).unwrap_or_default().to_vec();
        let source = Source { name: name.to_owned(), shape, view: View::Whole };
        let data = self.tensor(&source, &[1], Precision::F32)?.into_f32();
        Ok(data.and_then(|d| d.first().copied()).unwrap_or(f32::NAN))
    }

    /// Takes the tensors that are wanted, each from its source, matrices in the given precision; nothing may be left
    /// over but `also`.
    pub(crate) fn read(
        &self,
        wanted: &[(Tensor, Source)],
        also: &[&str],
        precision: Precision,
    ) -> Result<Vec<(String, HostTensor)>, EncoderError> {
        let known: BTreeSet<&str> = wanted.iter().map(|(_, s)| s.name.as_str()).chain(also.iter().copied()).collect();
        let strangers: Vec<(&String, &Entry)> =
            self.entries.iter().filter(|(name, _)| !known.contains(name.as_str())).collect();
        if let Some((name, entry)) = strangers.first() {
            let path = self.files[entry.file].0.clone();
            return Err(EncoderError::LeftOver { path, name: (*name).clone(), count: strangers.len() });
        }
        let take = |(tensor, source): &(Tensor, Source)| {
            let precision = if tensor.role == Role::Matrix { precision } else { Precision::F32 };
            Ok((tensor.name.clone(), self.tensor(source, &tensor.shape, precision)?))
        };
        wanted.iter().map(take).collect()
    }

    /// The elements of a source under another shape.
    fn tensor(&self, source: &Source, shape: &[usize], precision: Precision) -> Result<HostTensor, EncoderError> {
        let entry = self.entries.get(&source.name).ok_or_else(|| EncoderError::MissingTensor {
            path: self.path().into(),
            name: source.name.clone(),
            expected: source.shape.clone(),
        })?;
        let (path, bytes) = &self.files[entry.file];
        if entry.shape != source.shape {
            return Err(EncoderError::TensorShape {
                path: path.clone(),
                name: source.name.clone(),
                expected: source.shape.clone(),
                found: entry.shape.clone(),
            });
        }
        let mut range = entry.bytes.clone();
        if let View::Part { part, of } = source.view {
            let one = range.len() / of;
            range = range.start + part * one..range.start + (part + 1) * one;
        }
        let fail = |problem: String| EncoderError::file(path, format!("tensor `{}`: {problem}", source.name));
        let stored = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(fail(format!("type {other:?} is not supported (F32, F16 and BF16 are)"))),
        };
        let stored = HostTensor::shared(stored, shape, bytes, range)?;
        finite(&stored).map_err(fail)?;
        let made = match (source.view, &entry.shape[..]) {
            (View::Transposed, &[rows, columns]) => in_precision(transposed(&stored, [rows, columns])?, precision),
            (View::ChannelsLast, &[_, channels, height, width]) => {
                in_precision(transposed(&stored, [channels, height * width])?, precision)
            }
            _ => in_precision(stored.clone(), precision),
        };
        let made = made.map_err(fail)?;
        if !made.is_lent() {
            stored.release();
        }
        Ok(made)
    }
}

/// The tensor under the same shape, of matrices of these rows and columns, each read column by column.
fn transposed(tensor: &HostTensor, [rows, columns]: [usize; 2]) -> Result<HostTensor, TensorError> {
    fn turn<T: Copy>(data: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
        let places = || (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
        data.chunks_exact(rows * columns).flat_map(|matrix| places().map(|i| matrix[i])).collect()
    }
    let (shape, size) = (tensor.shape(), [rows, columns]);
    match tensor.data() {
        TensorData::F32(data) => HostTensor::f32(shape, turn(data, size)),
        TensorData::F16(data) => HostTensor::f16(shape, turn(data, size)),
        TensorData::BF16(data) => HostTensor::bf16(shape, turn(data, size)),
        TensorData::U32(data) => HostTensor::u32(shape, turn(data, size)),
    }
}

/// The elements in this precision, in place where they are in it already.
fn in_precision(tensor: HostTensor, precision: Precision) -> Result<HostTensor, String> {
    let shape = tensor.shape();
    match (precision, tensor.data()) {
        (Precision::AsStored, _)
        | (Precision::F32, TensorData::F32(_))
        | (Precision::F16, TensorData::F16(_))
        | (Precision::BF16, TensorData::BF16(_))
        | (_, TensorData::U32(_)) => return Ok(tensor),
        (Precision::F32, TensorData::F16(data)) => HostTensor::f32(shape, mapped(data, |v| v.to_f32())),
        (Precision::F32, TensorData::BF16(data)) => HostTensor::f32(shape, mapped(data, |v| v.to_f32())),
        (Precision::F16, TensorData::F32(data)) => HostTensor::f16(shape, narrow(data, f16::from_f32)?),
        (Precision::F16, TensorData::BF16(data)) => {
            HostTensor::f16(shape, narrow(data, |v: bf16| f16::from_f32(v.to_f32()))?)
        }
        (Precision::BF16, TensorData::F32(data)) => HostTensor::bf16(shape, narrow(data, bf16::from_f32)?),
        (Precision::BF16, TensorData::F16(data)) => {
            HostTensor::bf16(shape, narrow(data, |v: f16| bf16::from_f32(v.to_f32()))?)
        }
    }
    .map_err(|e| e.to_string())
}

fn mapped<A: Copy + Sync, B: Copy + Send + Default>(data: &[A], change: fn(A) -> B) -> Vec<B> {
    let mut out = vec![B::default(); data.len()];
    out.par_chunks_mut(PIECE).zip(data.par_chunks(PIECE)).for_each(|(out, data)| {
        out.iter_mut().zip(data).for_each(|(out, &v)| *out = change(v));
    });
    out
}

/// Elements rounded to 16 bits, if all of them fit there.
fn narrow<A, B>(data: &[A], round: fn(A) -> B) -> Result<Vec<B>, String>
where
    A: Copy + Sync + Into<f32>,
    B: Copy + Send + Sync + Default + Into<f32>,
{
    let rounded = mapped(data, round);
    match first_not_finite(&rounded) {
        Some((at, _)) => {
            let value: f32 = data[at].into();
            Err(format!("element {at} is {value}, which is too large for 16 bits; hold it in f32"))
        }
        None => Ok(rounded),
    }
}

/// Adds the tensors of one file.
fn index_file(
    file: usize,
    path: &Path,
    bytes: &Mmap,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), EncoderError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| {
        if bytes.starts_with(GIT_LFS.as_bytes()) {
            return EncoderError::file(path, GIT_LFS_PROBLEM);
        }
        EncoderError::file(path, format!("not a complete safetensors file ({e}); copy it again"))
    })?;
    for (name, view) in tensors.iter() {
        // Buffers that older versions of the references saved: numbers 0, 1, 2, …, and the causal mask.
        if name.ends_with("position_ids") || name.ends_with("attn_mask") {
            continue;
        }
        // Both are in the same map.
        let begin = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        let bytes = begin..begin + view.data().len();
        let entry = Entry { file, dtype: view.dtype(), shape: view.shape().to_vec(), bytes };
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(EncoderError::file(path, format!("has tensor `{name}`, which another shard has too")));
        }
    }
    Ok(())
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, EncoderError> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| EncoderError::file(index, "has no `weight_map`"))?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let name = name.as_str().unwrap_or_default();
        // A name and nothing else: no folder, no drive, not the folder above.
        if name.is_empty() || name.contains(['/', '\\', ':']) || name.starts_with('.') {
            let problem = format!("puts tensor {tensor:?} into {name:?}, which is no file of this folder");
            return Err(EncoderError::file(index, problem));
        }
        names.insert(name);
    }
    if names.is_empty() {
        return Err(EncoderError::file(index, "names no tensors in `weight_map`"));
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}

fn map(path: &Path) -> Result<Mmap, EncoderError> {
    let file = File::open(path).map_err(|e| {
        let other = path.with_file_name("pytorch_model.bin");
        if e.kind() == std::io::ErrorKind::NotFound && other.exists() {
            return EncoderError::file(
                path,
                "is missing, and pytorch_model.bin is not read; convert it to safetensors",
            );
        }
        unreadable(path, &e)
    })?;
    // SAFETY: the map is read only and lives as long as `Checkpoint`. A file that another process truncates meanwhile
    // would end this process; checkpoints are replaced by renaming, not rewritten in place, as everywhere on the hub.
    unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, &e))
}

/// Elements must be finite: one that is not would spoil every score.
fn finite(tensor: &HostTensor) -> Result<(), String> {
    let found = match tensor.data() {
        TensorData::F32(data) => first_not_finite(data),
        TensorData::F16(data) => first_not_finite(data),
        TensorData::BF16(data) => first_not_finite(data),
        TensorData::U32(_) => None,
    };
    match found {
        Some((at, value)) => Err(format!("element {at} is {value}; the file is damaged, take another copy")),
        None => Ok(()),
    }
}

/// Its place and value.
fn first_not_finite<T: Copy + Sync + Into<f32>>(data: &[T]) -> Option<(usize, f32)> {
    let bad = |v: &T| !(*v).into().is_finite();
    // A whole piece is folded without a branch, which the compiler vectorises.
    let piece = data.par_chunks(PIECE).position_first(|piece| piece.iter().fold(false, |any, v| any | bad(v)))?;
    let at = piece * PIECE + data[piece * PIECE..].iter().position(bad)?;
    Some((at, data[at].into()))
}
