//! A checkpoint folder, read and checked.

use crate::arch::{Architecture, Calibration, ImageSize};
use crate::encoder::Encoder;
use crate::error::EncoderError;
use crate::forward;
use crate::layout::{Description, ScaleName, describe};
use crate::positions::{self, PositionGrid};
use crate::tensors::{Source, Tensor, made, tensors};
use crate::tokenizer::TextTokenizer;
use crate::weights::{Checkpoint, Precision};
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
        ErrorKind::NotFound => EncoderError::file(path, "is missing; a checkpoint folder has it"),
        _ => EncoderError::file(path, format!("cannot be read: {error}")),
    }
}

/// A checkpoint is a folder.
///
/// # Errors
/// If this is none.
pub(crate) fn is_folder(folder: &Path) -> Result<(), EncoderError> {
    match folder.is_dir() {
        true => Ok(()),
        false => Err(EncoderError::file(folder, "is not a folder; name a checkpoint folder")),
    }
}

/// What a model in a folder is called. A folder given as `.` has no name of its own.
pub(crate) fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize();
    let name = whole.as_deref().unwrap_or(folder).file_name();
    name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a model makes of a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scores {
    pub(crate) calibration: Calibration,
    /// Factor of the cosine.
    pub(crate) scale: f32,
    /// Added to it.
    pub(crate) bias: f32,
}

/// A checkpoint folder of a model with an image and a text tower, as the hub ships it. What it is, is told by its files:
///
/// - transformers' `CLIPModel`, `SiglipModel` or `Siglip2Model`: config.json, preprocessor_config.json (or
///   processor_config.json with an `image_processor`), tokenizer.json, and model.safetensors or its shards;
/// - open_clip: open_clip_config.json, tokenizer.json and open_clip_model.safetensors;
/// - ViCLIP: model.safetensors with the names of the published file (`mils models convert` makes it), and the
///   tokenizer.json of openai/clip-vit-large-patch14. A config.json beside them is not read.
pub struct ModelFiles {
    folder: PathBuf,
    arch: Architecture,
    preprocess: Preprocess,
    tokenizer: TextTokenizer,
    weights: Vec<(String, HostTensor)>,
    positions: Option<PositionGrid>,
    scores: Scores,
}

impl ModelFiles {
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
    /// As [`ModelFiles::open`], or if an element is too large for that precision.
    pub fn open_with(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        is_folder(folder)?;
        let Description { arch, preprocess, names, config, weights: file, cleaning } = describe(folder)?;
        // The graphs are built here too, so that shapes that cannot be are known before the weights are read.
        forward::text(&arch.text, arch.dim, 1, arch.text.context)
            .and_then(|_| forward::image(&arch, 1, arch.image.most_tokens()))
            .map_err(|e| EncoderError::file(&config, format!("asks for a model that cannot be built: {e}")))?;
        let tokenizer = TextTokenizer::open(folder, &arch.text, cleaning)
            .map_err(|e| with_tokenizer_of(e, folder, names.tokenizer_of()))?;
        let checkpoint = Checkpoint::open(folder, file)?;
        let custom = checkpoint.shape("text.positional_embedding").is_some();
        let located = |tensor: Tensor| {
            let source = names.source(&arch, &tensor, custom);
            (tensor, source)
        };
        let wanted: Vec<(Tensor, Source)> = tensors(&arch).into_iter().map(located).collect();
        let mut also = vec![names.scale().name];
        also.extend((arch.calibration == Calibration::Sigmoid).then_some("logit_bias"));
        let mut weights = checkpoint.read(&wanted, &also, precision)?;
        let scores = scores(&checkpoint, names.scale(), arch.calibration)?;
        weights.extend(made(&arch));
        if arch.image.frames > 1 {
            positions::spread_over_frames(&mut weights, &arch.image);
        }
        let positions = match arch.image.size {
            ImageSize::Fixed { .. } => None,
            ImageSize::Flexible { grid, .. } => PositionGrid::take(&mut weights, grid),
        };
        Ok(Self { folder: folder.into(), arch, preprocess, tokenizer, weights, positions, scores })
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &Architecture {
        &self.arch
    }

    /// The steps from a picture to the model's input.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        tensors(&self.arch).iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<Encoder, EncoderError> {
        let name = name_of(&self.folder);
        let weights = backend.load(self.weights)?;
        Ok(Encoder::new(name, self.arch, self.preprocess, self.tokenizer, weights, self.positions, self.scores))
    }
}

/// Says where a tokenizer is found that is missing because the model was published without one.
pub(crate) fn with_tokenizer_of(error: EncoderError, folder: &Path, model: Option<&str>) -> EncoderError {
    let path = folder.join("tokenizer.json");
    match model {
        Some(model) if !path.exists() => {
            EncoderError::file(path, format!("is missing; copy that of {model}, whose tokenizer this model has"))
        }
        _ => error,
    }
}

/// The model's scale and bias of cosines.
fn scores(checkpoint: &Checkpoint, from: ScaleName, calibration: Calibration) -> Result<Scores, EncoderError> {
    let scale = (from.read)(checkpoint.scalar(from.name)?);
    if !scale.is_finite() {
        let problem = format!("`{}` says no factor that is finite; the file is damaged", from.name);
        return Err(EncoderError::file(checkpoint.path(), problem));
    }
    let bias = if calibration == Calibration::Sigmoid { checkpoint.scalar("logit_bias")? } else { 0.0 };
    Ok(Scores { calibration, scale, bias })
}

#[cfg(test)]
mod tests;
