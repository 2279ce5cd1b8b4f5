//! The steps between a decoded image and an encoder's input, as `transformers`' image processors take them: resize,
//! centre crop, rescale, normalise.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

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
    /// By the number in `preprocessor_config.json`.
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

/// The size to resize to.
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

/// A crop around the centre; where the image is smaller, zeros are added.
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
    /// Mean and standard deviation of each channel.
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

/// An image that cannot be brought to the wanted size.
#[derive(Debug, thiserror::Error)]
#[error("cannot resize {from_width}x{from_height} to {width}x{height}: {problem}")]
pub struct PreprocessError {
    from_width: u32,
    from_height: u32,
    width: u32,
    height: u32,
    problem: String,
}

/// Larger sides than this are refused after resizing: a very long strip of a picture, not a model input.
const MAX_SIDE: u64 = 1 << 16;

impl Preprocess {
    /// Applies the steps.
    ///
    /// # Errors
    /// If the image cannot be resized: extreme aspects whose longer side would be beyond 65,536.
    pub fn apply(&self, image: &RgbImage) -> Result<Pixels, PreprocessError> {
        let resized = match self.resize {
            Some(resize) => Some(self.resized(image, resize)?),
            None => None,
        };
        let (bytes, w, h) = match &resized {
            Some((bytes, w, h)) => (&bytes[..], *w, *h),
            None => (&image.as_raw()[..], image.width(), image.height()),
        };
        Ok(self.crop_and_normalize(bytes, w as usize, h as usize))
    }

    fn resized(&self, image: &RgbImage, resize: Resize) -> Result<(Vec<u8>, u32, u32), PreprocessError> {
        let (w, h) = image.dimensions();
        let (width, height) = target(w, h, resize);
        let fail = |problem: String| PreprocessError {
            from_width: w,
            from_height: h,
            width: u32::try_from(width).unwrap_or(u32::MAX),
            height: u32::try_from(height).unwrap_or(u32::MAX),
            problem,
        };
        if width.max(height) > MAX_SIDE || width.min(height) == 0 {
            return Err(fail("the picture is too long and thin; crop it".into()));
        }
        // Both are at most MAX_SIDE.
        let (to_w, to_h) = (width as u32, height as u32);
        if (to_w, to_h) == (w, h) {
            return Ok((image.as_raw().clone(), w, h));
        }
        let source = ImageRef::new(w, h, image.as_raw(), PixelType::U8x3).map_err(|e| fail(e.to_string()))?;
        let mut out = Image::new(to_w, to_h, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(self.resample.algorithm());
        Resizer::new().resize(&source, &mut out, &options).map_err(|e| fail(e.to_string()))?;
        Ok((out.into_vec(), to_w, to_h))
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

/// Width and height after resizing; the longer side is `floor(short * long / short_side)`.
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
}
