//! What stands for [`crate::tiled`] on CPUs that it has no tiles for: nothing is ever packed.

use crate::attention::{AttentionShape, Bias};
use crate::held::Held;
use crate::linear::Epilogue;
use crate::program::Math;

/// No weight is.
pub(crate) enum Packed {}

#[derive(Default)]
pub(crate) struct Scratch;

impl Packed {
    pub(crate) fn choose(_: Held<'_>, _: [usize; 2], _: Math) -> Option<Self> {
        None
    }

    pub(crate) fn unpacked(&self) -> Vec<f32> {
        match *self {}
    }
}

pub(crate) fn linear(_: &mut [f32], _: &[f32], weight: &Packed, _: Epilogue<'_>, _: (Math, &mut Scratch)) {
    match *weight {}
}

pub(crate) fn attention(
    _: &mut [f32],
    _: [&[f32]; 3],
    _: (Option<&[u32]>, Option<Bias<'_>>),
    _: AttentionShape,
) -> bool {
    false
}

pub(crate) fn has_dot() -> bool {
    false
}

pub(crate) fn has_fast_dot() -> bool {
    false
}
