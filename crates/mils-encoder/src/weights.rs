//! The weights' file, whole or in shards: every tensor by name, checked.
#![expect(unsafe_code, reason = "memory-mapping a file")]

use crate::EncoderError;
use crate::files::{GIT_LFS, GIT_LFS_PROBLEM, unreadable};
use crate::layout::read_json;
use crate::tensors::{Role, Source, Tensor, View};
use half::{bf16, f16};
use memmap2::Mmap;
use mils_graph::HostTensor;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

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
    bytes: std::ops::Range<usize>,
}

/// The files of a checkpoint, memory-mapped, and the tensors in them.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens the file of this name, or the shards that its index names.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self, EncoderError> {
        let (single, index) = (folder.join(name), folder.join(format!("{name}.index.json")));
        let paths = if !single.exists() && index.exists() { shards(folder, &index)? } else { vec![single] };
        let files: Vec<(PathBuf, Mmap)> =
            paths.into_iter().map(|path| map(&path).map(|m| (path, m))).collect::<Result<_, _>>()?;
        let mut entries = BTreeMap::new();
        for (i, (path, bytes)) in files.iter().enumerate() {
            index_file(i, path, bytes, &mut entries)?;
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
        let mut bytes = &bytes[entry.bytes.clone()];
        if let View::Part { part, of } = source.view {
            let one = bytes.len() / of;
            bytes = &bytes[part * one..(part + 1) * one];
        }
        let fail = |problem: String| EncoderError::file(path, format!("tensor `{}`: {problem}", source.name));
        let order = match (source.view, &entry.shape[..]) {
            (View::Transposed, &[rows, columns]) => Some([rows, columns]),
            _ => None,
        };
        Ok(match (precision, entry.dtype) {
            (Precision::AsStored | Precision::F16, Dtype::F16) => {
                HostTensor::f16(shape, ordered(halves(bytes, f16::from_le_bytes).map_err(fail)?, order))?
            }
            (Precision::AsStored | Precision::BF16, Dtype::BF16) => {
                HostTensor::bf16(shape, ordered(halves(bytes, bf16::from_le_bytes).map_err(fail)?, order))?
            }
            (Precision::F16, dtype) => {
                let rounded = narrow(&to_f32(dtype, bytes).map_err(fail)?, f16::from_f32).map_err(fail)?;
                HostTensor::f16(shape, ordered(rounded, order))?
            }
            (Precision::BF16, dtype) => {
                let rounded = narrow(&to_f32(dtype, bytes).map_err(fail)?, bf16::from_f32).map_err(fail)?;
                HostTensor::bf16(shape, ordered(rounded, order))?
            }
            (_, dtype) => HostTensor::f32(shape, ordered(to_f32(dtype, bytes).map_err(fail)?, order))?,
        })
    }
}

/// The elements of a matrix of these rows and columns, column by column; or as they are.
fn ordered<T: Copy>(data: Vec<T>, transposed: Option<[usize; 2]>) -> Vec<T> {
    let Some([rows, columns]) = transposed else { return data };
    (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| data[i]).collect()
}

/// 16-bit elements as they are.
fn halves<T: Copy + Into<f32>>(bytes: &[u8], read: fn([u8; 2]) -> T) -> Result<Vec<T>, String> {
    let data: Vec<T> = bytes.as_chunks::<2>().0.iter().map(|&b| read(b)).collect();
    finite(&data).map(|()| data)
}

/// Elements rounded to 16 bits, if all of them fit there.
fn narrow<T: Copy + Into<f32>>(data: &[f32], round: fn(f32) -> T) -> Result<Vec<T>, String> {
    let rounded: Vec<T> = data.iter().map(|&v| round(v)).collect();
    match rounded.iter().position(|&v| !v.into().is_finite()) {
        Some(at) => Err(format!("element {at} is {}, which is too large for 16 bits; hold it in f32", data[at])),
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
fn finite<T: Copy + Into<f32>>(data: &[T]) -> Result<(), String> {
    match data.iter().position(|&v| !v.into().is_finite()) {
        Some(at) => Err(format!("element {at} is {}; the file is damaged, take another copy", data[at].into())),
        None => Ok(()),
    }
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let wide = |f: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|&b| f(b)).collect();
    let data: Vec<f32> = match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => wide(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => wide(|b| bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("type {other:?} is not supported (F32, F16 and BF16 are)")),
    };
    finite(&data).map(|()| data)
}
