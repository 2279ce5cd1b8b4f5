//! From a file to 8-bit sRGB, as a viewer would show it.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
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
        /// What there is; of a pipe or device, which has no length, what was read when the limit was passed.
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
    let bounded = |found: u64| {
        let limit = limits.max_bytes;
        if found > limit { Err(DecodeError::TooLarge { found, unit: "bytes", limit }) } else { Ok(()) }
    };
    bounded(meta.len())?;
    // Pipes and devices say that they are empty and may never end.
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error)?;
    file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io_error)?;
    bounded(bytes.len() as u64)?;
    decode_image_bytes(&bytes, limits)
}

fn io_error(error: std::io::Error) -> DecodeError {
    if error.kind() == ErrorKind::NotFound { DecodeError::Missing } else { DecodeError::Io(error) }
}

/// What a decoder may allocate beside the pixels: profiles and other metadata, some of which are compressed.
const METADATA_BYTES: u64 = 64 << 20;

/// Decodes an image in memory: EXIF orientation applied, RGB profiles converted to sRGB, transparency over white, 16
/// bits reduced to 8, grey, palette and CMYK to RGB; of an animation the first frame.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_image_bytes(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled);
    let format = format.ok_or_else(|| DecodeError::NotAnImage(looks_like(bytes)))?;
    // These decoders fill a missing end with something; a caption of half a picture would be a wrong one.
    let ends = match format {
        ImageFormat::Jpeg => jpeg_ends(bytes),
        ImageFormat::WebP => webp_ends(bytes),
        _ => true,
    };
    if !ends {
        return Err(DecodeError::Truncated);
    }
    if format == ImageFormat::Png && !png_palette_fits(bytes) {
        return Err(damaged(format, "its palette is no list of colours"));
    }
    let wrong = |e: ImageError| image_error(&e, format);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Until the size is known, there is room for metadata and a row.
    reader.limits(memory(0));
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    let found = u64::from(width) * u64::from(height);
    if found > limits.max_pixels {
        return Err(DecodeError::TooLarge { found, unit: "pixels", limit: limits.max_pixels });
    }
    if found == 0 {
        return Err(damaged(format, "it has no pixels"));
    }
    decoder.set_limits(memory(found)).map_err(wrong)?;
    // Metadata that cannot be read does not keep the picture from being seen. Of WebP it is not asked for where a chunk's
    // length is a lie: the decoder would allocate whatever it says.
    let readable = format != ImageFormat::WebP || webp_chunks_fit(bytes);
    let orientation = readable.then(|| decoder.orientation().ok()).flatten().unwrap_or(Orientation::NoTransforms);
    let profile = readable.then(|| decoder.icc_profile().ok()).flatten().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    picture.apply_orientation(orientation);
    Ok(to_rgb(picture, profile.as_deref()))
}

/// Limits for an image of so many pixels: 16 bytes each, RGBA in 32-bit floats, is the most that a format has.
fn memory(pixels: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(METADATA_BYTES.saturating_add(pixels.saturating_mul(16)));
    limits
}

/// The decoder's words on one line.
fn damaged(format: ImageFormat, problem: &str) -> DecodeError {
    let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    DecodeError::Damaged { format: format!("{format:?}").to_uppercase(), problem }
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
    damaged(format, &text)
}

/// Whether the first picture in the file has its end-of-image marker. Markers are followed from the start, since a
/// thumbnail inside a segment has an end too, and phones put videos and second pictures behind the end.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut in_scan = false;
    // Behind the start-of-image marker.
    let mut at = 2;
    loop {
        let Some(step) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) else { return false };
        at += step + 1;
        let Some(&code) = bytes.get(at) else { return false };
        match code {
            // Filling: the marker's code follows.
            0xFF => {}
            0xD9 => return in_scan,
            // A scan's header, its tables between scans, comments and applications' segments have a length. The data
            // of a scan has none: the search above passes over it.
            0xC4 | 0xDA..=0xDD | 0xE0..=0xEF | 0xFE => at = segment_end(bytes, at),
            // Before the scan every other marker has a length too.
            0x02..=0xCF | 0xDE..=0xFD if !in_scan => at = segment_end(bytes, at),
            // A stuffed 0, a restart, or damage.
            _ => at += 1,
        }
        in_scan |= code == 0xDA;
    }
}

/// Where the segment ends whose marker's code is at `at`. It may be beyond the file.
fn segment_end(bytes: &[u8], at: usize) -> usize {
    let length = bytes.get(at + 1..at + 3).map_or(2, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
    at + 1 + length
}

/// Whether the file is as long as its RIFF header says. The last byte may be padding, which some writers leave out.
fn webp_ends(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).map_or(0, |b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    bytes.len() as u64 + 1 >= length + 8
}

/// Whether a PNG's palette is of so many bytes as one can be; the decoder (png 0.18.1) panics at others.
pub(crate) fn palette_fits(length: u64) -> bool {
    length.is_multiple_of(3) && length <= 3 * 256
}

/// [`palette_fits`] of all palettes in a PNG.
fn png_palette_fits(bytes: &[u8]) -> bool {
    let mut at = 8;
    while let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([a, b, c, d]);
        if name == b"PLTE" && !palette_fits(length.into()) {
            return false;
        }
        at = at.saturating_add(12 + length as usize).min(bytes.len());
    }
    true
}

/// Whether all chunks of a WebP are inside the file.
fn webp_chunks_fit(bytes: &[u8]) -> bool {
    let mut at = 12;
    while let Some(&[_, _, _, _, a, b, c, d]) = bytes.get(at..at + 8) {
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let end = (at + 8).saturating_add(length);
        if end > bytes.len() {
            return false;
        }
        at = end + length % 2;
    }
    true
}

/// To 8-bit sRGB without transparency.
fn to_rgb(picture: DynamicImage, profile: Option<&[u8]>) -> RgbImage {
    let color = picture.color();
    // Profiles of grey and CMYK pictures are not for the RGB made of them.
    let profile = profile.filter(|_| color.has_color());
    if color.has_alpha() {
        let mut rgba = picture.into_rgba8();
        to_srgb(&mut rgba, Layout::Rgba, profile);
        over_white(&rgba)
    } else {
        let mut rgb = picture.into_rgb8();
        to_srgb(&mut rgb, Layout::Rgb, profile);
        rgb
    }
}

/// Lays transparent parts over white.
pub(crate) fn over_white(rgba: &RgbaImage) -> RgbImage {
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
fn to_srgb(pixels: &mut [u8], layout: Layout, profile: Option<&[u8]>) {
    let Some(profile) = profile.and_then(|p| ColorProfile::new_from_slice(p).ok()) else { return };
    if profile.color_space != DataColorSpace::Rgb {
        return;
    }
    let srgb = ColorProfile::new_srgb();
    let Ok(transform) = profile.create_transform_8bit(layout, &srgb, layout, TransformOptions::default()) else {
        return;
    };
    // In parts, so that large pictures need no second copy. 12 is a multiple of both pixel sizes.
    let mut before = [0; 12 * 1024];
    for part in pixels.chunks_mut(before.len()) {
        let before = &mut before[..part.len()];
        before.copy_from_slice(part);
        if transform.transform(before, part).is_err() {
            part.copy_from_slice(before);
        }
    }
}

/// How the text begins that Git LFS leaves where a file was not fetched.
const GIT_LFS: &[u8] = b"version https://git-lfs";

/// A guess from the first bytes, for the error message.
pub(crate) fn looks_like(bytes: &[u8]) -> &'static str {
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
    } else if starts(b"\0\0\x01\0") {
        "an icon (ICO)"
    } else if starts(b"\x76\x2F\x31\x01") {
        "OpenEXR"
    } else if starts(b"DDS ") {
        "a DirectDraw surface"
    } else if starts(b"qoif") {
        "QOI"
    } else if starts(b"<svg") || starts(b"<?xml") {
        "SVG or XML"
    } else if starts(GIT_LFS) {
        "a Git LFS pointer in place of the file: run `git lfs pull`"
    } else if bytes.iter().take(512).all(|&b| b >= 0x20 || b.is_ascii_whitespace()) {
        "text"
    } else {
        "nothing known"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
        decode_image_bytes(bytes, &DecodeLimits::default())
    }

    fn jpeg() -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = RgbImage::from_fn(40, 24, |x, y| [(x * 6) as u8, (y * 10) as u8, 90].into());
        JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
        bytes
    }

    #[test]
    fn what_follows_a_jpeg_does_not_matter() {
        let plain = jpeg();
        let expected = decode(&plain).unwrap();
        // The start of a scan in what phones append: a video, whose bytes are arbitrary.
        let mut appended = plain.clone();
        appended.extend(b"\0\0\0\x18ftypmp42\xFF\xDA\x12\x34");
        assert_eq!(decode(&appended).unwrap(), expected);
        // Filling before the end marker.
        let mut filled = plain[..plain.len() - 2].to_vec();
        filled.extend([0xFF, 0xFF, 0xFF, 0xD9]);
        assert_eq!(decode(&filled).unwrap(), expected);
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_the_pictures() {
        let plain = jpeg();
        let mut thumbnail = b"\xFF\xE1\0\x0CExif\0\0".to_vec();
        thumbnail.extend([0xFF, 0xDA, 0xFF, 0xD9]);
        let whole = [&plain[..2], &thumbnail, &plain[2..]].concat();
        assert_eq!(decode(&whole).unwrap(), decode(&plain).unwrap());
        for cut in [whole.len() - 1, whole.len() - 2, whole.len() / 2 + 100, 20] {
            assert!(matches!(decode(&whole[..cut]), Err(DecodeError::Truncated)), "cut to {cut}");
        }
        assert!(!jpeg_ends(&[0xFF, 0xD8, 0xFF]) && !jpeg_ends(&[0xFF, 0xD8, 0xFF, 0xE0, 0xFF]));
    }

    fn png(pixels: &[u8], color: ExtendedColorType, profile: Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile).unwrap();
        encoder.write_image(pixels, 1, 1, color).unwrap();
        bytes
    }

    fn near(found: &RgbImage, expected: [u8; 3]) {
        let worst = found.as_raw().iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(worst <= 2, "{:?} is not near {expected:?}", found.as_raw());
    }

    #[test]
    fn profiles_are_converted_before_alpha_is_laid_over_white() {
        let adobe = ColorProfile::new_adobe_rgb().encode().unwrap();
        // What (120, 150, 90) in Adobe RGB is in sRGB, by the formulas of both standards.
        let srgb = [105, 151, 86];
        let plain = png(&[120, 150, 90], ExtendedColorType::Rgb8, adobe.clone());
        near(&decode(&plain).unwrap(), srgb);
        let half = png(&[120, 150, 90, 51], ExtendedColorType::Rgba8, adobe.clone());
        near(&decode(&half).unwrap(), srgb.map(|v| ((u16::from(v) + 4 * 255) / 5) as u8));
        // Grey has no use for an RGB profile, and rubbish is left aside.
        near(&decode(&png(&[77], ExtendedColorType::L8, adobe)).unwrap(), [77; 3]);
        near(&decode(&png(&[1, 2, 3], ExtendedColorType::Rgb8, vec![9; 200])).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn compressed_metadata_is_bounded() {
        let bomb = png(&[1, 2, 3], ExtendedColorType::Rgb8, vec![0; METADATA_BYTES as usize + 1]);
        assert!(bomb.len() < 1 << 20);
        // Whether the picture is shown or refused, the profile is not unpacked beyond the limit.
        if let Ok(picture) = decode(&bomb) {
            near(&picture, [1, 2, 3]);
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (bytes, says) in [
            (&b"\0\0\0\x1CftypavifAVIF"[..], "AVIF"),
            (b"\0\0\x01\0\x01\0", "ICO"),
            (b"qoif\0\0\0\x01", "QOI"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"just words", "text"),
        ] {
            let error = decode(bytes).unwrap_err();
            assert!(matches!(error, DecodeError::NotAnImage(_)) && error.to_string().contains(says), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_without_end_is_refused() {
        let limits = DecodeLimits { max_bytes: 1000, ..DecodeLimits::default() };
        let error = decode_image(Path::new("/dev/zero"), &limits).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { unit: "bytes", limit: 1000, .. }), "{error}");
    }

    #[test]
    fn a_palette_of_broken_colours_is_told() {
        let chunk = |name: &[u8; 4], content: &[u8]| {
            [&(content.len() as u32).to_be_bytes()[..], name, content, &[0; 4]].concat()
        };
        let file =
            |palette: &[u8]| [b"\x89PNG\r\n\x1A\n", &chunk(b"IHDR", &[0; 13])[..], &chunk(b"PLTE", palette)].concat();
        assert!(png_palette_fits(&file(&[1, 2, 3])) && png_palette_fits(&file(&[0; 768])));
        for length in [1, 2, 4, 367, 771] {
            let error = decode_image_bytes(&file(&vec![0; length]), &DecodeLimits::default()).unwrap_err();
            assert!(matches!(&error, DecodeError::Damaged { problem, .. } if problem.contains("palette")), "{error}");
        }
    }

    #[test]
    fn a_chunk_that_says_it_is_longer_than_the_file_is_not_asked_for() {
        let chunk = |name: &[u8; 4], length: u32, content: &[u8]| [&name[..], &length.to_le_bytes(), content].concat();
        let file = |exif: &[u8]| [b"RIFF\0\0\0\0WEBP", &chunk(b"VP8L", 3, &[0; 4])[..], exif].concat();
        assert!(webp_chunks_fit(&file(&chunk(b"EXIF", 2, b"MM"))));
        assert!(webp_chunks_fit(&file(b"")));
        assert!(!webp_chunks_fit(&file(&chunk(b"EXIF", 0xFF00_001A, b"MM"))));
        assert!(!webp_chunks_fit(&file(&chunk(b"EXIF", u32::MAX, b"MM"))));
    }
}
