//! Linear layers and attention on the tiles of [`crate::avx512`]: how work is cut for threads and caches.
#![expect(unsafe_code, reason = "threads write their own parts of one result, through the tiles")]

use crate::attention::{AttentionShape, Bias, add_bias, all_finite, softmax};
use crate::avx512::{ROWS, Tile, available, dot_tile, round_to_bf16, tile};
use crate::held::Held;
use crate::linear::{Epilogue, finish};
use crate::math;
use crate::ops::rows_per_piece;
use crate::packed::{Kind, Line, PANEL, pack_columns, pack_rows};
use crate::program::Math;
use mils_graph::Activation;
use rayon::prelude::*;
use std::marker::PhantomData;

pub(crate) use crate::avx512::{has_dot, has_fast_dot};
pub(crate) use crate::packed::Packed;

/// Bytes of x that are multiplied with one panel after another: a part of a core's own cache, beside the panel.
const CACHED: usize = 768 << 10;

/// Buffers that are kept from one product to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    /// x in bf16, rows filled up to whole pairs.
    pairs: Vec<u32>,
}

impl Packed {
    /// The weight `[n, k]` as tiles read it; none where this CPU has no tiles.
    pub(crate) fn choose(weight: Held<'_>, [n, k]: [usize; 2], math: Math) -> Option<Self> {
        let kind = match weight {
            _ if !available() => return None,
            _ if math == Math::BF16 && has_dot() => Kind::BF16,
            Held::F32(_) => Kind::F32,
            Held::F16(_) => Kind::F16,
            Held::BF16(_) => Kind::BF16,
        };
        Some(Self::new(weight, [n, k], kind))
    }
}

/// A result that several threads write at once, each its own elements.
#[derive(Clone, Copy)]
struct Shared<'a> {
    first: *mut f32,
    len: usize,
    all: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice in parts; whoever takes a part promises that nobody else has it.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn new(all: &'a mut [f32]) -> Self {
        Self { first: all.as_mut_ptr(), len: all.len(), all: PhantomData }
    }

    /// Where `rows` rows of `columns` elements begin that are `row` apart, the first of them at `at`.
    fn rows(self, at: usize, [rows, columns, row]: [usize; 3]) -> *mut f32 {
        assert!(at + (rows - 1) * row + columns <= self.len, "a tile reaches beyond the result");
        // SAFETY: inside the slice, as just checked.
        unsafe { self.first.add(at) }
    }

    /// # Safety
    /// Nobody else uses these elements meanwhile.
    unsafe fn part(self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.len, "a part reaches beyond the result");
        // SAFETY: inside the slice, as just checked; and this function's.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), len) }
    }
}

/// `n` rows in tiles of as equal size as can be: (first, rows).
fn tiles(first: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(ROWS);
    let (base, extra) = (n / count.max(1), n % count.max(1));
    (0..count).map(move |i| (first + i * base + i.min(extra), base + usize::from(i < extra)))
}

/// The rows of a product, in f32 or in pairs of bf16.
#[derive(Clone, Copy)]
enum Rows<'a> {
    F32(&'a [f32]),
    Pairs(&'a [u32]),
}

/// `out[M, N] = epilogue(x[M, K] · weight[N, K]ᵀ)`; the weight's type, or that of `math`, says what is multiplied.
pub(crate) fn linear(
    out: &mut [f32],
    x: &[f32],
    weight: &Packed,
    epilogue: Epilogue<'_>,
    (math, scratch): (Math, &mut Scratch),
) {
    let [n, k] = weight.shape();
    let m = out.len() / n;
    assert!(out.len() == m * n && x.len() == m * k && k > 0, "linear: shapes do not fit");
    let dot = math == Math::BF16 && weight.kind() == Kind::BF16 && has_dot();
    let row = if dot { k.div_ceil(2) } else { k };
    let rows = if dot { Rows::Pairs(pairs(&mut scratch.pairs, x, [m, k])) } else { Rows::F32(x) };
    let cached = (CACHED / 4 / row).clamp(ROWS, m.max(ROWS));
    // A few pieces a thread, so that none waits long for the last one; at least one panel each.
    let group = weight.panels().div_ceil(4 * rayon::current_num_threads());
    // What a tile adds itself: a residual comes after the activation, which is not the tile's.
    let plain = epilogue.activation == Activation::None;
    if let (Some(residual), true) = (epilogue.residual, plain) {
        assert!(residual.len() == m * n, "linear: the residual does not fit");
    }
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == n), "linear: the bias does not fit");
    let added = |column: usize, at: usize| {
        let bias = epilogue.bias.map(|all| all[column..].as_ptr());
        (bias, epilogue.residual.filter(|_| plain).map(|all| all[at..].as_ptr()))
    };
    let out = Shared::new(out);
    (0..weight.panels().div_ceil(group)).into_par_iter().for_each(|piece| {
        let panels = piece * group..weight.panels().min((piece + 1) * group);
        math::wide(
            #[inline(always)]
            || {
                for first in (0..m).step_by(cached) {
                    for panel in panels.clone() {
                        let columns = PANEL.min(n - panel * PANEL);
                        let next = if panel + 1 < weight.panels() { weight.panel(panel + 1) } else { &[] };
                        let all = tiles(first, cached.min(m - first)).count();
                        // A share of the next panel with each tile of this one, so that memory is never waited for while
                        // nothing is multiplied. A tile alone would have to fetch more than it has steps for.
                        let share = if all > 1 { next.len().div_ceil(all) } else { 0 };
                        for (number, (first, count)) in tiles(first, cached.min(m - first)).enumerate() {
                            let next = next.get(number * share..).unwrap_or_default();
                            let next = &next[..share.min(next.len())];
                            let at = first * n + panel * PANEL;
                            let to = (out.rows(at, [count, columns, n]), n, columns);
                            product(rows, (first, count, row), weight, (panel, next), to, added(panel * PANEL, at));
                            if plain {
                                continue;
                            }
                            for i in first..first + count {
                                let at = i * n + panel * PANEL;
                                // SAFETY: this piece alone has these columns.
                                let part = unsafe { out.part(at, columns) };
                                finish(part, 0, at, Epilogue { bias: None, ..epilogue });
                            }
                        }
                    }
                }
            },
        );
    });
}

/// One tile of a linear layer: `count` rows from `first` on, `row` elements each.
fn product(
    rows: Rows<'_>,
    (first, count, row): (usize, usize, usize),
    weight: &Packed,
    (panel, next): (usize, &[Line]),
    (out, out_row, columns): (*mut f32, usize, usize),
    (bias, residual): (Option<*const f32>, Option<*const f32>),
) {
    let panel = weight.panel(panel);
    let cut = first * row..(first + count) * row;
    match rows {
        Rows::F32(x) => {
            let a = x[cut].as_ptr();
            let t = Tile { a, row, k: row, panel, out, out_row, columns, scale: 1.0, bias, residual, next };
            // SAFETY: a `Packed` is made only where tiles are available; `tiles` gives 1 to ROWS rows, which were just
            // cut out of x; the panel is of this kind and K; the caller checked `out`, bias and residual, and alone
            // writes these columns.
            unsafe { tile(count, weight.kind(), t) };
        }
        Rows::Pairs(x) => {
            let a = x[cut].as_ptr();
            let t = Tile { a, row, k: row, panel, out, out_row, columns, scale: 1.0, bias, residual, next };
            // SAFETY: as above; rows are pairs only where the CPU has the dot product and the panel is of bf16.
            unsafe { dot_tile(count, t) };
        }
    }
}

/// x `[m, k]` in pairs of bf16; the last one of a row of odd length ends with a zero.
fn pairs<'a>(scratch: &'a mut Vec<u32>, x: &[f32], [m, k]: [usize; 2]) -> &'a [u32] {
    let row = k.div_ceil(2);
    scratch.clear();
    scratch.resize(m * row, 0);
    let rows = rows_per_piece(k);
    scratch.par_chunks_mut(rows * row).zip(x.par_chunks(rows * k)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(row).zip(x.chunks_exact(k)) {
            let halves: &mut [u16] = bytemuck::cast_slice_mut(out);
            // SAFETY: only called where the CPU has the dot product.
            unsafe { round_to_bf16(&mut halves[..k], x) };
        }
    });
    scratch
}

/// What a thread keeps for attention: a head's keys and values as panels, and the scores of a tile.
#[derive(Default)]
struct Head {
    keys: Vec<Line>,
    values: Vec<Line>,
    scores: Vec<f32>,
}

/// [`crate::attention::attention`] on tiles. False, and nothing is done, where this CPU has none, or where a value is
/// not finite that some query must not see: 0 · NaN would spread it.
pub(crate) fn attention(
    out: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    (lengths, bias): (Option<&[u32]>, Option<Bias<'_>>),
    s: AttentionShape,
) -> bool {
    if !available() || (s.causal && !all_finite(v)) {
        return false;
    }
    let width = s.heads * s.head_dim;
    let [of_queries, of_keys] = [s.queries, s.keys].map(|n| s.batch * n * width);
    let fits = out.len() == of_queries && q.len() == of_queries && k.len() == of_keys && v.len() == of_keys;
    assert!(fits && s.head_dim > 0, "attention: shapes do not fit");
    let out = Shared::new(out);
    (0..s.batch * s.heads).into_par_iter().for_each_init(Head::default, |head, task| {
        let (b, h) = (task / s.heads, task % s.heads);
        let there = lengths.map_or(s.keys, |lengths| lengths[b] as usize);
        let offset = b * s.keys * width + h * s.head_dim;
        pack_rows(&mut head.keys, k, offset, width, [there, s.head_dim]);
        pack_columns(&mut head.values, v, offset, width, [there, s.head_dim]);
        let stride = there.next_multiple_of(PANEL);
        head.scores.resize(ROWS * stride, 0.0);
        for (first, count) in tiles(0, s.queries) {
            // How many keys the query of this number sees.
            let sees = |query: usize| if s.causal { there.min(query + 1) } else { there };
            let keys = sees(first + count - 1);
            let at = (b * s.queries + first) * width + h * s.head_dim;
            score(head, &q[at..], (width, count, keys), stride, s);
            math::wide(
                #[inline(always)]
                || {
                    for (i, row) in head.scores.chunks_exact_mut(stride).take(count).enumerate() {
                        if let Some(bias) = bias {
                            add_bias(&mut row[..keys], bias.row(s, task, first + i));
                        }
                        softmax(&mut row[..keys], sees(first + i));
                    }
                },
            );
            weigh(head, out, at, (width, count, keys), (stride, there, s.head_dim));
        }
    });
    true
}

/// Scores of `count` queries, `width` elements apart, with the first `keys` keys.
fn score(head: &mut Head, q: &[f32], (width, count, keys): (usize, usize, usize), stride: usize, s: AttentionShape) {
    assert!((count - 1) * width + s.head_dim <= q.len() && keys <= stride);
    for (panel, lines) in head.keys.chunks_exact(2 * s.head_dim).take(keys.div_ceil(PANEL)).enumerate() {
        let out = head.scores[panel * PANEL..(count - 1) * stride + (panel + 1) * PANEL].as_mut_ptr();
        let a = q.as_ptr();
        let (row, k, scale) = (width, s.head_dim, s.scale);
        let t = Tile {
            a,
            row,
            k,
            panel: lines,
            out,
            out_row: stride,
            columns: PANEL,
            scale,
            bias: None,
            residual: None,
            next: &[],
        };
        // SAFETY: tiles are available; `count` is of `tiles`; the rows of q were checked above and those of the scores
        // where they were cut; the panel was made of K = head_dim.
        unsafe { tile(count, Kind::F32, t) };
    }
}

/// The values of `there` keys, weighed by `count` rows of `keys` weights.
fn weigh(
    head: &Head,
    out: Shared<'_>,
    at: usize,
    (width, count, keys): (usize, usize, usize),
    (stride, there, head_dim): (usize, usize, usize),
) {
    assert!(keys <= there && (count - 1) * stride + keys <= head.scores.len());
    for (panel, lines) in head.values.chunks_exact(2 * there).enumerate() {
        let columns = PANEL.min(head_dim - panel * PANEL);
        let to = out.rows(at + panel * PANEL, [count, columns, width]);
        let a = head.scores.as_ptr();
        let t = Tile {
            a,
            row: stride,
            k: keys,
            panel: lines,
            out: to,
            out_row: width,
            columns,
            scale: 1.0,
            bias: None,
            residual: None,
            next: &[],
        };
        // SAFETY: tiles are available; `count` is of `tiles`; the rows of scores were checked above; the panel has
        // `there` steps, of which `keys` are read; the result was checked, and these rows of this head are this task's.
        unsafe { tile(count, Kind::F32, t) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::attention as plain;
    use crate::ops;
    use half::bf16;
    use half::slice::HalfFloatSliceExt;

    fn waves(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Says that this CPU cannot run a test.
    fn skipped(why: &str) {
        eprintln!("skipped: this CPU has no {why}");
    }

    fn worst(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |w, d| if d.is_nan() { d } else { w.max(d) })
    }

    #[test]
    fn tiles_cover_all_rows_once() {
        for n in 0..60 {
            let mut next = 5;
            for (first, rows) in tiles(5, n) {
                assert!(first == next && (1..=ROWS).contains(&rows), "{n}: {rows} rows at {first}");
                next += rows;
            }
            assert_eq!(next, 5 + n);
        }
    }

    /// Every number of rows, panels that are not full, an odd K, and more rows than are held in a cache at a time.
    #[test]
    fn linear_layers_are_what_the_plain_ones_are() {
        let shapes = (1..=25).map(|m| [m, 40, 31]).chain([[3, 1, 1], [50, 33, 64], [7, 70, 9], [300, 32, 4000]]);
        for [m, n, k] in shapes {
            let (x, w) = (waves(m * k, 0.3), waves(n * k, 0.7));
            let (bias, residual) = (waves(n, 1.3), waves(m * n, 0.9));
            let mut brain = vec![bf16::ZERO; n * k];
            brain.convert_from_f32_slice(&w);
            let mut half = vec![half::f16::ZERO; n * k];
            half.convert_from_f32_slice(&w);
            let full = Epilogue { bias: Some(&bias), activation: Activation::GeluTanh, residual: Some(&residual) };
            let bare = Epilogue { bias: None, activation: Activation::None, residual: None };
            for (held, epilogue) in [(Held::F32(&w), full), (Held::F16(&half), bare), (Held::BF16(&brain), full)] {
                let Some(packed) = Packed::choose(held, [n, k], Math::F32) else { return skipped("AVX-512") };
                let (mut expected, mut out) = (vec![0.0; m * n], vec![f32::NAN; m * n]);
                ops::linear(&mut expected, &x, held, [m, n, k], epilogue);
                linear(&mut out, &x, &packed, epilogue, (Math::F32, &mut Scratch::default()));
                let worst = worst(&out, &expected);
                assert!(worst <= 3e-5, "{m} x {n} x {k}, {held:?}: differs by {worst}");
            }
        }
    }

    #[test]
    fn products_of_pairs_are_those_of_rounded_numbers() {
        let mut scratch = Scratch::default();
        for [m, n, k] in [[1, 1, 1], [13, 40, 31], [30, 64, 200]] {
            let (x, w) = (waves(m * k, 0.3), waves(n * k, 0.7));
            let rounded = |all: &[f32]| all.iter().map(|&v| bf16::from_f32(v).to_f32()).collect::<Vec<_>>();
            let Some(packed) = Packed::choose(Held::F32(&w), [n, k], Math::BF16) else { return skipped("AVX-512") };
            if packed.kind() != Kind::BF16 {
                return skipped("AVX512-BF16");
            }
            let epilogue = Epilogue { bias: None, activation: Activation::None, residual: None };
            let (mut expected, mut out) = (vec![0.0; m * n], vec![f32::NAN; m * n]);
            ops::linear(&mut expected, &rounded(&x), Held::F32(&rounded(&w)), [m, n, k], epilogue);
            linear(&mut out, &x, &packed, epilogue, (Math::BF16, &mut scratch));
            let worst = worst(&out, &expected);
            assert!(worst <= 2e-5, "{m} x {n} x {k}: differs by {worst}");
        }
    }

    #[test]
    fn attention_is_what_the_plain_one_is() {
        for (batch, queries, keys, heads, head_dim) in [(1, 1, 40, 2, 16), (2, 13, 13, 3, 72), (1, 70, 70, 1, 33)] {
            for causal in [false, true] {
                for lengths in [None, Some(vec![5; batch])] {
                    if causal && queries != keys {
                        continue;
                    }
                    let s = AttentionShape { batch, queries, keys, heads, head_dim, causal, scale: 0.3 };
                    let width = heads * head_dim;
                    let q = waves(batch * queries * width, 0.3);
                    let (k, v) = (waves(batch * keys * width, 0.7), waves(batch * keys * width, 1.1));
                    let (mut expected, mut out) = (vec![0.0; q.len()], vec![f32::NAN; q.len()]);
                    plain(&mut expected, [&q, &k, &v], lengths.as_deref(), s);
                    if !attention(&mut out, [&q, &k, &v], (lengths.as_deref(), None), s) {
                        return skipped("AVX-512");
                    }
                    let worst = worst(&out, &expected);
                    assert!(worst <= 1e-5, "{s:?} {lengths:?}: differs by {worst}");
                }
            }
        }
    }

    #[test]
    fn biased_attention_is_what_the_plain_one_is() {
        for (batch, groups, [queries, keys], heads, head_dim) in
            [(6, 3, [16, 16], 2, 24), (4, 1, [64, 64], 3, 32), (2, 2, [5, 40], 1, 7)]
        {
            let s = AttentionShape { batch, queries, keys, heads, head_dim, causal: false, scale: 0.3 };
            let width = heads * head_dim;
            let (q, bias) = (waves(batch * queries * width, 0.3), waves(groups * heads * queries * keys, 0.11));
            let (k, v) = (waves(batch * keys * width, 0.7), waves(batch * keys * width, 1.1));
            let (mut expected, mut out) = (vec![0.0; q.len()], vec![f32::NAN; q.len()]);
            ops::biased_attention(&mut expected, [&q, &k, &v], &bias, s);
            if !attention(&mut out, [&q, &k, &v], (None, Some(Bias::new(&bias, s))), s) {
                return skipped("AVX-512");
            }
            let worst = worst(&out, &expected);
            assert!(worst <= 1e-5, "{s:?}: differs by {worst}");
        }
    }
}
