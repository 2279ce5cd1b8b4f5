//! The steps between a decoded image and an encoder's input, as `transformers`' image processors take them: resize,
//! centre crop, rescale, normalise.

use super::resample::{self, Size};
use fast_image_resize::{FilterType, ResizeAlg};
use image::RgbImage;
use std::borrow::Cow;

/// Resampling filters, as Pillow has them, and one of OpenCV's; all but `Nearest` and `Interpolate` with antialiasing.
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
    /// Between the two nearest pixels of each axis, whatever the scale: OpenCV's `INTER_LINEAR`, its default.
    Interpolate,
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
            Self::Interpolate => return ResizeAlg::Interpolation(FilterType::Bilinear),
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
    /// The aspect is kept, and the result just fits into this size (open_clip's `longest`).
    Inside {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// The aspect is kept, and the result just covers this size (open_clip's `shortest`, for sizes that are no square).
    Cover {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// Whole patches of `patch` x `patch` pixels, at most `most` of them, and about the aspect of the picture: as
    /// `get_image_size_for_max_num_patches` of transformers' SigLIP 2 finds it.
    Patches {
        /// Side of a patch.
        patch: u32,
        /// Most patches.
        most: u32,
    },
}

/// Where the centre is when it falls between two pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CropRounding {
    /// Rounded down; padding puts the odd pixel before the picture: transformers.
    #[default]
    Down,
    /// Rounded to the nearer even number; padding puts the odd pixel behind the picture: torchvision.
    HalfEven,
}

/// A crop around the centre, in pixels; where the image is smaller, zeros are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// What is done with half a pixel.
    pub rounding: CropRounding,
}

impl CropRounding {
    /// Where a crop of `crop` begins in `size`; negative where zeros are put before.
    fn offset(self, size: usize, crop: usize) -> isize {
        match (self, size >= crop) {
            (Self::Down, true) => ((size - crop) / 2) as isize,
            // It first grows the image around its centre, rounding up.
            (Self::Down, false) => -((crop - size).div_ceil(2) as isize),
            (Self::HalfEven, true) => ((size - crop) as f64 / 2.0).round_ties_even() as isize,
            (Self::HalfEven, false) => -(((crop - size) / 2) as isize),
        }
    }
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
        if let Some(Crop { height, width, .. }) = self.crop
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

    /// Height and width of what [`Preprocess::apply`] makes of a picture of this size.
    ///
    /// # Errors
    /// As [`Preprocess::apply`].
    pub fn size(&self, width: u32, height: u32) -> Result<(usize, usize), PreprocessError> {
        if let Some(Crop { height, width, .. }) = self.crop {
            return Ok((height as usize, width as usize));
        }
        if width == 0 || height == 0 {
            return Err(PreprocessError::Empty { width, height });
        }
        let (w, h) = match self.resize {
            Some(resize) => resized_to(width, height, resize)?,
            None => (width, height),
        };
        Ok((h as usize, w as usize))
    }

    fn resized<'a>(&self, image: &'a RgbImage, resize: Resize) -> Result<(Cow<'a, [u8]>, u32, u32), PreprocessError> {
        let (w, h) = image.dimensions();
        let (to_w, to_h) = resized_to(w, h, resize)?;
        let (width, height) = (u64::from(to_w), u64::from(to_h));
        let fail = |problem: String| PreprocessError::Resize { from_width: w, from_height: h, width, height, problem };
        if (to_w, to_h) == (w, h) {
            return Ok((Cow::Borrowed(image.as_raw()), w, h));
        }
        let (from, to) =
            (Size { width: w as usize, height: h as usize }, Size { width: to_w as usize, height: to_h as usize });
        let out = resample::resize(image.as_raw(), from, to, self.resample.algorithm()).map_err(fail)?;
        Ok((Cow::Owned(out), to_w, to_h))
    }

    fn crop_and_normalize(&self, bytes: &[u8], w: usize, h: usize) -> Pixels {
        let (out_w, out_h) = match self.crop {
            Some(crop) => (crop.width as usize, crop.height as usize),
            None => (w, h),
        };
        let rounding = self.crop.map_or_else(CropRounding::default, |crop| crop.rounding);
        let (left, top) = (rounding.offset(w, out_w), rounding.offset(h, out_h));
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

/// Width and height after resizing, if such a picture may be made.
fn resized_to(w: u32, h: u32, resize: Resize) -> Result<(u32, u32), PreprocessError> {
    let (width, height) = target(w, h, resize);
    if fits(width, height) {
        // Both are at most MAX_SIDE.
        return Ok((width as u32, height as u32));
    }
    let problem = match resize {
        Resize::ShortestEdge(1..) | Resize::Cover { .. } | Resize::Inside { .. } => {
            "the picture is too long and thin; crop it".into()
        }
        _ => format!("expected 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} pixels"),
    };
    Err(PreprocessError::Resize { from_width: w, from_height: h, width, height, problem })
}

/// Width and height after resizing; with [`Resize::ShortestEdge`] the longer side is `floor(edge * long / short)`.
fn target(w: u32, h: u32, resize: Resize) -> (u64, u64) {
    let scaled = |ratio: f64| {
        let side = |n: u32| (f64::from(n) / ratio).round_ties_even() as u64;
        (side(w), side(h))
    };
    let ratios = |height: u32, width: u32| (f64::from(h) / f64::from(height), f64::from(w) / f64::from(width));
    match resize {
        Resize::Exact { height, width } => (u64::from(width), u64::from(height)),
        Resize::ShortestEdge(edge) => {
            let (w, h, edge) = (u64::from(w), u64::from(h), u64::from(edge));
            if w <= h { (edge, edge * h / w.max(1)) } else { (edge * w / h.max(1), edge) }
        }
        Resize::Inside { height, width } => {
            let (down, across) = ratios(height, width);
            scaled(down.max(across))
        }
        Resize::Cover { height, width } => {
            let (down, across) = ratios(height, width);
            scaled(down.min(across))
        }
        Resize::Patches { patch, most } => patches(w, h, patch, most),
    }
}

/// Width and height in whole patches: the largest scale, found by halving, at which there are not too many of them.
/// The numbers are the reference's, so that rounding falls alike.
fn patches(w: u32, h: u32, patch: u32, most: u32) -> (u64, u64) {
    const EPSILON: f64 = 1e-5;
    let patch = f64::from(patch);
    let side = |scale: f64, n: u32| ((f64::from(n) * scale / patch).ceil() * patch).max(patch);
    let (mut low, mut high) = (EPSILON / 10.0, 100.0);
    while high - low >= EPSILON {
        let scale = (low + high) / 2.0;
        if (side(scale, h) / patch) * (side(scale, w) / patch) <= f64::from(most) {
            low = scale;
        } else {
            high = scale;
        }
    }
    (side(low, w) as u64, side(low, h) as u64)
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
        let crop = Preprocess { crop: Some(Crop { height: 2, width: 2, rounding: CropRounding::Down }), ..PLAIN };
        assert_eq!(crop.apply(&image).unwrap().data[..4], [1.0, 2.0, 11.0, 12.0]);
        let grow = Preprocess { crop: Some(Crop { height: 4, width: 4, rounding: CropRounding::Down }), ..PLAIN };
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
            let crop = Preprocess { crop: Some(Crop { height, width, rounding: CropRounding::Down }), ..PLAIN };
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
        let crop = Preprocess { crop: Some(Crop { height: 2, width: 3, rounding: CropRounding::Down }), ..PLAIN };
        assert_eq!(crop.apply(&image).unwrap().data[..6], [0.0, 0.0, 0.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn torchvision_rounds_to_even_and_pads_behind() {
        for (size, crop, down, even) in [(5, 4, 0, 0), (7, 4, 1, 2), (9, 4, 2, 2), (3, 4, -1, 0), (1, 4, -2, -1)] {
            assert_eq!(
                (CropRounding::Down.offset(size, crop), CropRounding::HalfEven.offset(size, crop)),
                (down, even)
            );
        }
    }

    #[test]
    fn the_aspect_is_kept_inside_and_around_a_size() {
        assert_eq!(target(640, 427, Resize::Inside { height: 224, width: 224 }), (224, 149));
        assert_eq!(target(640, 427, Resize::Cover { height: 224, width: 112 }), (336, 224));
        assert_eq!(target(100, 400, Resize::Cover { height: 224, width: 112 }), (112, 448));
    }

    #[test]
    fn patches_are_whole_and_not_too_many() {
        // Values of get_image_size_for_max_num_patches.
        for (w, h, patch, most, wanted) in [
            (640, 427, 16, 256, (304, 208)),
            (427, 640, 16, 256, (208, 304)),
            (1000, 10, 16, 256, (2048, 32)),
            (5, 5, 16, 256, (256, 256)),
            (42, 42, 14, 16, (56, 56)),
            (130, 57, 6, 25, (42, 18)),
            (3000, 1, 16, 1, (16, 16)),
        ] {
            assert_eq!(target(w, h, Resize::Patches { patch, most }), wanted, "{w}x{h}");
        }
    }
}
