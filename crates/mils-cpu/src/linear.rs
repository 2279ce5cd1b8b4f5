//! Linear layers by the `gemm` crate: what runs where the CPU has no tiles of ours, and what those are tested against.

use crate::held::Held;
use crate::math;
use crate::matmul::{View, matmul};
use crate::ops::{GRAIN, rows_per_piece};
use mils_graph::Activation;
use rayon::prelude::*;

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
        math::wide(
            #[inline(always)]
            || {
                for (i, row) in out.chunks_exact_mut(n).enumerate() {
                    finish(row, 0, (piece * rows + i) * n, epilogue);
                }
            },
        );
    });
}

/// The epilogue of a part of a row: `column` is the first one's column, `at` its place in the whole result.
#[inline(always)]
pub(crate) fn finish(part: &mut [f32], column: usize, at: usize, epilogue: Epilogue<'_>) {
    let Epilogue { bias, activation, residual } = epilogue;
    if let Some(bias) = bias {
        part.iter_mut().zip(&bias[column..]).for_each(|(v, b)| *v += b);
    }
    math::activate_row(part, activation);
    if let Some(residual) = residual {
        let residual = &residual[at..at + part.len()];
        part.iter_mut().zip(residual).for_each(|(v, r)| *v += r);
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
}
