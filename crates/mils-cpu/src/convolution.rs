//! What convolutional towers take beside matrix products: windows of images whose channels lie together, and Gram matrices.

use crate::matmul::{View, matmul};
use rayon::prelude::*;

/// Windows over images `[B, H, W, C]`.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    /// H, W and C.
    pub image: [usize; 3],
    /// How many there are, down and across.
    pub out: [usize; 2],
    /// Their side.
    pub kernel: usize,
    /// From one to the next.
    pub stride: usize,
    /// Rows and columns of zeros on every side.
    pub padding: usize,
}

/// `[B, H, W, C]` to rows of windows `[B, H', W', k·k·C]`, 0 outside the image.
pub(crate) fn unfold(out: &mut [f32], x: &[f32], windows: Windows) {
    let Windows { image: [height, width, channels], out: [down, across], kernel, stride, padding } = windows;
    let per_window = kernel * kernel * channels;
    // One row of windows at a time.
    out.par_chunks_mut(across * per_window).enumerate().for_each(|(line, out)| {
        let image = &x[line / down * height * width * channels..][..height * width * channels];
        let top = line % down * stride;
        for (column, window) in out.chunks_exact_mut(per_window).enumerate() {
            for (row, to) in window.chunks_exact_mut(kernel * channels).enumerate() {
                // Below the padding it wraps round, beyond any side.
                let y = (top + row).wrapping_sub(padding);
                for (i, to) in to.chunks_exact_mut(channels).enumerate() {
                    let x = (column * stride + i).wrapping_sub(padding);
                    if y < height && x < width {
                        to.copy_from_slice(&image[(y * width + x) * channels..][..channels]);
                    } else {
                        to.fill(0.0);
                    }
                }
            }
        }
    });
}

/// Maxima over windows, `[B, H, W, C]` to `[B, H', W', C]`; nothing is padded.
pub(crate) fn max_pool(out: &mut [f32], x: &[f32], windows: Windows) {
    let Windows { image: [height, width, channels], out: [down, across], kernel, stride, .. } = windows;
    out.par_chunks_mut(across * channels).enumerate().for_each(|(line, out)| {
        let image = &x[line / down * height * width * channels..][..height * width * channels];
        let top = line % down * stride;
        for (column, out) in out.chunks_exact_mut(channels).enumerate() {
            out.fill(f32::MIN);
            for inside in 0..kernel * kernel {
                let (y, x) = (top + inside / kernel, column * stride + inside % kernel);
                let from = &image[(y * width + x) * channels..][..channels];
                out.iter_mut().zip(from).for_each(|(most, &v)| *most = most.max(v));
            }
        }
    });
}

/// `scale · xᵀ x` of every sequence of `rows` rows, `[B, S, D]` to `[B, D, D]`.
pub(crate) fn gram(out: &mut [f32], x: &[f32], rows: usize, width: usize, scale: f32) {
    let square = View::dense(width, width);
    for (out, x) in out.chunks_exact_mut(width * width).zip(x.chunks_exact(rows * width)) {
        let x = (x, View::dense(rows, width));
        matmul((out, square), (x.0, x.1.transposed()), x, scale, true);
    }
}
