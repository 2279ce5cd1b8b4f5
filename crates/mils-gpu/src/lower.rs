//! From ops to dispatches: which kernel, which parameters, which grid.

use crate::choose::{self, Class, MOST_HEAD_DIM};
use crate::device::within;
use crate::traffic;
use mils_graph::{Activation, Attention, BackendError, BiasedAttention, Cost, DType, Graph, Linear, Node, Op, ValueId};
use mils_shaders::{Activation as KernelActivation, Cooperative, Element, Gemm, Kernel, Stored};

/// What a graph is lowered for. Needs no device, so that what a run does can be counted without one.
pub(crate) struct Target<'a> {
    pub(crate) class: Class,
    /// Workgroups along each dimension of a grid, at most.
    pub(crate) most: u32,
    /// How activations lie.
    pub(crate) element: Element,
    /// Cooperative matrices that products may use.
    pub(crate) cooperative: Option<Cooperative>,
    /// How a weight lies, by its name. What is not known lies in one part, in f32.
    pub(crate) weights: &'a dyn Fn(&str) -> Option<Lie>,
}

/// How a weight lies in buffers.
#[derive(Clone, Debug)]
pub(crate) struct Lie {
    pub(crate) dtype: DType,
    /// First row and number of rows of every part.
    pub(crate) parts: Vec<(usize, usize)>,
}

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
    /// Arithmetic, and traffic if every operand is read once.
    pub(crate) cost: Cost,
    /// Bytes that its threads load and store.
    pub(crate) moved: u64,
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

fn activation(a: Activation) -> KernelActivation {
    match a {
        Activation::None => KernelActivation::None,
        Activation::QuickGelu => KernelActivation::QuickGelu,
        Activation::Gelu => KernelActivation::Gelu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
        Activation::Relu => KernelActivation::Relu,
        Activation::Tanh => KernelActivation::Tanh,
    }
}

impl Target<'_> {
    /// How a matrix is held: as its weight is, through reshapes too, or as all that is computed.
    fn stored(&self, graph: &Graph, id: ValueId) -> Stored {
        let lie = match &graph.node(graph.storage(id)).op {
            Op::Weight { name } => (self.weights)(name),
            _ => None,
        };
        match (lie.map(|lie| lie.dtype), self.element) {
            (Some(DType::F16), _) | (None, Element::F16) => Stored::F16,
            (Some(DType::BF16), _) => Stored::BF16,
            _ => Stored::F32,
        }
    }

    /// Bytes of an element of a node's value.
    fn element_bytes(&self, node: &Node) -> u64 {
        let lie = if let Op::Weight { name } = &node.op { (self.weights)(name) } else { None };
        match (lie.map_or(node.dtype, |lie| lie.dtype), self.element) {
            (DType::F16 | DType::BF16, _) | (DType::F32, Element::F16) => 2,
            _ => 4,
        }
    }
}

/// All dispatches of a graph, each with its node.
pub(crate) fn lower(graph: &Graph, target: &Target<'_>) -> Result<Vec<(usize, Dispatch)>, BackendError> {
    let mut all = Vec::new();
    for node in 0..graph.nodes().len() {
        let mut dispatches = node_dispatches(graph, node, target)?;
        for d in &mut dispatches {
            d.moved = traffic::moved(d.kernel, &d.params, d.grid, target.element);
        }
        // A table in parts is read once, by all of them together.
        if let Some(first) = dispatches.first_mut() {
            first.cost = graph.node_cost(node, |n| target.element_bytes(n));
        }
        all.extend(dispatches.into_iter().map(|d| (node, d)));
    }
    Ok(all)
}

/// The dispatches that compute a node: none for nodes that cost nothing, several for tables in several buffers.
fn node_dispatches(graph: &Graph, node: usize, target: &Target<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let most = target.most;
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
        Op::Linear(op) => linear(graph, elements, op, target).map(one),
        Op::Attention(op) => attention(graph, op, most).map(one),
        Op::BiasedAttention(op) => biased_attention(graph, op, most).map(one),
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
            gather(graph, [table, rows], elements, target)
        }
        Op::Add { a, b } => done(Kernel::Add, vec![elements, graph.node(b).elements(), stride, 0], vec![a, b], flat),
        Op::Activation { x, activation: a } => {
            done(Kernel::Activation(activation(a)), vec![elements, stride, 0, 0], vec![x], flat)
        }
        Op::Patchify { image, patch } => {
            let s = shape(image);
            done(Kernel::Patchify, vec![elements, stride, s[1], s[2], s[3], patch, 0, 0], vec![image], flat)
        }
        Op::Unfold { x, kernel, stride: step, padding } => {
            let (s, o) = (shape(x), &graph.nodes()[node].shape);
            let params = vec![elements, stride, s[1], s[2], s[3], kernel, step, padding, o[1], o[2], 0, 0];
            done(Kernel::Unfold, params, vec![x], flat)
        }
        Op::MaxPool { x, kernel, stride: step } => {
            let (s, o) = (shape(x), &graph.nodes()[node].shape);
            let params = vec![elements, stride, s[1], s[2], s[3], kernel, step, o[1], o[2], 0, 0, 0];
            done(Kernel::MaxPool, params, vec![x], flat)
        }
        Op::Gram { x, scale } => {
            let s = shape(x);
            let blocks = s[2].div_ceil(16);
            let params = vec![s[1] as u32, s[2] as u32, scale.to_bits(), 0];
            dispatch(Kernel::Gram, params, vec![x], [blocks, blocks, s[0]], most).map(one)
        }
        Op::Rope { x, cos, sin, .. } => {
            let s = shape(x);
            done(Kernel::Rope, vec![elements, stride, s[1], s[2], width(cos), 0, 0, 0], vec![x, cos, sin], flat)
        }
        Op::MeanRows { x } => {
            let s = shape(x);
            done(Kernel::MeanRows, vec![s[1], s[2], 0, 0], vec![x], [s[2].div_ceil(16), s[0], 1])
        }
        Op::Blend { a, b, gate, shared } => {
            let s = shape(a);
            done(Kernel::Blend, vec![elements, stride, s[1], s[2]], vec![a, b, gate, shared], flat)
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
    target: &Target<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let node = graph.node(table);
    let lie = if let Op::Weight { name } = &node.op { (target.weights)(name) } else { None };
    let parts = match lie {
        Some(lie) => (0..).zip(lie.parts).map(|(i, (first, rows))| (Read::Part(table, i), first, rows)).collect(),
        None => vec![(Read::Whole(table), 0, node.shape[0])],
    };
    let kernel = Kernel::Gather(target.stored(graph, table));
    let most = target.most;
    let (grid, stride) = per_element(elements, most);
    let one = |(source, first, count): (Read, usize, usize)| {
        let params = [elements, node.width(), stride, first, count, 0, 0, 0].map(|p| p as u32).to_vec();
        let made = dispatch(kernel, params, vec![table, rows], grid, most)?;
        Ok(Dispatch { reads: vec![source, Read::Whole(rows)], ..made })
    };
    parts.into_iter().map(one).collect()
}

fn linear(graph: &Graph, elements: usize, op: Linear, target: &Target<'_>) -> Result<Dispatch, BackendError> {
    let (n, k) = (graph.shape(op.weight)[0], graph.shape(op.weight)[1]);
    let m = elements / n;
    let weight = target.stored(graph, op.weight);
    let halves = target.element == Element::F16 && weight == Stored::F16;
    let tile = choose::tile(m, n, k, target.class, target.cooperative.filter(|_| halves));
    let [rows, columns] = tile.block().map(|side| side as usize);
    let grid = [n.div_ceil(columns), m.div_ceil(rows), 1];
    let kernel = Kernel::Gemm(Gemm {
        tile,
        weight,
        bias: op.bias.is_some(),
        residual: op.residual.is_some(),
        activation: activation(op.activation),
    });
    // Bindings that the variant does not use are given the weight.
    let reads = vec![op.x, op.weight, op.bias.unwrap_or(op.weight), op.residual.unwrap_or(op.weight)];
    dispatch(kernel, vec![m as u32, n as u32, k as u32, 0], reads, grid, target.most)
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
    let kernel = choose::attention(queries, head_dim);
    let block = if let Kernel::Attention(a) = kernel { a.queries as usize } else { 1 };
    dispatch(kernel, params, reads, [queries.div_ceil(block), heads, batch], most)
}

fn biased_attention(graph: &Graph, op: BiasedAttention, most: u32) -> Result<Dispatch, BackendError> {
    let BiasedAttention { q, k, v, bias, heads, scale } = op;
    let [batch, queries, width] = [0, 1, 2].map(|i| graph.shape(q)[i]);
    let head_dim = width / heads;
    within("a head of attention with a bias", head_dim as u64, choose::MOST_BIASED_HEAD_DIM, "elements")?;
    let mut params = [queries, graph.shape(k)[1], heads, head_dim].map(|n| n as u32).to_vec();
    params.extend([scale.to_bits(), graph.shape(bias)[0] as u32, 0, 0]);
    dispatch(
        choose::biased_attention(head_dim),
        params,
        vec![q, k, v, bias],
        [queries.div_ceil(64), heads, batch],
        most,
    )
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
    Ok(Dispatch { kernel, params, reads, grid: grid.map(|g| g as u32), cost: Cost::default(), moved: 0 })
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
    fn what_no_grid_covers_is_an_error() {
        let lowered = |shape: &[usize], op: fn(&mut Graph, ValueId) -> ValueId, most| {
            let mut g = Graph::new();
            let x = g.input("x", shape).unwrap();
            let out = op(&mut g, x);
            g.output(out);
            let target =
                Target { class: Class::Large, most, element: Element::F32, cooperative: None, weights: &|_| None };
            lower(&g, &target).map(|d| d[0].1.grid)
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
        assert_eq!(lowered(&[65_535 * 32, 1], linear, MOST).unwrap(), [1, 65_535, 1]);
        assert!(matches!(lowered(&[65_535 * 32 + 1, 1], linear, MOST), Err(BackendError::Limit { .. })));
    }
}
