//! A folder with ImageBind's weights, read and checked.

use super::arch::ImageBindArchitecture;
use super::encoder::ImageBindEncoder;
use super::layout::{AUDIO_SCALE, MOST_SCALE, SIGN, TEXT_SCALE, architecture, is_elsewhere, source, tensors};
use super::{IMAGEBIND_LICENCE, Licence, forward};
use crate::EncoderError;
use crate::files::{is_folder, name_of, with_tokenizer_of};
use crate::tensors::{Source, Tensor};
use crate::tokenizer::{Cleaning, TextTokenizer};
use crate::weights::{Checkpoint, Precision};
use mils_graph::{Backend, HostTensor};
use std::path::{Path, PathBuf};

/// The file of the weights.
const WEIGHTS: &str = "model.safetensors";
/// Whose tokenizer.json it takes.
const TOKENIZER_OF: &str = "openai/clip-vit-base-patch32";

/// A folder with ImageBind's audio and text towers: model.safetensors with the names of the published
/// `imagebind_huge.pth` (`mils models convert` makes it) and the tokenizer.json of openai/clip-vit-base-patch32. The
/// other senses' tensors may be in it; they are not read.
///
/// The weights' terms are [`IMAGEBIND_LICENCE`].
pub struct ImageBindFiles {
    folder: PathBuf,
    arch: ImageBindArchitecture,
    tokenizer: TextTokenizer,
    weights: Vec<(String, HostTensor)>,
    scale: f32,
}

/// Whether a folder's weights are ImageBind's: [`ImageBindFiles`] opens it, and not [`ModelFiles`](crate::ModelFiles).
///
/// # Errors
/// If there are weights that are damaged.
pub fn is_imagebind(folder: &Path) -> Result<bool, EncoderError> {
    if !folder.join(WEIGHTS).exists() && !folder.join(format!("{WEIGHTS}.index.json")).exists() {
        return Ok(false);
    }
    Ok(Checkpoint::open(folder, WEIGHTS)?.shape(SIGN).is_some())
}

impl ImageBindFiles {
    /// Reads and checks everything in the folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a tensor is missing, left over, misshapen or not finite.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        Self::open_with(folder, Precision::AsStored)
    }

    /// The same, with matrices held in another precision than the file's.
    ///
    /// # Errors
    /// As [`ImageBindFiles::open`], or if an element is too large for that precision.
    pub fn open_with(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        is_folder(folder)?;
        let checkpoint = Checkpoint::open(folder, WEIGHTS)?;
        let fail = |problem: String| EncoderError::file(checkpoint.path(), problem);
        let arch = architecture(|name| checkpoint.shape(name)).map_err(fail)?;
        arch.check().map_err(fail)?;
        // The graphs are built here too, so that shapes that cannot be are known before the weights are read.
        crate::forward::text(&arch.text, arch.dim, 1, arch.text.context)
            .and_then(|_| forward::audio(&arch, 1))
            .map_err(|e| fail(format!("asks for a model that cannot be built: {e}")))?;
        // Its tokenizer is CLIP's, before which the reference cleans texts.
        let tokenizer = TextTokenizer::open(folder, &arch.text, Some(Cleaning::Spaces))
            .map_err(|e| with_tokenizer_of(e, folder, Some(TOKENIZER_OF)))?;
        let located = |tensor: Tensor| {
            let source = source(&arch, &tensor);
            (tensor, source)
        };
        let wanted: Vec<(Tensor, Source)> = tensors(&arch).into_iter().map(located).collect();
        let mut also: Vec<&str> = checkpoint.names().filter(|name| is_elsewhere(name)).collect();
        also.extend([TEXT_SCALE, AUDIO_SCALE]);
        let weights = checkpoint.read(&wanted, &also, precision)?;
        let mut scale = 1.0;
        for name in [TEXT_SCALE, AUDIO_SCALE] {
            // Too large a logarithm is held at the most too, as in the reference; one that is no number is refused.
            scale *= checkpoint.scalar(name)?.exp().min(MOST_SCALE);
        }
        Ok(Self { folder: folder.into(), arch, tokenizer, weights, scale })
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &ImageBindArchitecture {
        &self.arch
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        tensors(&self.arch).iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Terms of the published weights: not for commercial use.
    pub fn licence(&self) -> Licence {
        IMAGEBIND_LICENCE
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<ImageBindEncoder, EncoderError> {
        let name = name_of(&self.folder);
        let weights = backend.load(self.weights)?;
        Ok(ImageBindEncoder::new(name, self.arch, self.tokenizer, weights, self.scale))
    }
}
