//! Media into model input: images are decoded as a viewer would show them, then resized, cropped and normalised as
//! the encoders' own processors do it; videos are sampled by seeking, and sounds brought to one channel at the rate that
//! is asked for.
//!
//! Image formats come from the `image` crate, colour profiles from `moxcms`, resampling from `fast_image_resize` (whose
//! convolution is Pillow's), sounds from Symphonia, and with the cargo feature `video` videos and the remaining sounds
//! from FFmpeg. This crate adds the rules: orientation, alpha, profiles, limits, and errors that say what to do. It has
//! no models in it.
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

pub mod audio;
#[cfg(feature = "video")]
mod ffmpeg;
mod image;
mod kind;
mod source;
pub mod video;

pub use self::image::decode::{DecodeError, DecodeLimits, decode_image, decode_image_bytes};
pub use self::image::preprocess::{Crop, CropRounding, Pixels, Preprocess, PreprocessError, Resample, Resize};
/// 8-bit sRGB, the form in which decoded images are handed on.
pub use ::image::RgbImage;
pub use kind::{Kind, KindError, kind, kind_bytes};
pub use source::SourceError;
