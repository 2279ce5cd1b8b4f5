//! Attention by the `gemm` crate: what runs where the CPU has no tiles of ours, and what those are tested against.

use crate::math;
use crate::matmul::{View, matmul};
use crate::ops::GRAIN;
use rayon::prelude::*;

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

/// What is added to the scores, [G, H, Sq, Sk]; sequence b takes b mod G.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    all: &'a [f32],
    groups: usize,
}

impl<'a> Bias<'a> {
    /// Whole biases of a shape.
    ///
    /// # Panics
    /// If there are not some.
    pub(crate) fn new(all: &'a [f32], s: AttentionShape) -> Self {
        let groups = all.len() / (s.heads * s.queries * s.keys);
        assert!(groups > 0 && all.len() == groups * s.heads * s.queries * s.keys, "attention: the bias does not fit");
        Self { all, groups }
    }

    /// Of one query of a task: a head of a sequence.
    #[inline(always)]
    pub(crate) fn row(self, s: AttentionShape, task: usize, query: usize) -> &'a [f32] {
        let (b, h) = (task / s.heads, task % s.heads);
        let at = ((b % self.groups * s.heads + h) * s.queries + query) * s.keys;
        &self.all[at..at + s.keys]
    }
}

/// Adds a bias to scores; what is beyond the shorter of the two is left alone.
#[inline(always)]
pub(crate) fn add_bias(scores: &mut [f32], bias: &[f32]) {
    scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
}

/// Scores that a thread holds at a time: 1 MiB, which stays in a core's cache. Without a bound, a long sequence would
/// need the square of its length.
const MOST_SCORES: usize = 1 << 18;

/// Attention, q [B, Sq, H·D], k and v [B, Sk, H·D] to [B, Sq, H·D]; see `mils_graph::Attention`. One task a head of a
/// batch row, which takes its queries in blocks. A query that does not see a key does not see its NaN either.
/// `lengths`, `[B]`, are from 1 to Sk.
pub fn attention(out: &mut [f32], [q, k, v]: [&[f32]; 3], lengths: Option<&[u32]>, s: AttentionShape) {
    attention_in_blocks(out, [q, k, v], (lengths, None), s, MOST_SCORES);
}

/// Attention with a bias [G, H, Sq, Sk]; see `mils_graph::BiasedAttention`.
pub fn biased_attention(out: &mut [f32], [q, k, v]: [&[f32]; 3], bias: &[f32], s: AttentionShape) {
    attention_in_blocks(out, [q, k, v], (None, Some(Bias::new(bias, s))), s, MOST_SCORES);
}

fn attention_in_blocks(
    out: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    (lengths, bias): (Option<&[u32]>, Option<Bias<'_>>),
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
            if s.causal && !all_finite_in(v, s.head(s.keys, task, 0, there)) {
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
                math::wide(
                    #[inline(always)]
                    || {
                        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                            if let Some(bias) = bias {
                                add_bias(row, bias.row(s, task, first + i));
                            }
                            softmax(row, sees(first + i));
                        }
                    },
                );
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

/// Whether no element is infinite or NaN.
pub(crate) fn all_finite(data: &[f32]) -> bool {
    let whole = |piece: &[f32]| {
        math::wide(
            #[inline(always)]
            || piece.iter().fold(true, |all, v| all & v.is_finite()),
        )
    };
    data.par_chunks(GRAIN).all(whole)
}

fn all_finite_in(data: &[f32], view: View) -> bool {
    let row = |i| &data[view.offset + i * view.row..][..view.columns];
    (0..view.rows).all(|i| row(i).iter().all(|v| v.is_finite()))
}

/// Softmax of the first `seen` scores, their sum in f64; the rest become 0. A score of -inf has the weight 0; a row of
/// nothing else, or with NaN or +inf, becomes NaN, as the formula has it.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32], seen: usize) {
    let (row, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
    let max = math::max(row);
    for v in row.iter_mut() {
        *v = math::exp(*v - max);
    }
    let scale = (1.0 / math::sum(row, |v| v)) as f32;
    row.iter_mut().for_each(|v| *v *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn blocks_of_queries_change_nothing() {
        for (causal, lengths) in [(false, None), (true, None), (false, Some(&[4, 13][..])), (true, Some(&[4, 13]))] {
            let s = AttentionShape { batch: 2, queries: 13, keys: 13, heads: 2, head_dim: 3, causal, scale: 0.7 };
            let n = 2 * 13 * 6;
            let (q, k, v) = (waves(n, 0.3), waves(n, 0.7), waves(n, 1.1));
            let run = |most| {
                let mut out = vec![f32::NAN; n];
                attention_in_blocks(&mut out, [&q, &k, &v], (lengths, None), s, most);
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
}
