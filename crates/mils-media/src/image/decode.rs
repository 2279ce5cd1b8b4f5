//! From a file to 8-bit sRGB, as a viewer would show it.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use std::io::{Cursor, ErrorKind};
use std::path::Path;

/// What is refused before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels, from the header. The default, 200 million, is above every camera's and scanner's single picture.
    pub max_pixels: u64,
    /// Largest file in bytes; the default is 1 GiB.
    pub max_bytes: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 200_000_000, max_bytes: 1 << 30 }
    }
}

/// Why an image could not be read. Messages do not name the file: the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// It is a folder.
    #[error("this is a folder; name the image files in it")]
    Folder,
    /// The system refused.
    #[error("cannot be read: {0}")]
    Io(#[source] std::io::Error),
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// Not an image that this build reads.
    #[error("not an image that can be read: it looks like {0}; JPEG, PNG, WebP, GIF, BMP, TIFF and PNM can be")]
    NotAnImage(&'static str),
    /// Too many pixels or bytes.
    #[error("{found} {unit} are more than the limit of {limit}; reduce the image")]
    TooLarge {
        /// What there is.
        found: u64,
        /// Pixels or bytes.
        unit: &'static str,
        /// What is allowed.
        limit: u64,
    },
    /// The end is missing.
    #[error("the file is truncated: its end is missing; copy or download it again")]
    Truncated,
    /// The decoder gave up.
    #[error("damaged or unsupported {format}: {problem}")]
    Damaged {
        /// The format by its first bytes.
        format: String,
        /// The decoder's words, on one line.
        problem: String,
    },
}

/// Reads and decodes a file. The format is taken from the content, not the name.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_image(path: &Path, limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let meta = std::fs::metadata(path).map_err(io_error)?;
    if meta.is_dir() {
        return Err(DecodeError::Folder);
    }
    if meta.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { found: meta.len(), unit: "bytes", limit: limits.max_bytes });
    }
    decode_image_bytes(&std::fs::read(path).map_err(io_error)?, limits)
}

fn io_error(error: std::io::Error) -> DecodeError {
    if error.kind() == ErrorKind::NotFound { DecodeError::Missing } else { DecodeError::Io(error) }
}

/// Decodes an image in memory: EXIF orientation applied, transparency over white, profiles converted to sRGB, 16 bits
/// reduced to 8, grey, palette and CMYK to RGB; of an animation the first frame.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_image_bytes(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| DecodeError::NotAnImage(looks_like(bytes)))?;
    // The JPEG decoder fills a missing end with grey; a caption of half a picture would be a wrong one.
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        return Err(DecodeError::Truncated);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut memory = Limits::no_limits();
    // 8 bytes a pixel: 16-bit RGBA.
    memory.max_alloc = Some(limits.max_pixels.saturating_mul(8));
    reader.limits(memory);
    let wrong = |e: ImageError| image_error(&e, format);
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    let found = u64::from(width) * u64::from(height);
    if found > limits.max_pixels {
        return Err(DecodeError::TooLarge { found, unit: "pixels", limit: limits.max_pixels });
    }
    if found == 0 {
        return Err(DecodeError::Damaged { format: format!("{format:?}"), problem: "it has no pixels".into() });
    }
    // Metadata that cannot be read does not keep the picture from being seen.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile().ok().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    picture.apply_orientation(orientation);
    let mut rgb = flatten(&picture);
    if picture.color().has_color() {
        to_srgb(&mut rgb, profile.as_deref());
    }
    Ok(rgb)
}

fn image_error(error: &ImageError, format: ImageFormat) -> DecodeError {
    if let ImageError::IoError(e) = error
        && e.kind() == ErrorKind::UnexpectedEof
    {
        return DecodeError::Truncated;
    }
    let text = error.to_string();
    // Decoders wrap the missing end in errors of their own.
    if text.contains("failed to fill whole buffer")
        || text.contains("nexpected end of")
        || text.contains("UnexpectedEof")
    {
        return DecodeError::Truncated;
    }
    let problem = text.split_whitespace().collect::<Vec<_>>().join(" ");
    DecodeError::Damaged { format: format!("{format:?}").to_uppercase(), problem }
}

/// Whether an end-of-image marker follows the last start of a scan. Markers inside an embedded thumbnail come before.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|w| w == [0xFF, marker]);
    match (last(0xDA), last(0xD9)) {
        (Some(scan), Some(end)) => end > scan,
        _ => false,
    }
}

/// Transparent parts over white; 16 bits rounded to 8.
fn flatten(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let rgba = picture.to_rgba8();
    let mut out = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in out.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        for c in 0..3 {
            let mixed = u32::from(from[c]) * alpha + 255 * (255 - alpha);
            to[c] = ((mixed + 127) / 255) as u8;
        }
    }
    out
}

/// Converts by an embedded RGB profile; a profile that cannot be used is left aside, as viewers do.
fn to_srgb(rgb: &mut RgbImage, profile: Option<&[u8]>) {
    let Some(profile) = profile.and_then(|p| ColorProfile::new_from_slice(p).ok()) else { return };
    if profile.color_space != DataColorSpace::Rgb {
        return;
    }
    let srgb = ColorProfile::new_srgb();
    let options = TransformOptions::default();
    let Ok(transform) = profile.create_transform_8bit(Layout::Rgb, &srgb, Layout::Rgb, options) else { return };
    let source = rgb.as_raw().clone();
    if transform.transform(&source, rgb).is_err() {
        rgb.copy_from_slice(&source);
    }
}

/// A guess from the first bytes, for the error message.
fn looks_like(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let brand = bytes.get(4..12).unwrap_or_default();
    match brand {
        b"ftypheic" | b"ftypheix" | b"ftypmif1" | b"ftypmsf1" => return "HEIC",
        b"ftypavif" | b"ftypavis" => return "AVIF",
        _ if brand.starts_with(b"ftyp") => return "an MP4 or QuickTime video",
        _ => {}
    }
    if starts(b"%PDF") {
        "a PDF document"
    } else if starts(b"PK\x03\x04") {
        "a ZIP archive or office document"
    } else if starts(b"\x1A\x45\xDF\xA3") {
        "a Matroska or WebM video"
    } else if starts(b"ID3") || starts(b"fLaC") || starts(b"OggS") || starts(b"RIFF") {
        "a sound or video"
    } else if starts(b"\xFF\x0A") || starts(b"\0\0\0\x0CJXL ") {
        "JPEG XL"
    } else if starts(b"<svg") || starts(b"<?xml") {
        "SVG or XML"
    } else if bytes.iter().take(512).all(|&b| b >= 0x20 || b.is_ascii_whitespace()) {
        "text"
    } else {
        "nothing known"
    }
}
