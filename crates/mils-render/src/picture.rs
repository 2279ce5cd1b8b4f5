//! Pictures as they come from renderers, and what is wrong with them.

use crate::{Job, RenderError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, ImageReader, Limits, RgbImage};
use std::io::Cursor;

/// Longest side of a picture that is decoded, whatever was asked for.
const MOST_SIDE: u32 = 16_384;
/// Most bytes that decoding may take.
const MOST_BYTES: u64 = 1 << 30;
/// What a pixel of a picture that is black may have at most: JPEG leaves some noise.
const BLACK: u8 = 4;

/// The picture in a file's bytes, over white where it is transparent.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, RenderError> {
    let corrupt = |problem: &dyn std::fmt::Display| {
        RenderError::Corrupt(problem.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    };
    if bytes.is_empty() {
        return Err(corrupt(&"it is empty"));
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| corrupt(&e))?;
    reader.limits(limits);
    let image = reader.decode().map_err(|e| corrupt(&e))?;
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let rgba = image.into_rgba8();
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    Ok(RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        image::Rgb([r, g, b].map(|value| over_white(value, a)))
    }))
}

/// The picture in base64, with or without the head of a data URI.
pub(crate) fn decode_base64(text: &str) -> Result<RgbImage, RenderError> {
    let text = text.trim();
    let data = if text.starts_with("data:") { text.split_once(',').map_or("", |(_, data)| data) } else { text };
    let bytes = STANDARD.decode(data).map_err(|e| RenderError::Corrupt(format!("it is no base64: {e}")))?;
    decode(&bytes)
}

/// An error if it is not what the job asks for, or was blanked.
pub(crate) fn checked(image: RgbImage, job: &Job<'_>) -> Result<RgbImage, RenderError> {
    let (wanted, found) = ((job.width, job.height), image.dimensions());
    if wanted != found {
        return Err(RenderError::Size { wanted, found });
    }
    if image.as_raw().iter().all(|value| *value <= BLACK) {
        return Err(RenderError::Blank);
    }
    Ok(image)
}

/// A picture as a PNG file.
///
/// # Errors
/// If it has no pixels.
pub fn to_png(image: &RgbImage) -> Result<Vec<u8>, RenderError> {
    let mut bytes = Vec::new();
    let written = image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png);
    written.map_err(|e| RenderError::Corrupt(e.to_string()))?;
    Ok(bytes)
}

/// A picture as PNG in base64.
pub(crate) fn to_base64(image: &RgbImage) -> Result<String, RenderError> {
    Ok(STANDARD.encode(to_png(image)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_and_what_is_none_is_an_error() {
        let image = RgbImage::from_fn(20, 16, |x, y| image::Rgb([x as u8, y as u8, 200]));
        let png = to_png(&image).unwrap();
        assert_eq!(decode(&png).unwrap(), image);
        assert_eq!(decode_base64(&format!("data:image/png;base64,{}", STANDARD.encode(&png))).unwrap(), image);
        for bytes in [&b""[..], b"not a picture", &png[..png.len() / 2]] {
            assert!(matches!(decode(bytes), Err(RenderError::Corrupt(_))));
        }
        assert!(matches!(decode_base64("%%%"), Err(RenderError::Corrupt(_))));
        let clear = image::RgbaImage::from_pixel(2, 2, image::Rgba([0, 0, 0, 0]));
        let mut bytes = Vec::new();
        clear.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        assert_eq!(decode(&bytes).unwrap().get_pixel(0, 0).0, [255; 3]);
    }

    #[test]
    fn another_size_and_a_blank_are_told_apart() {
        let job = Job { width: 16, height: 16, ..Job::new("x") };
        let wrong = checked(RgbImage::new(16, 17), &job).unwrap_err();
        assert!(wrong.to_string().contains("16 x 17") && !wrong.is_fatal(), "{wrong}");
        assert!(matches!(checked(RgbImage::new(16, 16), &job), Err(RenderError::Blank)));
        let mut dark = RgbImage::new(16, 16);
        dark.put_pixel(3, 3, image::Rgb([0, 40, 0]));
        assert!(checked(dark, &job).is_ok());
    }
}
