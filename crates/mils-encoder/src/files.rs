//! A checkpoint folder, read and checked.

use crate::clip;
use crate::config::{ClipConfig, read_preprocess};
use crate::encoder::ClipEncoder;
use crate::error::EncoderError;
use crate::tokenizer::TextTokenizer;
use crate::weights::Checkpoint;
use mils_graph::{Backend, HostTensor};
use mils_media::Preprocess;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How the text begins that Git LFS leaves where a file was not fetched.
pub(crate) const GIT_LFS: &str = "version https://git-lfs";
/// What to do about it.
pub(crate) const GIT_LFS_PROBLEM: &str = "is a Git LFS pointer in place of the file; run `git lfs pull` in its folder";

/// A text file of the checkpoint.
pub(crate) fn read_text(path: &Path) -> Result<String, EncoderError> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    if text.starts_with(GIT_LFS) { Err(EncoderError::file(path, GIT_LFS_PROBLEM)) } else { Ok(text) }
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> EncoderError {
    match error.kind() {
        ErrorKind::NotFound => EncoderError::file(path, "is missing; a CLIP checkpoint folder has it"),
        _ => EncoderError::file(path, format!("cannot be read: {error}")),
    }
}

/// A CLIP checkpoint in Hugging Face layout: config.json, preprocessor_config.json (or processor_config.json with an
/// `image_processor`), tokenizer.json, and model.safetensors or its shards.
pub struct ClipFiles {
    folder: PathBuf,
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: TextTokenizer,
    weights: Vec<(String, HostTensor)>,
    logit_scale: f32,
}

impl ClipFiles {
    /// Reads and checks everything in the folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, the files do not fit together, or a tensor is missing, left over, misshapen or
    /// not finite.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        if !folder.is_dir() {
            return Err(EncoderError::file(folder, "is not a folder; name a CLIP checkpoint folder"));
        }
        let config_path = folder.join("config.json");
        let config = ClipConfig::read(&config_path)?;
        // The graphs are built here too, so that shapes that cannot be are known before the weights are read.
        clip::text(&config.text, config.projection_dim, 1, config.text.max_positions)
            .and_then(|_| clip::vision(&config.vision, config.projection_dim, 1))
            .map_err(|e| EncoderError::file(&config_path, format!("asks for a model that cannot be built: {e}")))?;
        let (preprocess_path, preprocess) = read_preprocess(folder)?;
        check_size(&config, &preprocess).map_err(|p| EncoderError::file(&preprocess_path, p))?;
        let tokenizer = TextTokenizer::open(&folder.join("tokenizer.json"), &config.text)?;
        let checkpoint = Checkpoint::open(folder)?;
        let mut weights = checkpoint.read(&clip::tensors(&config))?;
        // `tensors` lists the scale first, and `read` keeps the order.
        let (_, scale) = weights.remove(0);
        let logit_scale = scale.as_f32().and_then(|s| s.first()).map_or(f32::NAN, |s| s.exp());
        if !logit_scale.is_finite() {
            let problem = "`logit_scale` is too large for a logarithm of a factor; the file is damaged";
            return Err(EncoderError::file(checkpoint.path(), problem));
        }
        for (name, tensor) in &mut weights {
            if name.ends_with("patch_embedding.weight") {
                let rows = tensor.shape()[0];
                let data = std::mem::replace(tensor, HostTensor::f32(&[0], vec![])?).into_f32().unwrap_or_default();
                let columns = data.len() / rows;
                *tensor = HostTensor::f32(&[rows, columns], data)?;
            }
        }
        Ok(Self { folder: folder.into(), config, preprocess, tokenizer, weights, logit_scale })
    }

    /// Its configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Number of weights: all elements of all tensors but `logit_scale`.
    pub fn parameters(&self) -> usize {
        self.weights.iter().filter_map(|(_, t)| t.as_f32()).map(<[f32]>::len).sum()
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<ClipEncoder, EncoderError> {
        // A folder given as `.` has no name of its own.
        let folder = self.folder.canonicalize().unwrap_or(self.folder);
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let weights = backend.load(self.weights)?;
        Ok(ClipEncoder::new(name, self.config, self.preprocess, self.tokenizer, weights, self.logit_scale))
    }
}

/// The processor must give what the model takes.
fn check_size(config: &ClipConfig, preprocess: &Preprocess) -> Result<(), String> {
    use mils_media::Resize;
    let made = match (preprocess.crop, preprocess.resize) {
        (Some(crop), _) => Some((crop.height, crop.width)),
        (None, Some(Resize::Exact { height, width })) => Some((height, width)),
        (None, _) => None,
    };
    let size = config.vision.image_size;
    match made {
        Some((h, w)) if (h as usize, w as usize) == (size, size) => Ok(()),
        Some((h, w)) => Err(format!("makes images of {h}x{w}, but config.json wants {size}x{size}")),
        None => Err(format!("does not bring images to one size; config.json wants {size}x{size}")),
    }
}

#[cfg(test)]
mod tests;
