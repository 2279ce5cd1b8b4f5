//! Media into model input: images are decoded as a viewer would show them, then resized, cropped and normalised as
//! the encoders' own processors do it.
//!
//! Formats come from the `image` crate, colour profiles from `moxcms`, resampling from `fast_image_resize` (whose
//! convolution is Pillow's). This crate adds the rules: orientation, alpha, profiles, limits, and errors that say what
//! to do. It has no models in it.
//!
//! ```
//! use mils_media::{Crop, Preprocess, Resample, Resize, RgbImage};
//!
//! let image = RgbImage::from_pixel(40, 20, [255, 0, 0].into());
//! let preprocess = Preprocess {
//!     resize: Some(Resize::Exact { height: 8, width: 8 }),
//!     resample: Resample::Bicubic,
//!     crop: None::<Crop>,
//!     rescale: Some(1.0 / 255.0),
//!     normalize: Some(([0.5; 3], [0.5; 3])),
//! };
//! let pixels = preprocess.apply(&image).unwrap();
//! assert_eq!((pixels.height, pixels.width), (8, 8));
//! assert_eq!((pixels.data[0], pixels.data[64]), (1.0, -1.0)); // channels first: all red, no green
//! ```

mod image;

pub use self::image::decode::{DecodeError, DecodeLimits, decode_image, decode_image_bytes};
pub use self::image::preprocess::{Crop, CropRounding, Pixels, Preprocess, PreprocessError, Resample, Resize};
/// 8-bit sRGB, the form in which decoded images are handed on.
pub use ::image::RgbImage;
