//! From ops to dispatches: which kernel, which parameters, which grid.

use mils_graph::{Activation, Attention, BackendError, Graph, Linear, Op, ValueId};
use mils_shaders::{Activation as KernelActivation, Gemm, Kernel};

/// Workgroups along one dimension of a grid, by WebGPU's default limits.
const MOST_GROUPS: usize = 65_535;
/// Columns of v that attention.wgsl can hold.
const MOST_HEAD_DIM: usize = 256;

/// One kernel launch. `reads` are bound after the parameters, in order, then the output.
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    pub(crate) params: Vec<u32>,
    pub(crate) reads: Vec<ValueId>,
    pub(crate) grid: [u32; 3],
}

/// A grid over `n` workgroups in two dimensions, and its width.
fn spread(n: usize) -> ([u32; 3], u32) {
    let x = n.clamp(1, MOST_GROUPS);
    let y = n.div_ceil(x);
    ([x as u32, y as u32, 1], x as u32)
}

/// A grid of one thread an element, 256 a workgroup, and its width in threads.
fn per_element(elements: usize) -> ([u32; 3], u32) {
    let (grid, width) = spread(elements.div_ceil(256));
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

/// The dispatch that computes a node; `None` for nodes that cost nothing.
pub(crate) fn lower(graph: &Graph, node: usize) -> Result<Option<Dispatch>, BackendError> {
    let elements = graph.nodes()[node].elements();
    let shape = |id| graph.shape(id);
    let width = |id| graph.node(id).width();
    let done = |kernel, params: Vec<usize>, reads, grid| {
        let params = params.into_iter().map(|p| p as u32).collect();
        Ok(Some(Dispatch { kernel, params, reads, grid }))
    };
    let (flat, stride) = per_element(elements);
    let stride = stride as usize;
    match graph.nodes()[node].op {
        Op::Input { .. } | Op::Weight { .. } | Op::Reshape { .. } => Ok(None),
        Op::Linear(op) => linear(graph, elements, op).map(Some),
        Op::Attention(op) => attention(graph, op).map(Some),
        Op::LayerNorm { x, gamma, beta, eps } => {
            let rows = elements / width(x);
            let (grid, stride) = spread(rows);
            let params = vec![rows as u32, width(x) as u32, eps.to_bits(), stride];
            Ok(Some(Dispatch { kernel: Kernel::LayerNorm, params, reads: vec![x, gamma, beta], grid }))
        }
        Op::L2Normalize { x } => {
            let rows = elements / width(x);
            let (grid, stride) = spread(rows);
            done(Kernel::L2Normalize, vec![rows, width(x), stride as usize, 0], vec![x], grid)
        }
        Op::Embedding { table, ids: rows } | Op::GatherRows { x: table, rows } => {
            done(Kernel::Gather, vec![elements, width(table), stride, 0], vec![table, rows], flat)
        }
        Op::Add { a, b } => done(Kernel::Add, vec![elements, graph.node(b).elements(), stride, 0], vec![a, b], flat),
        Op::Activation { x, activation: a } => {
            done(Kernel::Activation(activation(a)), vec![elements, stride, 0, 0], vec![x], flat)
        }
        Op::Patchify { image, patch } => {
            let s = shape(image);
            done(Kernel::Patchify, vec![elements, stride, s[1], s[2], s[3], patch, 0, 0], vec![image], flat)
        }
        Op::PrependToken { token, x } => {
            let s = shape(x);
            done(Kernel::PrependToken, vec![elements, stride, s[2], s[1]], vec![token, x], flat)
        }
    }
}

fn linear(graph: &Graph, elements: usize, op: Linear) -> Result<Dispatch, BackendError> {
    let (n, k) = (graph.shape(op.weight)[0], graph.shape(op.weight)[1]);
    let m = elements / n;
    let tile = tile(m, n);
    let grid = [n.div_ceil(tile as usize), m.div_ceil(tile as usize), 1];
    check_grid("linear", grid)?;
    let kernel = Kernel::Gemm(Gemm {
        tile,
        vec4: k.is_multiple_of(4),
        bias: op.bias.is_some(),
        residual: op.residual.is_some(),
        activation: activation(op.activation),
    });
    // Bindings that the variant does not use are given the weight.
    let reads = vec![op.x, op.weight, op.bias.unwrap_or(op.weight), op.residual.unwrap_or(op.weight)];
    Ok(Dispatch { kernel, params: vec![m as u32, n as u32, k as u32, 0], reads, grid: grid.map(|g| g as u32) })
}

fn attention(graph: &Graph, op: Attention) -> Result<Dispatch, BackendError> {
    let Attention { q, k, v, heads, causal, scale } = op;
    let [batch, queries, width] = [0, 1, 2].map(|i| graph.shape(q)[i]);
    let head_dim = width / heads;
    if head_dim > MOST_HEAD_DIM {
        return Err(BackendError::Device(format!(
            "heads of {head_dim} are wider than the GPU kernel's {MOST_HEAD_DIM}; use the CPU backend"
        )));
    }
    let grid = [queries, heads, batch];
    check_grid("attention", grid)?;
    let keys = graph.shape(k)[1];
    let params =
        vec![queries as u32, keys as u32, heads as u32, head_dim as u32, scale.to_bits(), u32::from(causal), 0, 0];
    Ok(Dispatch { kernel: Kernel::Attention, params, reads: vec![q, k, v], grid: grid.map(|g| g as u32) })
}

fn check_grid(op: &str, grid: [usize; 3]) -> Result<(), BackendError> {
    if grid.iter().all(|&g| g <= MOST_GROUPS) {
        return Ok(());
    }
    Err(BackendError::Device(format!("{op}: a grid of {grid:?} workgroups is too large; use smaller batches")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_all_elements() {
        for n in [1, 255, 256, 257, 65_535 * 256, 65_535 * 256 + 1, 100_000_000] {
            let ([x, y, z], stride) = per_element(n);
            assert!(x as usize <= MOST_GROUPS && y as usize <= MOST_GROUPS && z == 1);
            assert!(stride as usize * y as usize >= n && stride == x * 256);
        }
    }

    #[test]
    fn small_products_get_small_tiles() {
        assert_eq!((tile(1, 512), tile(50, 2048), tile(512, 512), tile(3200, 768)), (32, 32, 64, 64));
    }
}
