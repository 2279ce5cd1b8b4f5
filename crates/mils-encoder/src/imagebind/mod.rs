//! ImageBind (arXiv 2305.05665): its audio and text towers, from the tensors of the published `imagebind_huge.pth`.
//!
//! **The published weights are licensed CC BY-NC 4.0: not for commercial use.** Nothing here downloads them; a command
//! that uses them asks first ([`IMAGEBIND_LICENCE`]).
//!
//! References: `imagebind/models/imagebind_model.py`, `multimodal_preprocessors.py`, `transformer.py` and
//! `imagebind/data.py` of facebookresearch/ImageBind; `torchaudio.compliance.kaldi.fbank`; `ConstantClipsPerVideoSampler`
//! of pytorchvideo.

mod arch;
mod clips;
mod encoder;
mod fbank;
mod files;
mod forward;
mod layout;

pub use arch::{AudioTower, ImageBindArchitecture};
pub use encoder::ImageBindEncoder;
pub use fbank::kaldi_fbank;
pub use files::{ImageBindFiles, is_imagebind};

/// Terms of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Licence {
    /// By its SPDX identifier.
    pub spdx: &'static str,
    /// Where it can be read.
    pub url: &'static str,
    /// Whether the weights may be used commercially.
    pub commercial_use: bool,
}

/// For people: what it is called, what it forbids, and where it can be read.
impl std::fmt::Display for Licence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let forbids = if self.commercial_use { "" } else { ", not for commercial use" };
        write!(f, "{}{forbids} ({})", self.spdx, self.url)
    }
}

/// Terms of ImageBind's published weights.
pub const IMAGEBIND_LICENCE: Licence =
    Licence { spdx: "CC-BY-NC-4.0", url: "https://creativecommons.org/licenses/by-nc/4.0/", commercial_use: false };
