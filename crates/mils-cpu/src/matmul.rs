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

    fn check(&self, len: usize, name: &str) {
        let last = self.offset + (self.rows - 1) * self.row + (self.columns - 1) * self.column;
        assert!(last < len, "matmul: {name} reaches to {last}, beyond {len}");
    }
}

/// `out = scale · a · b`. Every dimension is at least 1: graphs have no empty values.
pub(crate) fn matmul(
    (out, c): (&mut [f32], View),
    (lhs, a): (&[f32], View),
    (rhs, b): (&[f32], View),
    scale: f32,
    parallel: bool,
) {
    assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matmul: shapes do not fit");
    assert!(c.rows > 0 && c.columns > 0 && a.columns > 0, "matmul: empty");
    c.check(out.len(), "out");
    a.check(lhs.len(), "a");
    b.check(rhs.len(), "b");
    // gemm's rayon path with 0 takes as many threads as the pool has.
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the views were checked against their slices just above, `out` is borrowed mutably and so overlaps
    // neither input, and rows of `c` do not overlap because c.row >= c.columns for every caller (dense or a head's
    // column range of a dense matrix).
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
