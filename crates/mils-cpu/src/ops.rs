//! The ops on slices. Shapes are given, not guessed: slices have exactly the lengths that the shapes say, no dimension
//! is 0, and every index is inside its table. What does not fit panics; graphs are checked before they come here.

use crate::held::Held;
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
    /// `[N]`
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// `[M, N]`, added last
    pub residual: Option<&'a [f32]>,
}

/// Elements that are widened at a time, for each thread: 1 MiB, which is still in its cache when it is multiplied. Less
/// would be slower, for every product begins by rearranging all of x.
const WIDENED: usize = 1 << 18;

/// `out[M, N] = x[M, K] · weight[N, K]ᵀ`; of a weight in 16 bits, about `widened` elements are widened at a time.
fn product(out: &mut [f32], x: &[f32], weight: Held<'_>, [m, n, k]: [usize; 3], widened: usize) {
    let x = (x, View::dense(m, k));
    if let Held::F32(weight) = weight {
        matmul((out, View::dense(m, n)), x, (weight, View::dense(n, k).transposed()), 1.0, true);
        return;
    }
    let most = (widened / k).clamp(1, n);
    let mut wide = vec![0.0; most * k];
    for first in (0..n).step_by(most) {
        let rows = most.min(n - first);
        let wide = &mut wide[..rows * k];
        wide.par_chunks_mut(GRAIN).enumerate().for_each(|(i, to)| weight.read(first * k + i * GRAIN, to));
        let columns = View { offset: first, columns: rows, ..View::dense(m, n) };
        matmul((out, columns), x, (wide, View::dense(rows, k).transposed()), 1.0, true);
    }
}

/// `out[M, N] = epilogue(x[M, K] · weight[N, K]ᵀ)`.
pub fn linear(out: &mut [f32], x: &[f32], weight: Held<'_>, [m, n, k]: [usize; 3], epilogue: Epilogue<'_>) {
    product(out, x, weight, [m, n, k], WIDENED * rayon::current_num_threads());
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

/// Layer normalisation over rows of `gamma.len()` elements, `[.., D]` to `[.., D]`, the two moments in f64.
pub fn layer_norm(out: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let d = gamma.len();
    let piece = rows_per_piece(d) * d;
    out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / d as f64;
            let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / d as f64;
            let scale = (1.0 / (var + f64::from(eps)).sqrt()) as f32;
            let mean = mean as f32;
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

impl AttentionShape {
    /// `rows` rows of one head, from row `first` on, in a tensor [B, `all`, H·D].
    fn head(&self, all: usize, task: usize, first: usize, rows: usize) -> View {
        let width = self.heads * self.head_dim;
        let (b, h) = (task / self.heads, task % self.heads);
        let offset = (b * all + first) * width + h * self.head_dim;
        View { offset, rows, columns: self.head_dim, row: width, column: 1 }
    }
}

/// Scores that a thread holds at a time: 1 MiB, which stays in a core's cache. Without a bound, a long sequence would
/// need the square of its length.
const MOST_SCORES: usize = 1 << 18;

/// Attention, q [B, Sq, H·D], k and v [B, Sk, H·D] to [B, Sq, H·D]; see `mils_graph::Attention`. One task a head of a
/// batch row, which takes its queries in blocks. A query that does not see a key does not see its NaN either.
/// `lengths`, `[B]`, are from 1 to Sk.
pub fn attention(out: &mut [f32], [q, k, v]: [&[f32]; 3], lengths: Option<&[u32]>, s: AttentionShape) {
    attention_in_blocks(out, [q, k, v], lengths, s, MOST_SCORES);
}

fn attention_in_blocks(
    out: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    lengths: Option<&[u32]>,
    s: AttentionShape,
    most_scores: usize,
) {
    let tasks: Vec<Vec<f32>> = (0..s.batch * s.heads)
        .into_par_iter()
        .map_init(Vec::new, |scores: &mut Vec<f32>, task| {
            let mut result = vec![0.0; s.queries * s.head_dim];
            let there = lengths.map_or(s.keys, |lengths| lengths[task / s.heads] as usize);
            // How many keys the query of this number sees.
            let sees = |query: usize| if s.causal { there.min(query + 1) } else { there };
            let mut block = (most_scores / there).min(s.queries).max(1);
            // The weight of a hidden key is 0, but 0 · NaN is NaN: then only one by one, with the keys that it sees.
            if s.causal && !all_finite(v, s.head(s.keys, task, 0, there)) {
                block = 1;
            }
            for first in (0..s.queries).step_by(block) {
                let rows = block.min(s.queries - first);
                let keys = sees(first + rows - 1);
                scores.resize(rows * keys, 0.0);
                let score_view = View::dense(rows, keys);
                let seen = s.head(s.keys, task, 0, keys);
                let queries = s.head(s.queries, task, first, rows);
                matmul((scores, score_view), (q, queries), (k, seen.transposed()), s.scale, false);
                for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                    softmax(row, sees(first + i));
                }
                let view = View { offset: first * s.head_dim, ..View::dense(rows, s.head_dim) };
                matmul((&mut result, view), (scores, score_view), (v, seen), 1.0, false);
            }
            result
        })
        .collect();
    for (task, result) in tasks.iter().enumerate() {
        let view = s.head(s.queries, task, 0, s.queries);
        for (i, row) in result.chunks_exact(s.head_dim).enumerate() {
            let at = view.offset + i * view.row;
            out[at..at + s.head_dim].copy_from_slice(row);
        }
    }
}

fn all_finite(data: &[f32], view: View) -> bool {
    let row = |i| &data[view.offset + i * view.row..][..view.columns];
    (0..view.rows).all(|i| row(i).iter().all(|v| v.is_finite()))
}

/// Softmax of the first `seen` scores, their sum in f64; the rest become 0. A score of -inf has the weight 0; a row of
/// nothing else, or with NaN or +inf, becomes NaN, as the formula has it.
fn softmax(row: &mut [f32], seen: usize) {
    let (row, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for v in row.iter_mut() {
        *v = math::exp(*v - max);
    }
    let scale = (1.0 / row.iter().map(|&v| f64::from(v)).sum::<f64>()) as f32;
    row.iter_mut().for_each(|v| *v *= scale);
}

/// Rows of `table` `[V, D]` by number, `[M]` to `[M, D]`.
pub fn gather(out: &mut [f32], table: Held<'_>, rows: &[u32], d: usize) {
    for (out, &row) in out.chunks_exact_mut(d).zip(rows) {
        table.read(row as usize * d, out);
    }
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
    use half::bf16;
    use half::slice::HalfFloatSliceExt;

    fn waves(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn softmax_of_what_is_not_finite() {
        let inf = f32::INFINITY;
        let mut row = [-inf, 0.0, 0.0, 5.0];
        softmax(&mut row, 3);
        assert_eq!(row, [0.0, 0.5, 0.5, 0.0]);
        // Large scores do not overflow.
        let mut row = [3e38, 3e38];
        softmax(&mut row, 2);
        assert_eq!(row, [0.5, 0.5]);
        for mut row in [[-inf, -inf], [f32::NAN, 0.0], [inf, 0.0]] {
            softmax(&mut row, 2);
            assert!(row.iter().all(|v| v.is_nan()), "{row:?}");
        }
    }

    #[test]
    fn softmax_of_a_long_row_sums_to_one() {
        let mut row = waves(1 << 20, 0.1);
        softmax(&mut row, 1 << 20);
        let sum: f64 = row.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn blocks_of_a_narrow_weight_are_all_multiplied() {
        let [m, n, k] = [5, 23, 301];
        let (x, w) = (waves(m * k, 0.3), waves(n * k, 0.7));
        let mut narrow = vec![bf16::ZERO; n * k];
        narrow.convert_from_f32_slice(&w);
        let w = narrow.to_f32_vec();
        let mut expected = vec![0.0; m * n];
        product(&mut expected, &x, Held::F32(&w), [m, n, k], 0);
        // One row at a time, blocks with a shorter last one, and all.
        for widened in [0, 5 * k, n * k, WIDENED] {
            let mut out = vec![f32::NAN; m * n];
            product(&mut out, &x, Held::BF16(&narrow), [m, n, k], widened);
            let worst = out.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{widened} at a time: differs by {worst}");
        }
    }

    #[test]
    fn blocks_of_queries_change_nothing() {
        for (causal, lengths) in [(false, None), (true, None), (false, Some(&[4, 13][..])), (true, Some(&[4, 13]))] {
            let s = AttentionShape { batch: 2, queries: 13, keys: 13, heads: 2, head_dim: 3, causal, scale: 0.7 };
            let n = 2 * 13 * 6;
            let (q, k, v) = (waves(n, 0.3), waves(n, 0.7), waves(n, 1.1));
            let run = |most| {
                let mut out = vec![f32::NAN; n];
                attention_in_blocks(&mut out, [&q, &k, &v], lengths, s, most);
                out
            };
            let whole = run(1 << 10);
            for most in [1, 13 * 4, 13 * 5] {
                let worst = whole.iter().zip(run(most)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-6, "causal {causal}, {lengths:?}, {most} scores: differs by {worst}");
            }
        }
    }

    #[test]
    fn a_key_that_is_not_seen_does_not_matter() {
        let s = AttentionShape { batch: 1, queries: 4, keys: 4, heads: 1, head_dim: 2, causal: true, scale: 1.0 };
        let (mut k, mut v) = (waves(8, 0.5), waves(8, 0.9));
        let mut clean = [0.0; 8];
        attention(&mut clean, [&k, &k, &v], None, s);
        k[6..].fill(f32::NAN);
        v[6..].fill(f32::INFINITY);
        let mut out = [0.0; 8];
        attention(&mut out, [&waves(8, 0.5), &k, &v], None, s);
        assert_eq!(out[..6], clean[..6]);
        assert!(out[6..].iter().all(|v| v.is_nan()));
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
