//! The ops on slices, in their plain forms. Shapes are given, not guessed: slices have exactly the lengths that the shapes say, no dimension
//! is 0, and every index is inside its table. What does not fit panics; graphs are checked before they come here.

use crate::held::Held;
use crate::math;
use mils_graph::Activation;
use rayon::prelude::*;

pub use crate::attention::{AttentionShape, attention, biased_attention};
pub use crate::linear::{Epilogue, linear};

/// Rows are handed to threads in pieces of at least this many elements.
pub(crate) const GRAIN: usize = 4096;

pub(crate) fn rows_per_piece(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// Elementwise activation.
pub fn activation(out: &mut [f32], x: &[f32], activation: Activation) {
    out.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(out, x)| {
        math::wide(
            #[inline(always)]
            || {
                out.copy_from_slice(x);
                math::activate_row(out, activation);
            },
        );
    });
}

/// Layer normalisation over rows of `gamma.len()` elements, `[.., D]` to `[.., D]`, the two moments in f64.
pub fn layer_norm(out: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let d = gamma.len();
    let piece = rows_per_piece(d) * d;
    out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
        math::wide(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let mean = math::sum(x, |v| v) / d as f64;
                    let var = math::sum(x, |v| (v - mean) * (v - mean)) / d as f64;
                    let scale = (1.0 / (var + f64::from(eps)).sqrt()) as f32;
                    let mean = mean as f32;
                    for (((o, &v), &g), &b) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                        *o = (v - mean) * scale * g + b;
                    }
                }
            },
        );
    });
}

/// Rows of `table` `[V, D]` by number, `[M]` to `[M, D]`.
pub fn gather(out: &mut [f32], table: Held<'_>, rows: &[u32], d: usize) {
    let piece = rows_per_piece(d);
    out.par_chunks_mut(piece * d).zip(rows.par_chunks(piece)).for_each(|(out, rows)| {
        for (out, &row) in out.chunks_exact_mut(d).zip(rows) {
            table.read(row as usize * d, out);
        }
    });
}

/// a + b, `[.., S]` + `[S]`, b repeated along a.
pub fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    let piece = rows_per_piece(b.len()) * b.len();
    out.par_chunks_mut(piece).zip(a.par_chunks(piece)).for_each(|(out, a)| {
        for (out, a) in out.chunks_exact_mut(b.len()).zip(a.chunks_exact(b.len())) {
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o = a + b;
            }
        }
    });
}

/// `[B, C, H, W]` to rows of patches [B, ⌊H/p⌋ · ⌊W/p⌋, C·p·p]; `shape` is the image's.
pub fn patchify(out: &mut [f32], image: &[f32], shape: [usize; 4], patch: usize) {
    let [_, c, h, w] = shape;
    let (grid_w, row_len) = (w / patch, c * patch * patch);
    let per_image = (h / patch) * grid_w * row_len;
    out.par_chunks_mut(per_image).zip(image.par_chunks(c * h * w)).for_each(|(out, image)| {
        for (p, row) in out.chunks_exact_mut(row_len).enumerate() {
            let (py, px) = (p / grid_w * patch, p % grid_w * patch);
            for (line, to) in row.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, line % patch);
                let from = (channel * h + py + y) * w + px;
                to.copy_from_slice(&image[from..from + patch]);
            }
        }
    });
}

/// One row before every sequence of `tokens` rows: `[D]`, `[B, S, D]` to `[B, S+1, D]`.
pub fn prepend(out: &mut [f32], token: &[f32], x: &[f32], tokens: usize) {
    let d = token.len();
    for (out, x) in out.chunks_exact_mut((tokens + 1) * d).zip(x.chunks_exact(tokens * d)) {
        out[..d].copy_from_slice(token);
        out[d..].copy_from_slice(x);
    }
}

/// Rotary embedding of interleaved pairs, `[B, S, H·D]`; `cos` and `sin` are `[S, D]`, and `head_dim` is D, even.
pub fn rope(out: &mut [f32], x: &[f32], [cos, sin]: [&[f32]; 2], heads: usize, head_dim: usize) {
    let width = heads * head_dim;
    let tokens = cos.len() / head_dim;
    let rows = rows_per_piece(width);
    out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * width)).enumerate().for_each(|(piece, (out, x))| {
        for (i, (out, x)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            let at = (piece * rows + i) % tokens * head_dim;
            let (cos, sin) = (&cos[at..at + head_dim], &sin[at..at + head_dim]);
            for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                rotate(out, x, cos, sin);
            }
        }
    });
}

/// One head of one row of [`rope`].
fn rotate(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32]) {
    let pairs = |all| <[f32]>::as_chunks::<2>(all).0;
    let tables = pairs(cos).iter().zip(pairs(sin));
    for ((o, [a, b]), (c, s)) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs(x)).zip(tables) {
        *o = [a * c[0] - b * s[0], b * c[1] + a * s[1]];
    }
}

/// Means over the rows of every sequence of `tokens` rows of `d` elements, sums in f64: `[B, S, D]` to `[B, D]`.
pub fn mean_rows(out: &mut [f32], x: &[f32], tokens: usize, d: usize) {
    /// Columns whose sums are side by side in a core's nearest cache.
    const COLUMNS: usize = 64;
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(tokens * d)) {
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, out)| {
            let mut sums = [0.0_f64; COLUMNS];
            for row in x.chunks_exact(d) {
                let row = &row[i * COLUMNS..i * COLUMNS + out.len()];
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum / tokens as f64) as f32);
        });
    }
}

/// `2 (w a + (1 - w) b)` with `w = sigmoid(gate + shared)`, `[B, S, D]` with `tokens` = S; `shared` is `[B, D]`.
pub fn blend(out: &mut [f32], [a, b, gate]: [&[f32]; 3], shared: &[f32], tokens: usize, d: usize) {
    let rows = rows_per_piece(d);
    let inputs = (a.par_chunks(rows * d), b.par_chunks(rows * d), gate.par_chunks(rows * d));
    let pieces = out.par_chunks_mut(rows * d).zip_eq(inputs.0).zip_eq(inputs.1).zip_eq(inputs.2);
    pieces.enumerate().for_each(|(piece, (((out, a), b), gate))| {
        math::wide(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(d).enumerate() {
                    let sequence = (piece * rows + i) / tokens;
                    let [a, b, gate] = [a, b, gate].map(|all| &all[i * d..(i + 1) * d]);
                    let shared = &shared[sequence * d..(sequence + 1) * d];
                    for ((((o, &a), &b), &gate), &shared) in out.iter_mut().zip(a).zip(b).zip(gate).zip(shared) {
                        let w = 1.0 / (1.0 + math::exp(-(gate + shared)));
                        *o = 2.0 * (w * a + (1.0 - w) * b);
                    }
                }
            },
        );
    });
}

/// Rows of `d` elements over the larger of their length and 1e-12. A row with NaN becomes NaN.
pub fn l2_normalize(out: &mut [f32], x: &[f32], d: usize) {
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let norm = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        // Not `max`, which would drop a NaN and give the row's other elements a length of 1e-12.
        let norm = if norm < 1e-12 { 1e-12 } else { norm } as f32;
        out.iter_mut().zip(x).for_each(|(o, v)| *o = v / norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn layer_norm_of_a_small_spread_on_a_large_mean() {
        // ±1 around 2^20: exact in f32, while the squares are not.
        let x: Vec<f32> = (0..64).map(|i| 1_048_576.0 + if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let mut out = vec![0.0; 64];
        layer_norm(&mut out, &x, &[1.0; 64], &[0.0; 64], 0.0);
        assert!(out.iter().zip(&x).all(|(o, x)| *o == x - 1_048_576.0), "{out:?}");
        // Squares beyond f32.
        let mut out = [0.0; 2];
        layer_norm(&mut out, &[3e25, -3e25], &[1.0; 2], &[0.0; 2], 0.0);
        assert!((out[0] - 1.0).abs() < 1e-6 && (out[1] + 1.0).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn lengths_of_nothing_and_of_nan() {
        let mut out = [1.0; 6];
        l2_normalize(&mut out, &[0.0, 0.0, 3e-13, 4e-13, f32::NAN, 1.0], 2);
        assert_eq!(out[..2], [0.0, 0.0]);
        assert!((out[2] - 0.3).abs() < 1e-6 && (out[3] - 0.4).abs() < 1e-6, "{out:?}");
        assert!(out[4].is_nan() && out[5].is_nan(), "{out:?}");
    }

    #[test]
    fn means_are_of_each_sequence() {
        let (tokens, d) = (300, 70);
        let x: Vec<f32> = waves(2 * tokens * d, 0.1).into_iter().map(|v| v + 1e4).collect();
        let mut out = vec![f32::NAN; 2 * d];
        mean_rows(&mut out, &x, tokens, d);
        for (i, out) in out.iter().enumerate() {
            let column = (0..tokens).map(|t| f64::from(x[(i / d * tokens + t) * d + i % d]));
            assert_eq!(*out, (column.sum::<f64>() / tokens as f64) as f32, "element {i}");
        }
    }

    #[test]
    fn blends_go_from_twice_the_one_to_twice_the_other() {
        // More rows than a piece has, so that sequences change within one.
        let (batch, tokens, d) = (3, 500, 6);
        let n = batch * tokens * d;
        let (a, b, gate) = (waves(n, 0.1), waves(n, 0.3), waves(n, 0.7));
        let shared: Vec<f32> = (0..batch * d).map(|i| [-200.0, 0.0, 200.0][i / d]).collect();
        let mut out = vec![f32::NAN; n];
        blend(&mut out, [&a, &b, &gate], &shared, tokens, d);
        for i in 0..n {
            let w = 1.0 / (1.0 + (-gate[i]).exp());
            let expected = [2.0 * b[i], 2.0 * (w * a[i] + (1.0 - w) * b[i]), 2.0 * a[i]][i / (tokens * d)];
            assert!((out[i] - expected).abs() < 1e-6, "element {i}: {} is not {expected}", out[i]);
        }
    }

    #[test]
    fn add_repeats_short_operands_over_all_pieces() {
        let a = waves(3 * 7001, 0.1);
        for period in [1, 3, 7001] {
            let b = waves(period, 0.3);
            let mut out = vec![0.0; a.len()];
            add(&mut out, &a, &b);
            assert!(out.iter().enumerate().all(|(i, o)| *o == a[i] + b[i % period]), "period {period}");
        }
    }
}
