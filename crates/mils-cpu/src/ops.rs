//! The ops on slices. Shapes are given, not guessed; slices have exactly the lengths that the shapes say.

use crate::math;
use crate::matmul::{View, matmul};
use mils_graph::Activation;
use rayon::prelude::*;

/// Rows are handed to threads in pieces of at least this many elements.
const GRAIN: usize = 4096;

fn rows_per_piece(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// What follows a matrix product in the same pass over its result.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// [N]
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// [M, N], added last
    pub residual: Option<&'a [f32]>,
}

/// `out[M, N] = epilogue(x[M, K] · weight[N, K]ᵀ)`.
pub fn linear(out: &mut [f32], x: &[f32], weight: &[f32], [m, n, k]: [usize; 3], epilogue: Epilogue<'_>) {
    matmul((out, View::dense(m, n)), (x, View::dense(m, k)), (weight, View::dense(n, k).transposed()), 1.0, true);
    let Epilogue { bias, activation, residual } = epilogue;
    if bias.is_none() && activation == Activation::None && residual.is_none() {
        return;
    }
    let rows = rows_per_piece(n);
    out.par_chunks_mut(rows * n).enumerate().for_each(|(piece, out)| {
        for (i, row) in out.chunks_exact_mut(n).enumerate() {
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
            }
            activate(row, activation);
            if let Some(residual) = residual {
                let at = (piece * rows + i) * n;
                row.iter_mut().zip(&residual[at..at + n]).for_each(|(v, r)| *v += r);
            }
        }
    });
}

/// In place; the branch is outside the loop so that each loop vectorises.
fn activate(row: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::QuickGelu => row.iter_mut().for_each(|v| *v = math::activate(Activation::QuickGelu, *v)),
        Activation::Gelu => row.iter_mut().for_each(|v| *v = math::activate(Activation::Gelu, *v)),
        Activation::GeluTanh => row.iter_mut().for_each(|v| *v = math::activate(Activation::GeluTanh, *v)),
    }
}

/// Elementwise activation.
pub fn activation(out: &mut [f32], x: &[f32], activation: Activation) {
    out.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(out, x)| {
        out.copy_from_slice(x);
        activate(out, activation);
    });
}

/// Layer normalisation over rows of `gamma.len()` elements, the two moments in f64.
pub fn layer_norm(out: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let d = gamma.len();
    let piece = rows_per_piece(d) * d;
    out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let mean = (x.iter().map(|&v| f64::from(v)).sum::<f64>() / d as f64) as f32;
            let var = x.iter().map(|&v| f64::from((v - mean) * (v - mean))).sum::<f64>() / d as f64;
            let scale = 1.0 / (var as f32 + eps).sqrt();
            for (((o, &v), &g), &b) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                *o = (v - mean) * scale * g + b;
            }
        }
    });
}

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// B
    pub batch: usize,
    /// Sq
    pub queries: usize,
    /// Sk
    pub keys: usize,
    /// H
    pub heads: usize,
    /// D
    pub head_dim: usize,
    /// A query sees no later key.
    pub causal: bool,
    /// Factor of the products before the softmax.
    pub scale: f32,
}

/// Attention; see `mils_graph::Attention`. One task a head of a batch row; the scores of one head are held at a time.
pub fn attention(out: &mut [f32], q: &[f32], k: &[f32], v: &[f32], s: AttentionShape) {
    let width = s.heads * s.head_dim;
    let head = |rows, batch_row: usize, h: usize| View {
        offset: batch_row * rows * width + h * s.head_dim,
        rows,
        columns: s.head_dim,
        row: width,
        column: 1,
    };
    let tasks: Vec<Vec<f32>> = (0..s.batch * s.heads)
        .into_par_iter()
        .map_init(Vec::new, |scores: &mut Vec<f32>, task| {
            let (b, h) = (task / s.heads, task % s.heads);
            scores.resize(s.queries * s.keys, 0.0);
            let score_view = View::dense(s.queries, s.keys);
            let keys = head(s.keys, b, h);
            matmul((scores, score_view), (q, head(s.queries, b, h)), (k, keys.transposed()), s.scale, false);
            for (i, row) in scores.chunks_exact_mut(s.keys).enumerate() {
                softmax(row, if s.causal { i + 1 } else { s.keys });
            }
            let mut result = vec![0.0; s.queries * s.head_dim];
            let view = View::dense(s.queries, s.head_dim);
            matmul((&mut result, view), (scores, score_view), (v, keys), 1.0, false);
            result
        })
        .collect();
    for (task, result) in tasks.iter().enumerate() {
        let view = head(s.queries, task / s.heads, task % s.heads);
        for (i, row) in result.chunks_exact(s.head_dim).enumerate() {
            let at = view.offset + i * width;
            out[at..at + s.head_dim].copy_from_slice(row);
        }
    }
}

/// Softmax of the first `seen` scores; the rest become 0.
fn softmax(row: &mut [f32], seen: usize) {
    let (row, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for v in row.iter_mut() {
        *v = math::exp(*v - max);
    }
    let scale = 1.0 / row.iter().sum::<f32>();
    row.iter_mut().for_each(|v| *v *= scale);
}

/// Rows of `table` (each `d` long) by number.
pub fn gather(out: &mut [f32], table: &[f32], rows: &[u32], d: usize) {
    for (out, &row) in out.chunks_exact_mut(d).zip(rows) {
        let at = row as usize * d;
        out.copy_from_slice(&table[at..at + d]);
    }
}

/// a + b, b repeated along a.
pub fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    out.par_chunks_mut(b.len()).zip(a.par_chunks(b.len())).for_each(|(out, a)| {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a + b;
        }
    });
}

/// [B, C, H, W] to rows of patches; `shape` is the image's.
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

/// One row before every sequence of `tokens` rows of `token.len()`.
pub fn prepend(out: &mut [f32], token: &[f32], x: &[f32], tokens: usize) {
    let d = token.len();
    for (out, x) in out.chunks_exact_mut((tokens + 1) * d).zip(x.chunks_exact(tokens * d)) {
        out[..d].copy_from_slice(token);
        out[d..].copy_from_slice(x);
    }
}

/// Rows of `d` elements scaled to length 1.
pub fn l2_normalize(out: &mut [f32], x: &[f32], d: usize) {
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let norm = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12) as f32;
        out.iter_mut().zip(x).for_each(|(o, v)| *o = v / norm);
    }
}
