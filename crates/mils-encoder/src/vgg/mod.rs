//! VGG's convolutions and what Gatys et al. read in them (arXiv 1508.06576): the style of a picture, which is the Gram
//! matrices of its first five convolutions, and its content, which is what the fourth gives. No text is involved.
//!
//! Layers, sizes and losses are those of the reference of arXiv 2501.18096, which follows PyTorch's tutorial of style
//! transfer: convolutions before their ReLU, pictures of 256 x 256 pixels, means of squared differences.

mod files;
mod forward;
mod layout;

pub use files::VggFiles;
pub use layout::{Convolution, VggArchitecture};

use crate::EncoderError;
use crate::programs::Programs;

use mils_graph::{HostTensor, WeightSet};
use mils_media::{Crop, CropRounding, Preprocess, Resample, Resize, RgbImage};

/// Side of the pictures that are compared, in pixels.
const SIDE: usize = 256;
/// Convolutions that are read for style, by number from 1.
pub(crate) const STYLE: [usize; 5] = [1, 2, 3, 4, 5];
/// The one that is read for content.
pub(crate) const CONTENT: usize = 4;

/// VGG on a device.
pub struct Vgg {
    name: String,
    arch: VggArchitecture,
    programs: Programs<()>,
    preprocess: Preprocess,
}

/// What was read in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct StyleFeatures {
    /// Gram matrices, [C, C] each, divided by C·H·W.
    grams: Vec<Vec<f32>>,
    /// [H, W, C]
    content: Vec<f32>,
}

/// The mean of squared differences, as `torch.nn.functional.mse_loss`.
fn mean_square(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    sum / a.len().max(1) as f64
}

impl StyleFeatures {
    /// Gram matrices of the first five convolutions, [C, C] each, divided by C·H·W.
    pub fn grams(&self) -> &[Vec<f32>] {
        &self.grams
    }

    /// The fourth convolution, [H, W, C].
    pub fn content(&self) -> &[f32] {
        &self.content
    }

    /// How far its style is from another picture's: the sum over layers of the mean squared differences of Gram
    /// matrices. At least 0; both must be of one [`Vgg`].
    pub fn style_loss(&self, target: &Self) -> f64 {
        self.grams.iter().zip(&target.grams).map(|(a, b)| mean_square(a, b)).sum()
    }

    /// How far its content is from another picture's: the mean squared difference. At least 0; both must be of one
    /// [`Vgg`].
    pub fn content_loss(&self, target: &Self) -> f64 {
        mean_square(&self.content, &target.content)
    }
}

impl Vgg {
    fn new(name: String, arch: VggArchitecture, weights: Box<dyn WeightSet>) -> Self {
        let side = SIDE as u32;
        let preprocess = Preprocess {
            resize: Some(Resize::ShortestEdge(side)),
            resample: Resample::Bilinear,
            crop: Some(Crop { height: side, width: side, rounding: CropRounding::HalfEven }),
            rescale: Some(1.0 / 255.0),
            normalize: Some(([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
        };
        Self { name, arch, programs: Programs::new(weights), preprocess }
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reads in a picture, of whatever size: the shorter side becomes 256 pixels, and the middle is taken.
    ///
    /// # Errors
    /// If the picture cannot be brought to that size, or the device fails.
    pub fn features(&mut self, picture: &RgbImage) -> Result<StyleFeatures, EncoderError> {
        let pixels = self.preprocess.apply(picture)?.data;
        // Channels last.
        let plane = SIDE * SIDE;
        let data = (0..plane).flat_map(|i| [pixels[i], pixels[plane + i], pixels[2 * plane + i]]).collect();
        let input = HostTensor::f32(&[1, SIDE, SIDE, 3], data)?;
        let Self { programs, arch, name, .. } = self;
        let graph = || forward::features(arch, SIDE);
        let mut outputs = programs.run_all((), graph, &[input], (name, "image"))?;
        let content = outputs.pop().unwrap_or_default();
        Ok(StyleFeatures { grams: outputs, content })
    }
}
