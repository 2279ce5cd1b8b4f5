//! Matrices as they are held: in f32, or in 16 bits that are widened where they are read.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The elements of a weight or of a computed matrix.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// As they are computed with.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of an f32.
    BF16(&'a [bf16]),
}

impl Held<'_> {
    /// Writes the elements from `at` on.
    ///
    /// # Panics
    /// If there are fewer than `out` takes.
    pub fn read(self, at: usize, out: &mut [f32]) {
        let range = at..at + out.len();
        match self {
            Self::F32(all) => out.copy_from_slice(&all[range]),
            Self::F16(all) => all[range].convert_to_f32_slice(out),
            Self::BF16(all) => all[range].convert_to_f32_slice(out),
        }
    }
}
