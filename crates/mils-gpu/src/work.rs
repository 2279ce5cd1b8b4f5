//! What a run does: how its dispatches are cut into submits, and what they are and cost. Needs no device.

use crate::choose::Class;
use crate::lower::{Dispatch, Lie, Target, lower};
use crate::weights::held_as;
use crate::{Activations, AdapterKind};
use mils_graph::{BackendError, DType, Graph, Op, Work};
use mils_shaders::{Cooperative, Kernel, Tile};
use std::ops::Range;

/// Dispatches of the first submit: the device begins while the rest is recorded.
const FIRST: usize = 16;
/// Dispatches of each later one.
const LATER: usize = 128;
/// Workgroups along each dimension of a grid: what every device allows.
const WORKGROUPS: u32 = 65_535;

/// The dispatches of every submit. There is always one: outputs may be inputs.
pub(crate) fn cut(dispatches: usize) -> Vec<Range<usize>> {
    let first = std::iter::once(0..dispatches.min(FIRST));
    let later = (FIRST..dispatches).step_by(LATER).map(|at| at..dispatches.min(at + LATER));
    first.chain(later).collect()
}

/// A kernel, for people: what of its variant decides its speed.
pub(crate) fn name(kernel: Kernel) -> String {
    match kernel {
        Kernel::Gemm(g) => {
            let [rows, columns] = g.tile.block();
            let how = match g.tile {
                Tile::Any => ", single elements",
                Tile::Cooperative(_) => ", cooperative",
                _ => "",
            };
            format!("matrix product {rows} x {columns}{how}")
        }
        Kernel::Attention(a) => format!("attention, {} queries", a.queries),
        Kernel::AttentionRow => "attention, one query".into(),
        Kernel::LayerNorm => "layer norm".into(),
        Kernel::L2Normalize => "normalize".into(),
        Kernel::Gather(_) => "gather".into(),
        Kernel::Add => "add".into(),
        Kernel::Activation(_) => "activation".into(),
        Kernel::Patchify => "patchify".into(),
        Kernel::PrependToken => "prepend token".into(),
        Kernel::Rope => "rope".into(),
        Kernel::Probe(_) => "probe".into(),
        Kernel::AttentionBias(_) => "attention with bias".into(),
        Kernel::MeanRows => "mean of rows".into(),
        Kernel::Blend => "blend".into(),
        Kernel::Unfold => "unfold".into(),
        Kernel::MaxPool => "max pool".into(),
        Kernel::Gram => "gram".into(),
    }
}

/// What a run of these does, and the seconds of each if they were timed.
pub(crate) fn of(dispatches: &[Dispatch], seconds: Option<&[f64]>) -> Work {
    let mut work = Work { submits: cut(dispatches.len()).len() as u64, ..Work::default() };
    for (i, d) in dispatches.iter().enumerate() {
        work.add(
            &name(d.kernel),
            d.grid.iter().map(|&g| u64::from(g)).product(),
            d.cost,
            d.moved,
            seconds.and_then(|s| s.get(i).copied()),
        );
    }
    work
}

/// A device, by what decides what is done on it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it is.
    pub kind: AdapterKind,
    /// How it holds activations.
    pub activations: Activations,
    /// Cooperative matrices that it has; used where activations are in f16.
    pub cooperative: Option<Cooperative>,
}

/// What a run of a graph does on a device, without one: as [`mils_graph::Program::work`] of a program that was compiled
/// there. `weights` gives the type in which each weight comes, by name.
///
/// # Errors
/// If the graph is not sound or fits no device.
pub fn count(graph: &Graph, setup: Setup, weights: impl Fn(&str) -> DType) -> Result<Work, BackendError> {
    let Setup { kind, activations, cooperative } = setup;
    let element = activations.element();
    let shapes: Vec<(&str, &[usize])> = graph
        .nodes()
        .iter()
        .filter_map(|node| if let Op::Weight { name } = &node.op { Some((&name[..], &node.shape[..])) } else { None })
        .collect();
    let shape = |name: &str| shapes.iter().find(|(n, _)| *n == name).map(|(_, shape)| *shape);
    graph.check(|name| shape(name).map(|shape| (weights(name), shape)))?;
    let lie = |name: &str| {
        let rows = shape(name)?.first().copied().unwrap_or(1);
        Some(Lie { dtype: held_as(weights(name), element), parts: vec![(0, rows)] })
    };
    let target = Target { class: Class::of(kind), most: WORKGROUPS, element, cooperative, weights: &lie };
    Ok(of(&lower(graph, &target)?.into_iter().map(|(_, dispatch)| dispatch).collect::<Vec<_>>(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submits_cover_all_dispatches_in_order() {
        for n in [0, 1, 16, 17, 144, 145, 1000] {
            let parts = cut(n);
            assert_eq!(parts.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
            assert!(!parts.is_empty() && parts.len() <= 2 + n / LATER);
        }
    }
}
