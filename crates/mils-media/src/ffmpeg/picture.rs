//! From a decoded frame to 8-bit sRGB as it is meant to be seen: colours by the stream's matrix and range, square
//! pixels, turned as the camera was held.

use super::decoder::Frame;
use super::{Problem, stream};
use crate::image::decode::over_white;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use image::{RgbImage, RgbaImage, imageops};
use std::ptr::{null, null_mut};

/// Pixel aspects beyond this are mistakes.
const MOST_ASPECT: f64 = 16.0;

/// How a stream's frames are to be shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Width of a pixel over its height.
    pub(super) aspect: f64,
    /// Quarters of a turn, clockwise.
    pub(super) quarters: u8,
    /// Mirrored left to right, before it is turned.
    pub(super) mirrored: bool,
}

impl Look {
    pub(super) fn of(input: &mut Input, index: usize) -> Self {
        // SAFETY: the index is that of a stream.
        let sample = unsafe { ffi::av_guess_sample_aspect_ratio(input.as_mut_ptr(), stream(input, index), null_mut()) };
        let aspect = if sample.num > 0 && sample.den > 0 { f64::from(sample.num) / f64::from(sample.den) } else { 1.0 };
        let aspect = if (1.0 / MOST_ASPECT..=MOST_ASPECT).contains(&aspect) { aspect } else { 1.0 };
        let (quarters, mirrored) = matrix(input, index).map_or((0, false), turn);
        Self { aspect, quarters, mirrored }
    }

    /// Width and height with square pixels, before the turn.
    fn square(self, width: u32, height: u32) -> (u32, u32) {
        // The longer side is kept or grows, so that nothing is lost.
        let scale = |n: u32, by: f64| ((f64::from(n) * by).round() as u32).max(1);
        if self.aspect >= 1.0 { (scale(width, self.aspect), height) } else { (width, scale(height, 1.0 / self.aspect)) }
    }

    /// Width and height as shown.
    pub(super) fn shown(self, width: u32, height: u32) -> (u32, u32) {
        let (width, height) = self.square(width, height);
        if self.quarters % 2 == 1 { (height, width) } else { (width, height) }
    }
}

/// The stream's display matrix: nine numbers, of which the upper left four turn and mirror.
fn matrix(input: &Input, index: usize) -> Option<[i32; 4]> {
    let stream = input.stream(index)?;
    // The wrapper's iterator knows where each version of FFmpeg keeps it; its `kind` panics on types that it does not
    // know, so the number is compared.
    stream.side_data().find_map(|data| {
        // SAFETY: the entry is one of the stream's, which is borrowed; a type is an int in C.
        let kind = unsafe { (&raw const (*data.as_ptr()).type_).cast::<i32>().read() };
        let bytes = data.data();
        let wanted = kind == ffi::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX as i32 && bytes.len() >= 36;
        let number =
            |i: usize| i32::from_ne_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]]);
        wanted.then(|| [number(0), number(1), number(3), number(4)])
    })
}

/// Quarters clockwise and whether mirrored before. The matrix takes a point (x, y) of the frame to
/// (x a + y c, x b + y d) on the screen, with y downwards.
fn turn([a, b, c, d]: [i32; 4]) -> (u8, bool) {
    let (a, b, c, d) = (f64::from(a), f64::from(b), f64::from(c), f64::from(d));
    let mirrored = a * d - b * c < 0.0;
    // Where the frame's right side goes; mirrored, its left one.
    let (x, y) = if mirrored { (-a, -b) } else { (a, b) };
    if x == 0.0 && y == 0.0 {
        return (0, false);
    }
    let quarters = (y.atan2(x) / std::f64::consts::FRAC_PI_2).round() as i32;
    (quarters.rem_euclid(4) as u8, mirrored)
}

struct Scaler(*mut ffi::SwsContext);

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: owned, and freed once.
        unsafe { ffi::sws_freeContext(self.0) };
    }
}

/// Converts a frame.
pub(super) fn to_rgb(frame: &Frame, look: Look, most_pixels: u64) -> Result<RgbImage, Problem> {
    let wrong = |what: &str| Problem::Damaged(what.to_owned());
    // SAFETY: the frame is owned and holds a picture; numbers that are enums in C are read as such.
    let (width, height, format, space, range) = unsafe {
        let raw = frame.raw;
        let number = |p: *const i32| p.read();
        let space = number((&raw const (*raw).colorspace).cast());
        ((*raw).width, (*raw).height, (*raw).format, space, number((&raw const (*raw).color_range).cast()))
    };
    let (Ok(w), Ok(h)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(wrong("a frame has no size"));
    };
    let (to_w, to_h) = look.square(w, h);
    if w == 0 || h == 0 || u64::from(to_w) * u64::from(to_h) > most_pixels {
        return Err(wrong("a frame has a size that the others do not have"));
    }
    if !(0..ffi::AVPixelFormat::AV_PIX_FMT_NB as i32).contains(&format) {
        return Err(wrong("its pixels are of no known format"));
    }
    // SAFETY: the formats are numbered without gaps, and it is one of them.
    let from: ffi::AVPixelFormat = unsafe { std::mem::transmute(format) };
    // SAFETY: a format's description is static, or null where there is none.
    let (alpha, full) = unsafe {
        let description = ffi::av_pix_fmt_desc_get(from);
        if description.is_null() {
            return Err(wrong("its pixels are of no known format"));
        }
        let name = std::ffi::CStr::from_ptr((*description).name).to_bytes();
        let palette = (*description).flags & ffi::AV_PIX_FMT_FLAG_PAL as u64 != 0;
        let alpha = (*description).flags & ffi::AV_PIX_FMT_FLAG_ALPHA as u64 != 0 || palette;
        (alpha, name.starts_with(b"yuvj") || range == ffi::AVColorRange::AVCOL_RANGE_JPEG as i32)
    };
    let (target, bytes) =
        if alpha { (ffi::AVPixelFormat::AV_PIX_FMT_RGBA, 4) } else { (ffi::AVPixelFormat::AV_PIX_FMT_RGB24, 3) };
    let out = Frame::new()?;
    let flags = ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND | ffi::SWS_FULL_CHR_H_INT;
    // SAFETY: sizes and formats are those of the two frames; the target's buffer is allocated by FFmpeg, with the
    // padding that its scaler may write to.
    let pixels = unsafe {
        let (dst_w, dst_h) = (to_w as i32, to_h as i32);
        let context =
            ffi::sws_getContext(width, height, from, dst_w, dst_h, target, flags, null_mut(), null_mut(), null());
        if context.is_null() {
            return Err(wrong("its pixels are of a format that cannot be shown"));
        }
        let scaler = Scaler(context);
        let (by, default) = (ffi::sws_getCoefficients(space), ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT));
        // Formats without a matrix refuse this, and need none.
        ffi::sws_setColorspaceDetails(scaler.0, by, i32::from(full), default, 1, 0, 1 << 16, 1 << 16);
        (*out.raw).format = target as i32;
        ((*out.raw).width, (*out.raw).height) = (dst_w, dst_h);
        if ffi::av_frame_get_buffer(out.raw, 0) < 0 {
            return Err(wrong("there is no memory left"));
        }
        let (data, sizes) = ((*frame.raw).data.as_ptr(), (*frame.raw).linesize.as_ptr());
        let done = ffi::sws_scale(
            scaler.0,
            data.cast(),
            sizes,
            0,
            height,
            (*out.raw).data.as_ptr(),
            (*out.raw).linesize.as_ptr(),
        );
        if done != dst_h {
            return Err(wrong("a frame cannot be converted"));
        }
        let (start, step) = ((*out.raw).data[0], (*out.raw).linesize[0] as usize);
        let row = to_w as usize * bytes;
        let mut pixels = Vec::with_capacity(row * to_h as usize);
        for y in 0..to_h as usize {
            pixels.extend_from_slice(std::slice::from_raw_parts(start.add(y * step), row));
        }
        pixels
    };
    let image = if alpha {
        RgbaImage::from_raw(to_w, to_h, pixels).map(|rgba| over_white(&rgba))
    } else {
        RgbImage::from_raw(to_w, to_h, pixels)
    };
    let mut image = image.ok_or_else(|| wrong("a frame cannot be converted"))?;
    if look.mirrored {
        imageops::flip_horizontal_in_place(&mut image);
    }
    Ok(match look.quarters {
        1 => imageops::rotate90(&image),
        2 => imageops::rotate180(&image),
        3 => imageops::rotate270(&image),
        _ => image,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    #[test]
    fn matrices_turn_and_mirror() {
        assert_eq!(turn([ONE, 0, 0, ONE]), (0, false));
        // As phones write it: the frame's right side goes down.
        assert_eq!(turn([0, ONE, -ONE, 0]), (1, false));
        assert_eq!(turn([-ONE, 0, 0, -ONE]), (2, false));
        assert_eq!(turn([0, -ONE, ONE, 0]), (3, false));
        assert_eq!(turn([-ONE, 0, 0, ONE]), (0, true));
        assert_eq!(turn([ONE, 0, 0, -ONE]), (2, true));
        assert_eq!(turn([0; 4]), (0, false));
    }

    #[test]
    fn pixels_become_square_without_loss() {
        let look = Look { aspect: 1.5, quarters: 1, mirrored: false };
        assert_eq!(look.shown(100, 60), (60, 150));
        assert_eq!(Look { aspect: 0.5, quarters: 0, ..look }.shown(100, 60), (100, 120));
    }
}
