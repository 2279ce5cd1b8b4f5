//! From ops to dispatches: which kernel, which parameters, which grid.

use crate::device::within;
use crate::weights::Held;
use mils_graph::{Activation, Attention, BackendError, DType, Graph, Linear, Op, ValueId};
use mils_shaders::{Activation as KernelActivation, Gemm, Kernel, Stored};
use std::collections::HashMap;

/// Columns of v that attention.wgsl can hold.
const MOST_HEAD_DIM: u64 = 256;

/// A buffer that a dispatch reads.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// A value's only one.
    Whole(ValueId),
    /// The one of this number, of a weight that may have several.
    Part(ValueId, usize),
}

/// One kernel launch. `reads` are bound after the parameters, in order, then the output.
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    pub(crate) params: Vec<u32>,
    pub(crate) reads: Vec<Read>,
    pub(crate) grid: [u32; 3],
}

/// A grid over `n` workgroups in two dimensions, at most `most` along the first, and its width.
fn spread(n: usize, most: u32) -> ([usize; 3], usize) {
    let x = n.clamp(1, most.max(1) as usize);
    ([x, n.div_ceil(x), 1], x)
}

/// A grid of one thread an element, 256 a workgroup, and its width in threads.
fn per_element(elements: usize, most: u32) -> ([usize; 3], usize) {
    let (grid, width) = spread(elements.div_ceil(256), most);
    (grid, width * 256)
}

/// Side of the blocks of a matrix product. Blocks of 64 reuse each loaded element twice as often as blocks of 32;
/// but a product that gives fewer than 64 of them would leave most of a GPU idle.
pub(crate) fn tile(m: usize, n: usize) -> u32 {
    if m.div_ceil(64) * n.div_ceil(64) >= 64 { 64 } else { 32 }
}

fn activation(a: Activation) -> KernelActivation {
    match a {
        Activation::None => KernelActivation::None,
        Activation::QuickGelu => KernelActivation::QuickGelu,
        Activation::Gelu => KernelActivation::Gelu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
    }
}

/// How a matrix is held: as its weight is, through reshapes too, or in f32, as all that is computed.
fn stored(graph: &Graph, weights: &HashMap<String, Held>, id: ValueId) -> Stored {
    let Op::Weight { name } = &graph.node(graph.storage(id)).op else { return Stored::F32 };
    match weights.get(name).map(|held| held.dtype) {
        Some(DType::F16) => Stored::F16,
        Some(DType::BF16) => Stored::BF16,
        _ => Stored::F32,
    }
}

/// The dispatches that compute a node: none for nodes that cost nothing, several for tables in several buffers. A grid
/// has at most `most` workgroups along each dimension.
pub(crate) fn lower(
    graph: &Graph,
    node: usize,
    weights: &HashMap<String, Held>,
    most: u32,
) -> Result<Vec<Dispatch>, BackendError> {
    let elements = graph.nodes()[node].elements();
    let shape = |id| graph.shape(id);
    let width = |id| graph.node(id).width();
    let one = |dispatch| vec![dispatch];
    // Sizes are at most 2^31, the most elements of a value.
    let done = |kernel, params: Vec<usize>, reads, grid| {
        let params = params.into_iter().map(|p| p as u32).collect();
        dispatch(kernel, params, reads, grid, most).map(one)
    };
    let (flat, stride) = per_element(elements, most);
    match graph.nodes()[node].op {
        Op::Input { .. } | Op::Weight { .. } | Op::Reshape { .. } => Ok(vec![]),
        Op::Linear(op) => linear(graph, elements, op, stored(graph, weights, op.weight), most).map(one),
        Op::Attention(op) => attention(graph, op, most).map(one),
        Op::LayerNorm { x, gamma, beta, eps } => {
            let rows = elements / width(x);
            let (grid, stride) = spread(rows, most);
            let params = vec![rows as u32, width(x) as u32, eps.to_bits(), stride as u32];
            dispatch(Kernel::LayerNorm, params, vec![x, gamma, beta], grid, most).map(one)
        }
        Op::L2Normalize { x } => {
            let rows = elements / width(x);
            let (grid, stride) = spread(rows, most);
            done(Kernel::L2Normalize, vec![rows, width(x), stride, 0], vec![x], grid)
        }
        Op::Embedding { table, ids: rows } | Op::GatherRows { x: table, rows } => {
            gather(graph, [table, rows], elements, weights, most)
        }
        Op::Add { a, b } => done(Kernel::Add, vec![elements, graph.node(b).elements(), stride, 0], vec![a, b], flat),
        Op::Activation { x, activation: a } => {
            done(Kernel::Activation(activation(a)), vec![elements, stride, 0, 0], vec![x], flat)
        }
        Op::Patchify { image, patch } => {
            let s = shape(image);
            done(Kernel::Patchify, vec![elements, stride, s[1], s[2], s[3], patch, 0, 0], vec![image], flat)
        }
        Op::Rope { x, cos, sin, .. } => {
            let s = shape(x);
            done(Kernel::Rope, vec![elements, stride, s[1], s[2], width(cos), 0, 0, 0], vec![x, cos, sin], flat)
        }
        Op::PrependToken { token, x } => {
            let s = shape(x);
            done(Kernel::PrependToken, vec![elements, stride, s[2], s[1]], vec![token, x], flat)
        }
    }
}

/// One dispatch for every buffer of the table, which writes what is of this buffer's rows.
fn gather(
    graph: &Graph,
    [table, rows]: [ValueId; 2],
    elements: usize,
    weights: &HashMap<String, Held>,
    most: u32,
) -> Result<Vec<Dispatch>, BackendError> {
    let node = graph.node(table);
    let held = if let Op::Weight { name } = &node.op { weights.get(name) } else { None };
    let parts = match held {
        Some(held) => (0..).zip(&held.parts).map(|(i, p)| (Read::Part(table, i), p.first, p.rows)).collect(),
        None => vec![(Read::Whole(table), 0, node.shape[0])],
    };
    let kernel = Kernel::Gather(stored(graph, weights, table));
    let (grid, stride) = per_element(elements, most);
    let one = |(source, first, count): (Read, usize, usize)| {
        let params = [elements, node.width(), stride, first, count, 0, 0, 0].map(|p| p as u32).to_vec();
        let made = dispatch(kernel, params, vec![table, rows], grid, most)?;
        Ok(Dispatch { reads: vec![source, Read::Whole(rows)], ..made })
    };
    parts.into_iter().map(one).collect()
}

fn linear(graph: &Graph, elements: usize, op: Linear, weight: Stored, most: u32) -> Result<Dispatch, BackendError> {
    let (n, k) = (graph.shape(op.weight)[0], graph.shape(op.weight)[1]);
    let m = elements / n;
    let tile = tile(m, n);
    let grid = [n.div_ceil(tile as usize), m.div_ceil(tile as usize), 1];
    let kernel = Kernel::Gemm(Gemm {
        tile,
        vec4: k.is_multiple_of(4),
        weight,
        bias: op.bias.is_some(),
        residual: op.residual.is_some(),
        activation: activation(op.activation),
    });
    // Bindings that the variant does not use are given the weight.
    let reads = vec![op.x, op.weight, op.bias.unwrap_or(op.weight), op.residual.unwrap_or(op.weight)];
    dispatch(kernel, vec![m as u32, n as u32, k as u32, 0], reads, grid, most)
}

fn attention(graph: &Graph, op: Attention, most: u32) -> Result<Dispatch, BackendError> {
    let Attention { q, k, v, heads, causal, lengths, scale } = op;
    let [batch, queries, width] = [0, 1, 2].map(|i| graph.shape(q)[i]);
    let head_dim = width / heads;
    within("a head of attention", head_dim as u64, MOST_HEAD_DIM, "elements")?;
    let keys = graph.shape(k)[1];
    let mut params = [queries, keys, heads, head_dim].map(|n| n as u32).to_vec();
    params.extend([scale.to_bits(), u32::from(causal), u32::from(lengths.is_some()), 0]);
    // Without lengths, their binding is given what is never read as such.
    let reads = vec![q, k, v, lengths.unwrap_or(q)];
    dispatch(Kernel::Attention, params, reads, [queries, heads, batch], most)
}

fn dispatch(
    kernel: Kernel,
    params: Vec<u32>,
    reads: Vec<ValueId>,
    grid: [usize; 3],
    most: u32,
) -> Result<Dispatch, BackendError> {
    let longest = grid.into_iter().max().unwrap_or_default() as u64;
    within(&format!("{kernel:?}, along one side of its grid,"), longest, u64::from(most), "workgroups")?;
    // Just checked against a u32.
    let reads = reads.into_iter().map(Read::Whole).collect();
    Ok(Dispatch { kernel, params, reads, grid: grid.map(|g| g as u32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WebGPU's default limit.
    const MOST: u32 = 65_535;

    #[test]
    fn grids_cover_all_elements() {
        for most in [7, MOST] {
            for n in [1, 255, 256, 257, 7 * 256, 7 * 256 + 1, 65_535 * 256, 65_535 * 256 + 1, 1 << 31] {
                let ([x, y, z], stride) = per_element(n, most);
                assert!(x <= most as usize && z == 1 && stride == x * 256);
                assert!(stride * y >= n && stride * (y - 1) < n, "{n} elements, {most} workgroups: {x} x {y}");
                // Indices stay below 2^32 in the threads beyond the end, too.
                assert!(stride * y < 1 << 32);
            }
        }
        assert!(per_element(1 << 31, MOST).0[1] <= MOST as usize, "the largest value has a grid");
    }

    #[test]
    fn small_products_get_small_tiles() {
        assert_eq!((tile(1, 512), tile(50, 2048), tile(512, 512), tile(3200, 768)), (32, 32, 64, 64));
    }

    #[test]
    fn what_no_grid_covers_is_an_error() {
        let lowered = |shape: &[usize], op: fn(&mut Graph, ValueId) -> ValueId, most| {
            let mut g = Graph::new();
            let x = g.input("x", shape).unwrap();
            let out = op(&mut g, x);
            lower(&g, out.index(), &HashMap::new(), most).map(|d| d[0].grid)
        };
        let normalize = |g: &mut Graph, x| g.l2_normalize(x).unwrap();
        assert_eq!(lowered(&[49, 3], normalize, 7).unwrap(), [7, 7, 1]);
        assert!(matches!(lowered(&[50, 3], normalize, 7), Err(BackendError::Limit { needed: 8, limit: 7, .. })));
        let attention = |g: &mut Graph, x| {
            let op = Attention { q: x, k: x, v: x, heads: 1, causal: false, lengths: None, scale: 1.0 };
            g.attention(op).unwrap()
        };
        assert_eq!(lowered(&[2, 65_535, 1], attention, MOST).unwrap(), [65_535, 1, 2]);
        assert!(matches!(lowered(&[2, 65_536, 1], attention, MOST), Err(BackendError::Limit { .. })));
        assert!(matches!(lowered(&[65_536, 2, 1], attention, MOST), Err(BackendError::Limit { .. })));
        assert!(matches!(lowered(&[1, 1, 257], attention, MOST), Err(BackendError::Limit { limit: 256, .. })));
        let linear = |g: &mut Graph, x| {
            let weight = g.weight("w", &[1, 1]).unwrap();
            let op = Linear { x, weight, bias: None, activation: Activation::None, residual: None };
            g.linear(op).unwrap()
        };
        assert_eq!(lowered(&[65_535 * 64, 1], linear, MOST).unwrap(), [1, 65_535, 1]);
        assert!(matches!(lowered(&[65_535 * 64 + 1, 1], linear, MOST), Err(BackendError::Limit { .. })));
    }
}
