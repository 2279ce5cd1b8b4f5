//! The steps between a decoded image and an encoder's input, as `transformers`' image processors take them: resize,
//! centre crop, rescale, normalise.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use std::borrow::Cow;

/// Resampling filters, as Pillow has them; all but `Nearest` with antialiasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resample {
    /// Pillow's 0.
    Nearest,
    /// Pillow's 1.
    Lanczos,
    /// Pillow's 2.
    Bilinear,
    /// Pillow's 3: the cubic with a = -0.5.
    Bicubic,
    /// Pillow's 4.
    Box,
    /// Pillow's 5.
    Hamming,
}

impl Resample {
    /// By the number in `preprocessor_config.json`, 0 to 5.
    pub fn from_pillow(number: u64) -> Option<Self> {
        use Resample::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming].get(usize::try_from(number).ok()?).copied()
    }

    fn algorithm(self) -> ResizeAlg {
        ResizeAlg::Convolution(match self {
            Self::Nearest => return ResizeAlg::Nearest,
            Self::Lanczos => FilterType::Lanczos3,
            Self::Bilinear => FilterType::Bilinear,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Box => FilterType::Box,
            Self::Hamming => FilterType::Hamming,
        })
    }
}

/// The size to resize to, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// This size, whatever the aspect.
    Exact {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// The shorter side becomes this, the longer follows, rounded down.
    ShortestEdge(u32),
}

/// A crop around the centre, in pixels; where the image is smaller, zeros are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// The steps, each left out where it is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Resizing.
    pub resize: Option<Resize>,
    /// Its filter.
    pub resample: Resample,
    /// Cropping.
    pub crop: Option<Crop>,
    /// Factor for the 8-bit values, usually 1/255.
    pub rescale: Option<f32>,
    /// Mean and standard deviation of each channel, after `rescale`. A deviation of 0 gives infinities.
    pub normalize: Option<([f32; 3], [f32; 3])>,
}

/// Model input of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// [3, height, width], row-major
    pub data: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Why an image cannot be brought to the wanted size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// The image has no rows or no columns.
    #[error("a picture of {width}x{height} pixels has nothing to see; expected at least 1x1")]
    Empty {
        /// Its columns.
        width: u32,
        /// Its rows.
        height: u32,
    },
    /// It cannot be resized.
    #[error("cannot resize {from_width}x{from_height} to {width}x{height}: {problem}")]
    Resize {
        /// Columns before.
        from_width: u32,
        /// Rows before.
        from_height: u32,
        /// Columns after.
        width: u64,
        /// Rows after.
        height: u64,
        /// Why, and what to do.
        problem: String,
    },
    /// The crop is empty or too large.
    #[error("cannot crop to {width}x{height}; expected 1 to 65536 a side and at most 268435456 pixels")]
    Crop {
        /// Its columns.
        width: u32,
        /// Its rows.
        height: u32,
    },
}

/// Larger sides than this are refused: a very long strip of a picture, not a model input.
const MAX_SIDE: u64 = 1 << 16;
/// More pixels than this are refused, before they are allocated.
const MAX_PIXELS: u64 = 1 << 28;

/// Whether a picture of this size may be made.
fn fits(width: u64, height: u64) -> bool {
    // The product of two sides cannot overflow once both are bounded.
    width.min(height) > 0 && width.max(height) <= MAX_SIDE && width * height <= MAX_PIXELS
}

impl Preprocess {
    /// Applies the steps.
    ///
    /// # Errors
    /// If the image is empty, or resizing or cropping would make one that is empty, has a side beyond 65,536, or has
    /// more than 2^28 pixels.
    pub fn apply(&self, image: &RgbImage) -> Result<Pixels, PreprocessError> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(PreprocessError::Empty { width, height });
        }
        if let Some(Crop { height, width }) = self.crop
            && !fits(width.into(), height.into())
        {
            return Err(PreprocessError::Crop { width, height });
        }
        let (bytes, w, h) = match self.resize {
            Some(resize) => self.resized(image, resize)?,
            None => (Cow::Borrowed(&image.as_raw()[..]), width, height),
        };
        Ok(self.crop_and_normalize(&bytes, w as usize, h as usize))
    }

    fn resized<'a>(&self, image: &'a RgbImage, resize: Resize) -> Result<(Cow<'a, [u8]>, u32, u32), PreprocessError> {
        let (w, h) = image.dimensions();
        let (width, height) = target(w, h, resize);
        let fail = |problem: String| PreprocessError::Resize { from_width: w, from_height: h, width, height, problem };
        if !fits(width, height) {
            return Err(fail(match resize {
                Resize::ShortestEdge(1..) => "the picture is too long and thin; crop it".into(),
                _ => format!("expected 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} pixels"),
            }));
        }
        // Both are at most MAX_SIDE.
        let (to_w, to_h) = (width as u32, height as u32);
        if (to_w, to_h) == (w, h) {
            return Ok((Cow::Borrowed(image.as_raw()), w, h));
        }
        let source = ImageRef::new(w, h, image.as_raw(), PixelType::U8x3).map_err(|e| fail(e.to_string()))?;
        let mut out = Image::new(to_w, to_h, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(self.resample.algorithm());
        Resizer::new().resize(&source, &mut out, &options).map_err(|e| fail(e.to_string()))?;
        Ok((Cow::Owned(out.into_vec()), to_w, to_h))
    }

    fn crop_and_normalize(&self, bytes: &[u8], w: usize, h: usize) -> Pixels {
        let (out_w, out_h) = match self.crop {
            Some(crop) => (crop.width as usize, crop.height as usize),
            None => (w, h),
        };
        // As transformers' center_crop: floor((size - crop) / 2), negative where zeros must be added; and when it
        // pads it first grows the image around its centre, rounding up.
        let offset = |size: usize, crop: usize| {
            if size >= crop { ((size - crop) / 2) as isize } else { -((crop - size).div_ceil(2) as isize) }
        };
        let (left, top) = (offset(w, out_w), offset(h, out_h));
        let scale = self.rescale.unwrap_or(1.0);
        let (mean, std) = self.normalize.unwrap_or(([0.0; 3], [1.0; 3]));
        let mut data = vec![0.0; 3 * out_w * out_h];
        for (c, plane) in data.chunks_exact_mut(out_w * out_h).enumerate() {
            for (y, row) in plane.chunks_exact_mut(out_w).enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    let (sx, sy) = (x as isize + left, y as isize + top);
                    let inside = sx >= 0 && sy >= 0 && (sx as usize) < w && (sy as usize) < h;
                    let byte = if inside { bytes[(sy as usize * w + sx as usize) * 3 + c] } else { 0 };
                    *value = (f32::from(byte) * scale - mean[c]) / std[c];
                }
            }
        }
        Pixels { data, height: out_h, width: out_w }
    }
}

/// Width and height after resizing; with [`Resize::ShortestEdge`] the longer side is `floor(edge * long / short)`.
fn target(w: u32, h: u32, resize: Resize) -> (u64, u64) {
    match resize {
        Resize::Exact { height, width } => (u64::from(width), u64::from(height)),
        Resize::ShortestEdge(edge) => {
            let (w, h, edge) = (u64::from(w), u64::from(h), u64::from(edge));
            if w <= h { (edge, edge * h / w.max(1)) } else { (edge * w / h.max(1), edge) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Preprocess =
        Preprocess { resize: None, resample: Resample::Bicubic, crop: None, rescale: None, normalize: None };

    #[test]
    fn shortest_edge_rounds_down() {
        assert_eq!(target(640, 427, Resize::ShortestEdge(224)), (335, 224));
        assert_eq!(target(427, 640, Resize::ShortestEdge(224)), (224, 335));
        assert_eq!(target(5, 5, Resize::ShortestEdge(7)), (7, 7));
    }

    #[test]
    fn crops_around_the_centre_and_pads_with_zeros() {
        let image = RgbImage::from_fn(4, 2, |x, y| [(10 * y + x) as u8; 3].into());
        let crop = Preprocess { crop: Some(Crop { height: 2, width: 2 }), ..PLAIN };
        assert_eq!(crop.apply(&image).unwrap().data[..4], [1.0, 2.0, 11.0, 12.0]);
        let grow = Preprocess { crop: Some(Crop { height: 4, width: 4 }), ..PLAIN };
        let grown = grow.apply(&image).unwrap().data;
        assert_eq!(grown[..8], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_strip_of_a_picture_is_refused() {
        let strip = RgbImage::new(100_000, 1);
        let resize = Preprocess { resize: Some(Resize::ShortestEdge(224)), ..PLAIN };
        assert!(resize.apply(&strip).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn absurd_sizes_are_errors() {
        let image = RgbImage::new(3, 3);
        for (height, width) in [(0, 4), (4, 0), (u32::MAX, u32::MAX), (1 << 15, 1 << 15)] {
            let crop = Preprocess { crop: Some(Crop { height, width }), ..PLAIN };
            assert_eq!(crop.apply(&image), Err(PreprocessError::Crop { width, height }));
            let exact = Preprocess { resize: Some(Resize::Exact { height, width }), ..PLAIN };
            assert!(matches!(exact.apply(&image), Err(PreprocessError::Resize { .. })));
        }
        for edge in [0, u32::MAX] {
            let edge = Preprocess { resize: Some(Resize::ShortestEdge(edge)), ..PLAIN };
            assert!(matches!(edge.apply(&image), Err(PreprocessError::Resize { .. })));
        }
        assert_eq!(PLAIN.apply(&RgbImage::new(0, 3)), Err(PreprocessError::Empty { width: 0, height: 3 }));
    }

    #[test]
    fn one_side_is_padded_while_the_other_is_cropped() {
        // A row of 5, cropped to 3 and grown to 2 rows: transformers puts the odd row of zeros before the picture.
        let image = RgbImage::from_fn(5, 1, |x, _| [x as u8 + 1; 3].into());
        let crop = Preprocess { crop: Some(Crop { height: 2, width: 3 }), ..PLAIN };
        assert_eq!(crop.apply(&image).unwrap().data[..6], [0.0, 0.0, 0.0, 2.0, 3.0, 4.0]);
    }
}
