//! The one door to the `gemm` crate: matrices as checked slices with strides.
#![expect(unsafe_code, reason = "gemm takes raw pointers; the lengths are checked here")]

use gemm::Parallelism;

/// A matrix inside a slice: element (i, j) is at `offset + i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub row: usize,
    pub column: usize,
}

impl View {
    /// Row-major with rows next to each other.
    pub(crate) fn dense(rows: usize, columns: usize) -> Self {
        Self { offset: 0, rows, columns, row: columns, column: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// The last element's place; none where it is beyond any slice. Only for views with elements.
    fn last(&self) -> Option<usize> {
        let down = (self.rows - 1).checked_mul(self.row)?;
        let right = (self.columns - 1).checked_mul(self.column)?;
        self.offset.checked_add(down)?.checked_add(right)
    }

    fn check(&self, len: usize, name: &str) {
        let inside = self.last().is_some_and(|last| last < len);
        assert!(inside, "matmul: {name} reaches beyond its {len} elements");
    }
}

/// `out = scale · a · b`, whatever `out` held before. Every dimension is at least 1: graphs have no empty values.
///
/// # Panics
/// If the shapes do not fit each other or reach beyond their slices, or rows of `out` overlap.
pub(crate) fn matmul(
    (out, c): (&mut [f32], View),
    (lhs, a): (&[f32], View),
    (rhs, b): (&[f32], View),
    scale: f32,
    parallel: bool,
) {
    assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matmul: shapes do not fit");
    assert!(c.rows > 0 && c.columns > 0 && a.columns > 0, "matmul: empty");
    assert!(c.column == 1 && (c.rows == 1 || c.row >= c.columns), "matmul: rows of out overlap");
    c.check(out.len(), "out");
    a.check(lhs.len(), "a");
    b.check(rhs.len(), "b");
    // gemm's rayon path with 0 takes as many threads as the pool has.
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: just above, without overflow, the views were checked to end inside their slices and the rows of `c` not
    // to overlap; `out` is borrowed mutably and so overlaps neither input. Strides that matter (of dimensions above 1)
    // are below a slice's length and so fit an isize.
    unsafe {
        gemm::gemm(
            c.rows,
            c.columns,
            a.columns,
            out.as_mut_ptr().add(c.offset),
            c.column as isize,
            c.row as isize,
            false,
            lhs.as_ptr().add(a.offset),
            a.column as isize,
            a.row as isize,
            rhs.as_ptr().add(b.offset),
            b.column as isize,
            b.row as isize,
            0.0_f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_is_overwritten_even_where_it_was_not_finite() {
        // gemm has other paths for thin, small and large products.
        for [m, n, k] in [[1, 1, 1], [5, 3, 2], [1, 40, 9], [40, 1, 9], [7, 9, 33], [65, 70, 40]] {
            let (a, b) = (vec![0.5; m * k], vec![2.0; n * k]);
            let mut out = vec![f32::NAN; m * n];
            let rhs = (&b[..], View::dense(n, k).transposed());
            matmul((&mut out, View::dense(m, n)), (&a, View::dense(m, k)), rhs, 3.0, false);
            assert!(out.iter().all(|&v| v == 3.0 * k as f32), "{m} x {n} x {k}: {out:?}");
        }
    }

    #[test]
    #[should_panic(expected = "reaches beyond")]
    fn sizes_that_wrap_round_do_not_pass() {
        // (2^62 rows) · 4 wraps round to 0.
        let rows = (1 << 62) + 1;
        let a = View::dense(rows, 4);
        let c = View { columns: 1, ..a };
        matmul((&mut [0.0; 4], c), (&[0.0; 4], a), (&[0.0; 4], View::dense(4, 1)), 1.0, false);
    }
}
