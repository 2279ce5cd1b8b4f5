//! A checkpoint folder, read and checked.

use crate::clip;
use crate::config::{ClipConfig, read_preprocess};
use crate::encoder::ClipEncoder;
use crate::error::EncoderError;
use crate::tokenizer::TextTokenizer;
use crate::weights::Checkpoint;
use mils_graph::{Backend, HostTensor};
use mils_media::Preprocess;
use std::path::{Path, PathBuf};

/// A CLIP checkpoint in Hugging Face layout: config.json, preprocessor_config.json, tokenizer.json, and
/// model.safetensors or its shards.
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
    /// If a file is missing or damaged, or a tensor is missing, left over or misshapen.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        if !folder.is_dir() {
            return Err(EncoderError::file(folder, "is not a folder; name a CLIP checkpoint folder"));
        }
        let config = ClipConfig::read(&folder.join("config.json"))?;
        let preprocess_path = folder.join("preprocessor_config.json");
        let preprocess = read_preprocess(&preprocess_path)?;
        check_size(&config, &preprocess).map_err(|p| EncoderError::file(&preprocess_path, p))?;
        let (most, vocab) = (config.text.max_positions, config.text.vocab_size);
        let tokenizer = TextTokenizer::open(&folder.join("tokenizer.json"), most, vocab)?;
        let mut weights = Checkpoint::open(folder)?.read(&clip::tensors(&config))?;
        // `tensors` lists the scale first.
        let (_, scale) = weights.remove(0);
        let scale = scale.as_f32().and_then(|s| s.first().copied()).unwrap_or_default();
        for (name, tensor) in &mut weights {
            if name.ends_with("patch_embedding.weight") {
                let rows = tensor.shape()[0];
                let data = std::mem::replace(tensor, HostTensor::f32(&[0], vec![])?).into_f32().unwrap_or_default();
                let columns = data.len() / rows;
                *tensor = HostTensor::f32(&[rows, columns], data)?;
            }
        }
        Ok(Self { folder: folder.into(), config, preprocess, tokenizer, weights, logit_scale: scale.exp() })
    }

    /// Its configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weights.iter().filter_map(|(_, t)| t.as_f32()).map(<[f32]>::len).sum()
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<ClipEncoder, EncoderError> {
        let name = self.folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
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
