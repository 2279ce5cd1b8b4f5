//! Resizing as Pillow does it: columns first, then rows, and after each of them whole numbers from 0 to 255. (From
//! Pillow 13 on some pictures go through rows first, which moves pixels by one step.) And as OpenCV does it.
//!
//! The weights are `fast_image_resize`'s, which are Pillow's, in f32: its own path for bytes rounds them to 16 bits and
//! now and then is two steps off. Pillow's weights have 22 bits after the point.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::pixels::F32x3;
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer};

/// Rows or columns that are taken at a time, so that pictures are not held as floats as a whole.
const STRIP: usize = 64;

/// Rows and columns of three bytes.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The resized picture.
pub(super) fn resize(bytes: &[u8], from: Size, to: Size, algorithm: ResizeAlg) -> Result<Vec<u8>, String> {
    if matches!(algorithm, ResizeAlg::Nearest) {
        return nearest(bytes, from, to);
    }
    let options = ResizeOptions::new().resize_alg(algorithm);
    if matches!(algorithm, ResizeAlg::Interpolation(_)) {
        return interpolated(bytes, from, to, &options);
    }
    let mut resizer = Resizer::new();
    let wide = Size { width: to.width, height: from.height };
    let rows = if to.width == from.width {
        None
    } else {
        let mut out = vec![0; wide.width * wide.height * 3];
        let strips = bytes.chunks(STRIP * from.width * 3).zip(out.chunks_mut(STRIP * wide.width * 3));
        for (source, target) in strips {
            let count = source.len() / (from.width * 3);
            let made = floats(&mut resizer, &options, &floats_of(source), (from.width, count), (to.width, count))?;
            target.iter_mut().zip(made.iter().flat_map(|p| p.0)).for_each(|(byte, v)| *byte = rounded(v));
        }
        Some(out)
    };
    let rows = rows.as_deref().unwrap_or(bytes);
    if to.height == from.height {
        return Ok(rows.to_vec());
    }
    let mut out = vec![0; to.width * to.height * 3];
    for left in (0..to.width).step_by(STRIP) {
        let count = STRIP.min(to.width - left);
        let columns = |line: usize| (line * to.width + left) * 3..(line * to.width + left + count) * 3;
        let source: Vec<F32x3> = (0..from.height).flat_map(|y| floats_of(&rows[columns(y)])).collect();
        let made = floats(&mut resizer, &options, &source, (count, from.height), (count, to.height))?;
        for (y, line) in made.chunks_exact(count).enumerate() {
            out[columns(y)].iter_mut().zip(line.iter().flat_map(|p| p.0)).for_each(|(byte, v)| *byte = rounded(v));
        }
    }
    Ok(out)
}

/// OpenCV's way: both axes at once, and whole numbers only at the end. (It computes with 11 bits after the point.)
fn interpolated(bytes: &[u8], from: Size, to: Size, options: &ResizeOptions) -> Result<Vec<u8>, String> {
    let mut resizer = Resizer::new();
    let mut rows = Vec::with_capacity(to.width * from.height);
    for source in bytes.chunks(STRIP * from.width * 3) {
        let count = source.len() / (from.width * 3);
        rows.extend(floats(&mut resizer, options, &floats_of(source), (from.width, count), (to.width, count))?);
    }
    let made = floats(&mut resizer, options, &rows, (to.width, from.height), (to.width, to.height))?;
    Ok(made.iter().flat_map(|p| p.0).map(rounded).collect())
}

/// To the nearest whole number, halves up.
fn rounded(value: f32) -> u8 {
    (value + 0.5).floor().clamp(0.0, 255.0) as u8
}

fn floats_of(bytes: &[u8]) -> Vec<F32x3> {
    bytes.as_chunks::<3>().0.iter().map(|p| F32x3::new(p.map(f32::from))).collect()
}

/// One pass over floats.
fn floats(
    resizer: &mut Resizer,
    options: &ResizeOptions,
    source: &[F32x3],
    from: (usize, usize),
    to: (usize, usize),
) -> Result<Vec<F32x3>, String> {
    use fast_image_resize::images::{TypedImage, TypedImageRef};
    // Sides are at most 2^16: `fits` has seen to it, and what was decoded is not larger than u32.
    let source = TypedImageRef::new(from.0 as u32, from.1 as u32, source).map_err(|e| e.to_string())?;
    let mut target = TypedImage::<F32x3>::new(to.0 as u32, to.1 as u32);
    resizer.resize_typed(&source, &mut target, options).map_err(|e| e.to_string())?;
    Ok(target.pixels().to_vec())
}

fn nearest(bytes: &[u8], from: Size, to: Size) -> Result<Vec<u8>, String> {
    let source = ImageRef::new(from.width as u32, from.height as u32, bytes, PixelType::U8x3);
    let source = source.map_err(|e| e.to_string())?;
    let mut out = Image::new(to.width as u32, to.height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Nearest);
    Resizer::new().resize(&source, &mut out, &options).map_err(|e| e.to_string())?;
    Ok(out.into_vec())
}
