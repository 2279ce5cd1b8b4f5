//! model.safetensors, whole or in shards: every tensor by name, checked, as f32.
#![expect(unsafe_code, reason = "memory-mapping a file")]

use crate::EncoderError;
use crate::config::read_json;
use crate::files::{GIT_LFS, GIT_LFS_PROBLEM, unreadable};
use half::{bf16, f16};
use memmap2::Mmap;
use mils_graph::HostTensor;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The files of a checkpoint, memory-mapped.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(crate) fn open(folder: &Path) -> Result<Self, EncoderError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let paths = if !single.exists() && index.exists() { shards(folder, &index)? } else { vec![single] };
        let files = paths.into_iter().map(|path| map(&path).map(|m| (path, m))).collect::<Result<_, _>>()?;
        Ok(Self { folder: folder.into(), files })
    }

    /// For messages: the file, or the folder of several.
    pub(crate) fn path(&self) -> &Path {
        if let [(path, _)] = &self.files[..] { path } else { &self.folder }
    }

    /// Takes the tensors that `wanted` lists, by name and shape.
    pub(crate) fn read(&self, wanted: &[(String, Vec<usize>)]) -> Result<Vec<(String, HostTensor)>, EncoderError> {
        let shapes: BTreeMap<&str, &[usize]> = wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
        let mut found: BTreeMap<String, HostTensor> = BTreeMap::new();
        let mut strangers: Vec<(PathBuf, String)> = Vec::new();
        for (path, bytes) in &self.files {
            let tensors = SafeTensors::deserialize(bytes).map_err(|e| {
                if bytes.starts_with(GIT_LFS.as_bytes()) {
                    return EncoderError::file(path, GIT_LFS_PROBLEM);
                }
                EncoderError::file(path, format!("not a complete safetensors file ({e}); copy it again"))
            })?;
            for (name, view) in tensors.iter() {
                // Buffers that older versions of transformers saved; they hold 0, 1, 2, …
                if name.ends_with("position_ids") {
                    continue;
                }
                let Some(&expected) = shapes.get(name) else {
                    strangers.push((path.clone(), name.to_owned()));
                    continue;
                };
                if view.shape() != expected {
                    return Err(EncoderError::TensorShape {
                        path: path.clone(),
                        name: name.to_owned(),
                        expected: expected.to_vec(),
                        found: view.shape().to_vec(),
                    });
                }
                let data = to_f32(view.dtype(), view.data())
                    .map_err(|problem| EncoderError::file(path, format!("tensor `{name}`: {problem}")))?;
                if found.insert(name.to_owned(), HostTensor::f32(expected, data)?).is_some() {
                    return Err(EncoderError::file(path, format!("has tensor `{name}`, which another shard has too")));
                }
            }
        }
        strangers.sort();
        if let Some((path, name)) = strangers.first().cloned() {
            return Err(EncoderError::LeftOver { path, name, count: strangers.len() });
        }
        let take = |(name, shape): &(String, Vec<usize>)| {
            let tensor = found.remove(name).ok_or_else(|| EncoderError::MissingTensor {
                path: self.path().into(),
                name: name.clone(),
                expected: shape.clone(),
            })?;
            Ok((name.clone(), tensor))
        };
        wanted.iter().map(take).collect()
    }
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

/// The elements, which must be finite: one that is not would spoil every score.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let halves = |f: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|&b| f(b)).collect();
    let data: Vec<f32> = match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => halves(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => halves(|b| bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("type {other:?} is not supported (F32, F16 and BF16 are)")),
    };
    match data.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("element {at} is {}; the file is damaged, take another copy", data[at])),
        None => Ok(data),
    }
}
