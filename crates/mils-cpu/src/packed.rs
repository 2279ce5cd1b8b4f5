//! Matrices rearranged into panels, in the order in which [`crate::avx512`] reads them.
//!
//! A panel is [`PANEL`] rows of a weight `[N, K]` (columns of the product), column by column: what one step along K
//! needs lies side by side. The last panel is filled up with zeros. bf16 is laid out in pairs along K, which is what a
//! dot product of pairs reads, and what widens to f32 with one instruction.

use crate::held::Held;
use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use rayon::prelude::*;

/// Rows of the weight that one panel has.
pub(crate) const PANEL: usize = 32;

/// What a vector register holds, and a line of the cache.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Type of the packed elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    /// In pairs along K; an odd K is filled up with a zero.
    BF16,
}

impl Kind {
    /// Lines of one panel.
    fn lines(self, k: usize) -> usize {
        match self {
            Self::F32 => 2 * k,
            Self::F16 => k,
            Self::BF16 => 2 * k.div_ceil(2),
        }
    }
}

/// A packed matrix `[n, k]`.
pub(crate) struct Packed {
    n: usize,
    k: usize,
    kind: Kind,
    lines: Vec<Line>,
}

impl Packed {
    /// Packs a dense matrix `[n, k]`; elements that are not of `kind` are rounded or widened.
    pub(crate) fn new(weight: Held<'_>, [n, k]: [usize; 2], kind: Kind) -> Self {
        let per_panel = kind.lines(k);
        let mut lines = vec![Line::zeroed(); n.div_ceil(PANEL) * per_panel];
        lines.par_chunks_mut(per_panel.max(1)).enumerate().for_each(|(panel, lines)| {
            let rows = panel * PANEL..n.min((panel + 1) * PANEL);
            match (kind, weight) {
                // Of the same type: no detour over f32.
                (Kind::F32, Held::F32(all)) => fill(lines, all, rows, [k, k], |v| v),
                (Kind::F16, Held::F16(all)) => fill(lines, all, rows, [k, k], |v| v),
                (Kind::BF16, Held::BF16(all)) => fill_pairs(lines, all, rows, k, |v| v),
                (Kind::BF16, Held::F32(all)) => fill_pairs(lines, all, rows, k, bf16::from_f32),
                (Kind::BF16, Held::F16(all)) => fill_pairs(lines, all, rows, k, |v| bf16::from_f32(v.to_f32())),
                (Kind::F32, Held::F16(all)) => fill(lines, all, rows, [k, k], f16::to_f32),
                (Kind::F32, Held::BF16(all)) => fill(lines, all, rows, [k, k], bf16::to_f32),
                (Kind::F16, Held::F32(all)) => fill(lines, all, rows, [k, k], f16::from_f32),
                (Kind::F16, Held::BF16(all)) => fill(lines, all, rows, [k, k], |v| f16::from_f32(v.to_f32())),
            }
        });
        Self { n, k, kind, lines }
    }

    /// Rows and columns of the weight.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.n, self.k]
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// The lines of one panel.
    pub(crate) fn panel(&self, panel: usize) -> &[Line] {
        let per_panel = self.kind.lines(self.k);
        &self.lines[panel * per_panel..(panel + 1) * per_panel]
    }

    /// The matrix as it was packed, widened.
    pub(crate) fn unpacked(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n * self.k];
        out.par_chunks_mut(self.k.max(1)).enumerate().for_each(|(row, out)| {
            let (lines, column) = (self.panel(row / PANEL), row % PANEL);
            match self.kind {
                Kind::F32 => {
                    let all: &[f32] = bytemuck::cast_slice(lines);
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = all[i * PANEL + column]);
                }
                Kind::F16 => {
                    let all: &[f16] = bytemuck::cast_slice(lines);
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = all[i * PANEL + column].to_f32());
                }
                Kind::BF16 => {
                    let all: &[bf16] = bytemuck::cast_slice(lines);
                    let at = |i: usize| (i / 2 * PANEL + column) * 2 + i % 2;
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = all[at(i)].to_f32());
                }
            }
        });
        out
    }
}

/// Steps along K that are moved together: a line of each row is read, and what is written stays in the nearest cache.
const STEPS: usize = 16;

/// Element (row, i) of a panel goes to `i * PANEL + row`; of each row, which begin `width` apart, the first `k`.
fn fill<A: Copy, B: Pod>(
    lines: &mut [Line],
    all: &[A],
    rows: std::ops::Range<usize>,
    [width, k]: [usize; 2],
    change: impl Fn(A) -> B,
) {
    let out: &mut [B] = bytemuck::cast_slice_mut(lines);
    for first in (0..k).step_by(STEPS) {
        let steps = STEPS.min(k - first);
        let block = &mut out[first * PANEL..(first + steps) * PANEL];
        for (column, row) in rows.clone().enumerate() {
            let from = &all[row * width + first..][..steps];
            for (to, &v) in block.chunks_exact_mut(PANEL).zip(from) {
                to[column] = change(v);
            }
        }
    }
}

/// Elements (row, 2i) and (row, 2i + 1) of a panel go to `(i * PANEL + row) * 2` and the place after it.
fn fill_pairs<A: Copy>(
    lines: &mut [Line],
    all: &[A],
    rows: std::ops::Range<usize>,
    k: usize,
    change: impl Fn(A) -> bf16,
) {
    let out: &mut [bf16] = bytemuck::cast_slice_mut(lines);
    for first in (0..k).step_by(STEPS) {
        let steps = STEPS.min(k - first);
        for (column, row) in rows.clone().enumerate() {
            let from = &all[row * k + first..][..steps];
            for (i, &v) in from.iter().enumerate() {
                let i = first + i;
                out[(i / 2 * PANEL + column) * 2 + i % 2] = change(v);
            }
        }
    }
}

/// The keys of one head as panels of f32 over `scratch`: rows of a `[rows, width]` matrix that begin at `offset`.
pub(crate) fn pack_rows(
    scratch: &mut Vec<Line>,
    all: &[f32],
    offset: usize,
    width: usize,
    [rows, columns]: [usize; 2],
) {
    scratch.clear();
    scratch.resize(rows.div_ceil(PANEL) * 2 * columns, Line::zeroed());
    for (panel, lines) in scratch.chunks_exact_mut(2 * columns).enumerate() {
        let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
        fill(lines, &all[offset..], rows, [width, columns], |v| v);
    }
}

/// The values of one head as panels of f32 over `scratch`: columns are cut into panels, rows follow each other.
pub(crate) fn pack_columns(
    scratch: &mut Vec<Line>,
    all: &[f32],
    offset: usize,
    width: usize,
    [rows, columns]: [usize; 2],
) {
    scratch.clear();
    scratch.resize(columns.div_ceil(PANEL) * 2 * rows, Line::zeroed());
    for (panel, lines) in scratch.chunks_exact_mut(2 * rows).enumerate() {
        let out: &mut [f32] = bytemuck::cast_slice_mut(lines);
        let begin = panel * PANEL;
        let len = PANEL.min(columns - begin);
        for (row, to) in out.chunks_exact_mut(PANEL).enumerate() {
            to[..len].copy_from_slice(&all[offset + row * width + begin..][..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::slice::HalfFloatSliceExt;

    #[test]
    fn what_is_packed_can_be_unpacked() {
        for [n, k] in [[1, 1], [32, 16], [33, 17], [70, 45]] {
            // Few enough bits for every type.
            let data: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 - 125.0).collect();
            let mut half = vec![f16::ZERO; n * k];
            half.convert_from_f32_slice(&data);
            let mut brain = vec![bf16::ZERO; n * k];
            brain.convert_from_f32_slice(&data);
            for kind in [Kind::F32, Kind::F16, Kind::BF16] {
                for held in [Held::F32(&data), Held::F16(&half), Held::BF16(&brain)] {
                    let packed = Packed::new(held, [n, k], kind);
                    assert_eq!(packed.unpacked(), data, "{kind:?} {n} x {k} from {held:?}");
                    assert_eq!(packed.panels(), n.div_ceil(PANEL));
                }
            }
        }
    }

    #[test]
    fn heads_are_packed_where_the_tiles_read_them() {
        // Two heads of 3 in rows of 6, the second one.
        let all: Vec<f32> = (0..5 * 6).map(|i| i as f32).collect();
        let mut lines = vec![];
        pack_rows(&mut lines, &all, 3, 6, [5, 3]);
        let keys: &[f32] = bytemuck::cast_slice(&lines);
        let mut lines = vec![];
        pack_columns(&mut lines, &all, 3, 6, [5, 3]);
        let values: &[f32] = bytemuck::cast_slice(&lines);
        for row in 0..5 {
            for column in 0..3 {
                let expected = all[row * 6 + 3 + column];
                assert_eq!(keys[column * PANEL + row], expected);
                assert_eq!(values[row * PANEL + column], expected);
            }
            assert_eq!(values[row * PANEL + 3], 0.0);
        }
        assert_eq!(keys[5], 0.0);
    }
}
