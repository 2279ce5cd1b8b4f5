//! A CLAP's checkpoint folder, read and checked.

use super::arch::SoundArchitecture;
use super::config::describe;
use super::encoder::ClapEncoder;
use super::features::SoundFeatures;
use super::spectra::Spectra;
use super::{forward, tensors};
use crate::EncoderError;
use crate::files::{is_folder, name_of};
use crate::layout::read_json;
use crate::tokenizer::{Reading, TextTokenizer};
use crate::weights::{Checkpoint, Precision};
use mils_graph::{Backend, HostTensor};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The checkpoint folder of a model with an audio and a text tower, as the hub ships it: transformers' `ClapModel`, with
/// config.json, preprocessor_config.json (or processor_config.json with a `feature_extractor`), tokenizer.json, and
/// model.safetensors or its shards.
pub struct ClapFiles {
    folder: PathBuf,
    arch: SoundArchitecture,
    features: SoundFeatures,
    spectra: Spectra,
    tokenizer: TextTokenizer,
    weights: Vec<(String, HostTensor)>,
    scales: [f32; 2],
}

/// Whether a folder holds an encoder of sounds, by its config.json: [`ClapFiles`] opens it, and not
/// [`ModelFiles`](crate::ModelFiles).
///
/// # Errors
/// If there is a config.json that cannot be read or is not JSON.
pub fn hears_sounds(folder: &Path) -> Result<bool, EncoderError> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(false);
    }
    Ok(read_json(&path)?.get("model_type").and_then(Value::as_str) == Some("clap"))
}

impl ClapFiles {
    /// Reads and checks everything in the folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, the files do not fit together, or a tensor is missing, left over, misshapen or
    /// not finite.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        Self::open_with(folder, Precision::AsStored)
    }

    /// The same, with matrices held in another precision than the file's.
    ///
    /// # Errors
    /// As [`ClapFiles::open`], or if an element is too large for that precision.
    pub fn open_with(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        is_folder(folder)?;
        let config = folder.join("config.json");
        if !hears_sounds(folder)? {
            return Err(EncoderError::file(config, "is missing or not a CLAP's (its model_type is `clap`)"));
        }
        let (arch, features) = describe(folder)?;
        // The graphs are built here too, so that shapes that cannot be are known before the weights are read.
        forward::text(&arch, 1, arch.text.context())
            .and_then(|_| forward::audio(&arch, 1, arch.audio.fusion.is_some()))
            .map_err(|e| EncoderError::file(&config, format!("asks for a model that cannot be built: {e}")))?;
        let tokenizer = TextTokenizer::open_as(folder, Reading::roberta(&arch.text), None)?;
        let checkpoint = Checkpoint::open(folder, "model.safetensors")?;
        let (weights, normalisation) = tensors::read(&arch, &checkpoint, precision)?;
        let scale = |name: &str| {
            let scale = checkpoint.scalar(name)?.exp();
            let problem = || format!("`{name}` is too large for a logarithm of a factor; the file is damaged");
            if scale.is_finite() { Ok(scale) } else { Err(EncoderError::file(checkpoint.path(), problem())) }
        };
        let scales = [scale("logit_scale_a")?, scale("logit_scale_t")?];
        let spectra = Spectra::new(&arch.audio, normalisation);
        Ok(Self { folder: folder.into(), arch, features, spectra, tokenizer, weights, scales })
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &SoundArchitecture {
        &self.arch
    }

    /// The steps from a sound to the model's input.
    pub fn features(&self) -> &SoundFeatures {
        &self.features
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        tensors::parameters(&self.arch)
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<ClapEncoder, EncoderError> {
        let name = name_of(&self.folder);
        let weights = backend.load(self.weights)?;
        Ok(ClapEncoder::new(name, self.arch, self.features, self.spectra, self.tokenizer, weights, self.scales))
    }
}
