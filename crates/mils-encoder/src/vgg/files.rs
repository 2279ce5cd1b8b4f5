//! A folder with VGG's weights, read and checked.

use super::{Vgg, VggArchitecture, forward, layout};
use crate::EncoderError;
use crate::files::{is_folder, name_of};
use crate::weights::{Checkpoint, Precision};
use mils_graph::{Backend, HostTensor};
use std::path::{Path, PathBuf};

/// The file of the weights.
const WEIGHTS: &str = "model.safetensors";

/// A folder with a VGG: model.safetensors with torchvision's names, as timm/vgg19.tv_in1k has them and `mils models
/// convert` makes them of torchvision's own file. Its classifier and later convolutions may be in it; they are not read.
pub struct VggFiles {
    folder: PathBuf,
    arch: VggArchitecture,
    weights: Vec<(String, HostTensor)>,
}

impl VggFiles {
    /// Reads and checks everything in the folder.
    ///
    /// # Errors
    /// If the weights are missing or damaged, or a tensor is missing, misshapen or not finite.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        Self::open_with(folder, Precision::AsStored)
    }

    /// The same, with matrices held in another precision than the file's.
    ///
    /// # Errors
    /// As [`VggFiles::open`], or if an element is too large for that precision.
    pub fn open_with(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        is_folder(folder)?;
        let checkpoint = Checkpoint::open(folder, WEIGHTS)?;
        let fail = |problem: String| EncoderError::file(checkpoint.path(), problem);
        let arch = layout::architecture(checkpoint.names(), |name| checkpoint.shape(name)).map_err(fail)?;
        // So that shapes that cannot be are known before the weights are read.
        forward::features(&arch, super::SIDE)
            .map_err(|e| fail(format!("asks for a model that cannot be built: {e}")))?;
        let wanted = layout::tensors(&arch);
        let also: Vec<&str> = checkpoint.names().collect();
        let weights = checkpoint.read(&wanted, &also, precision)?;
        Ok(Self { folder: folder.into(), arch, weights })
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &VggArchitecture {
        &self.arch
    }

    /// Puts the weights on a backend.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn load(self, backend: &dyn Backend) -> Result<Vgg, EncoderError> {
        let name = name_of(&self.folder);
        Ok(Vgg::new(name, self.arch, backend.load(self.weights)?))
    }
}
