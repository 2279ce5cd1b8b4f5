//! What a report shows of a file: a picture, a video's frames side by side, or the outline of a sound.

use crate::media::Media;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, replace, resize};
use mils_encoder::Sound;
use mils_media::RgbImage;
use serde::Serialize;

/// Longer side of the embedded picture; a video's frames side by side are about twice as wide.
const THUMBNAIL: u32 = 480;
/// Columns of a sound's outline, and its height, in SVG units.
const OUTLINE: (usize, f32) = (480, 160.0);

/// What is shown of a file.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thumbnail {
    /// A picture as a data URI.
    Picture(String),
    /// A sound's outline.
    Outline {
        /// Its width in SVG units.
        width: usize,
        /// Its height.
        height: f32,
        /// The outline as an SVG path.
        path: String,
        /// What it is of, for people.
        what: String,
    },
}

impl Thumbnail {
    /// Of what a scorer was given.
    ///
    /// # Errors
    /// If the picture cannot be encoded.
    pub fn new(media: &Media) -> Result<Self> {
        match media {
            Media::Image(image) => jpeg(&fitted(image, THUMBNAIL)),
            Media::Video(frames) => jpeg(&sheet(frames)),
            Media::Sound(sound) => Ok(outline(sound)),
        }
    }
}

/// No longer than so many pixels on its longer side.
fn fitted(image: &RgbImage, most: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    let longest = w.max(h);
    if longest <= most {
        return image.clone();
    }
    let scale = |side: u32| (u64::from(side) * u64::from(most) / u64::from(longest)).max(1) as u32;
    resize(image, scale(w), scale(h), FilterType::Triangle)
}

/// Frames in rows, from left to right, as many rows as columns.
fn sheet(frames: &[RgbImage]) -> RgbImage {
    const GAP: u32 = 4;
    let columns = (1..).find(|n| n * n >= frames.len()).unwrap_or(1);
    let each = 2 * THUMBNAIL / columns as u32;
    let small: Vec<RgbImage> = frames.iter().map(|frame| fitted(frame, each)).collect();
    let most = |side: fn(&RgbImage) -> u32| small.iter().map(side).max().unwrap_or(1);
    let (w, h) = (most(RgbImage::width), most(RgbImage::height));
    let rows = small.len().div_ceil(columns).max(1) as u32;
    let (columns_wide, white) = (columns as u32, image::Rgb([255; 3]));
    let mut out = RgbImage::from_pixel(columns_wide * (w + GAP) - GAP, rows * (h + GAP) - GAP, white);
    for (i, frame) in small.iter().enumerate() {
        let (column, row) = ((i % columns) as i64, (i / columns) as i64);
        replace(&mut out, frame, column * i64::from(w + GAP), row * i64::from(h + GAP));
    }
    out
}

fn jpeg(image: &RgbImage) -> Result<Thumbnail> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 88)
        .encode_image(image)
        .context("cannot encode the report's picture")?;
    Ok(Thumbnail::Picture(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes))))
}

/// The highest and the lowest sample of each column; windows of a long sound one after the other.
fn outline(sound: &Sound) -> Thumbnail {
    let (columns, height) = OUTLINE;
    let samples: Vec<f32> = sound.pieces.iter().flat_map(|piece| &piece.samples).copied().collect();
    let peak = samples.iter().fold(1e-6_f32, |peak, v| peak.max(v.abs()));
    let each = samples.len().div_ceil(columns).max(1);
    let extremes = samples
        .chunks(each)
        .map(|column| column.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v))));
    let y = |v: f32| height / 2.0 - v / peak * (height / 2.0 - 2.0);
    let line = |(x, (lo, hi)): (usize, (f32, f32))| format!("M{x}.5 {:.1}V{:.1}", y(hi) - 0.5, y(lo) + 0.5);
    let path = extremes.enumerate().map(line).collect();
    let heard: f64 = sound.pieces.iter().map(mils_media::audio::Audio::seconds).sum();
    let what = match sound.pieces.len() {
        1 => format!("{:.1} s", sound.seconds),
        windows => format!("{heard:.0} s of {:.0} s, in {windows} windows", sound.seconds),
    };
    Thumbnail::Outline { width: columns, height, path, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_media::audio::Audio;

    #[test]
    fn frames_stand_in_rows_in_their_order() {
        let frame = |level: u8| RgbImage::from_pixel(960, 480, image::Rgb([level; 3]));
        let frames: Vec<RgbImage> = (0..8).map(|i| frame(i * 30)).collect();
        let sheet = sheet(&frames);
        assert_eq!(sheet.dimensions(), (3 * 320 + 2 * 4, 3 * 160 + 2 * 4));
        assert_eq!([sheet.get_pixel(10, 10)[0], sheet.get_pixel(900, 10)[0]], [0, 60]);
        assert_eq!([sheet.get_pixel(400, 400)[0], sheet.get_pixel(900, 400)[0]], [210, 255]);
        assert_eq!(super::sheet(&frames[..1]).dimensions(), (960, 480));
        assert_eq!(super::sheet(&[]).dimensions(), (1, 1));
    }

    #[test]
    fn an_outline_has_every_sample_in_it() {
        let mut samples = vec![0.0; 48_000];
        samples[24_000] = 0.5;
        let sound = Sound { pieces: vec![Audio { samples, sample_rate: 48_000 }], seconds: 1.0 };
        let Thumbnail::Outline { path, what, .. } = outline(&sound) else { panic!("no outline") };
        assert_eq!((path.matches('M').count(), what.as_str()), (480, "1.0 s"));
        assert!(path.contains("M240.5 1.5V80.5"), "the one peak: {path}");
        let silent = Sound { pieces: vec![Audio { samples: vec![], sample_rate: 48_000 }], seconds: 0.0 };
        assert!(matches!(outline(&silent), Thumbnail::Outline { path, .. } if path.is_empty()));
    }
}
