//! The layouts of checkpoints: which files there are, how their configuration is read, what their tensors are called.

mod fields;
mod hugging_face;
mod open_clip;
mod processor;
mod viclip;

pub(crate) use fields::{Fields, activation, as_count, read_json};

use crate::EncoderError;
use crate::arch::{Architecture, ImageSize};
use crate::tensors::{Source, Tensor};
use crate::tokenizer::Cleaning;
use mils_media::{Preprocess, Resize};
use std::path::{Path, PathBuf};

/// How tensors are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// `CLIPModel`, `SiglipModel`, `Siglip2Model` of transformers.
    HuggingFace,
    /// open_clip; its image tower may be one of timm's.
    OpenClip(open_clip::Head),
    /// ViCLIP's own: its published file.
    ViClip,
}

/// The tensor that says how large scores are, and what is made of it.
#[derive(Clone, Copy)]
pub(crate) struct ScaleName {
    pub(crate) name: &'static str,
    pub(crate) read: fn(f32) -> f32,
}

/// A checkpoint's configuration, whatever its layout.
pub(crate) struct Description {
    pub(crate) arch: Architecture,
    pub(crate) preprocess: Preprocess,
    pub(crate) names: Names,
    /// The configuration, for messages.
    pub(crate) config: PathBuf,
    /// The name of the weights' file; of shards, with `.index.json` behind it.
    pub(crate) weights: &'static str,
    /// What is done to a text before it is tokenised, beside what tokenizer.json says.
    pub(crate) cleaning: Option<Cleaning>,
}

impl Names {
    /// Where a tensor is. `custom`: whether an open_clip checkpoint has its text tower under `text.`.
    pub(crate) fn source(self, arch: &Architecture, tensor: &Tensor, custom: bool) -> Source {
        match self {
            Self::HuggingFace => hugging_face::source(arch, tensor),
            Self::OpenClip(head) => open_clip::source(arch, tensor, head, custom),
            Self::ViClip => viclip::source(arch, tensor),
        }
    }

    /// The number by which cosines are multiplied.
    pub(crate) fn scale(self) -> ScaleName {
        match self {
            Self::HuggingFace | Self::OpenClip(_) => ScaleName { name: "logit_scale", read: f32::exp },
            // A temperature, by which they are divided.
            Self::ViClip => ScaleName { name: "temp", read: f32::recip },
        }
    }

    /// Where tokenizer.json is found if the checkpoint's own repository has none.
    pub(crate) fn tokenizer_of(self) -> Option<&'static str> {
        match self {
            Self::HuggingFace | Self::OpenClip(_) => None,
            Self::ViClip => Some("openai/clip-vit-large-patch14"),
        }
    }
}

/// Reads what is in a folder, by its files.
///
/// # Errors
/// If it has no configuration that is known, or one that is damaged or asks for what cannot be.
pub(crate) fn describe(folder: &Path) -> Result<Description, EncoderError> {
    let there = |name: &str| folder.join(name).exists();
    let (hf, open) = (folder.join("config.json"), folder.join("open_clip_config.json"));
    let weights = |name: &str| there(name) || there(&format!("{name}.index.json"));
    // A file that was converted has no configuration at all; the hub's copy of it has one that only its code reads.
    if !open.exists()
        && !hugging_face::reads(&hf)?
        && let Some(described) = viclip::describe(folder)?
    {
        described.arch.check().map_err(|problem| EncoderError::file(&described.config, problem))?;
        return Ok(described);
    }
    // Some repositories have both configurations: then the one whose weights are there.
    let only_open = open.exists() && (!hf.exists() || !weights(hugging_face::WEIGHTS) && weights(open_clip::WEIGHTS));
    let described = if only_open { open_clip::describe(folder, &open)? } else { hugging_face::describe(folder, &hf)? };
    described.arch.check().map_err(|problem| EncoderError::file(&described.config, problem))?;
    Ok(described)
}

/// The processor must give what the model takes.
fn check_size(arch: &Architecture, preprocess: &Preprocess) -> Result<(), String> {
    let ImageSize::Fixed { height, width } = arch.image.size else { return Ok(()) };
    let made = match (preprocess.crop, preprocess.resize) {
        (Some(crop), _) => Some((crop.height, crop.width)),
        (None, Some(Resize::Exact { height, width })) => Some((height, width)),
        (None, _) => None,
    };
    match made {
        Some((h, w)) if (h as usize, w as usize) == (height, width) => Ok(()),
        Some((h, w)) => Err(format!("makes images of {h}x{w}, but the model wants {height}x{width}")),
        None => Err(format!("does not bring images to one size; the model wants {height}x{width}")),
    }
}
