//! Graphs on the CPU: which buffer each value lives in, and the loop over the nodes.

use crate::attention::Bias;
use crate::convolution::{self, Windows};
use crate::held::Held;
use crate::ops::{self, AttentionShape, Epilogue};
use crate::tiled::{self, Packed, Scratch};
use crate::weights::{Weight, held};
use mils_graph::{
    Attention, Backend, BackendError, BiasedAttention, DType, Graph, HostTensor, Linear, Op, Place, Plan, Program,
    ValueId, WeightSet, check_weights,
};
use std::collections::HashMap;
use std::sync::Arc;

/// What linear layers multiply with. Everything else is in f32, and so are all sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Math {
    /// f32, whatever weights are held in.
    #[default]
    F32,
    /// bf16, 8 bits of every number: weights and what they are multiplied with are rounded. Faster where
    /// [`Cpu::bf16_is_faster`] says so; where the CPU has no dot products of bf16 (AVX512-BF16) it is the same as
    /// [`Math::F32`].
    BF16,
}

impl Math {
    /// The fastest on this CPU.
    pub fn fastest() -> Self {
        if Cpu::bf16_is_faster() { Self::BF16 } else { Self::F32 }
    }
}

/// The CPU as a backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    math: Math,
}

impl Cpu {
    /// Runs on rayon's global pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another arithmetic.
    pub fn with_math(math: Math) -> Self {
        Self { math }
    }

    /// Whether [`Math::BF16`] is another arithmetic on this CPU.
    pub fn has_bf16() -> bool {
        tiled::has_dot()
    }

    /// Whether [`Math::BF16`] is faster than [`Math::F32`] on this CPU, by its maker: having dot products of bf16 does not
    /// say that they are quick.
    pub fn bf16_is_faster() -> bool {
        tiled::has_fast_dot()
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        match self.math {
            Math::BF16 if Self::has_bf16() => "cpu (bf16)".into(),
            _ => "cpu".into(),
        }
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        check_weights(&weights)?;
        let weights = weights.into_iter().map(|(name, tensor)| (name, Weight::new(tensor))).collect();
        Ok(Box::new(CpuWeights { weights, math: self.math }))
    }
}

struct CpuWeights {
    weights: HashMap<String, Weight>,
    math: Math,
}

struct CpuProgram {
    graph: Graph,
    math: Math,
    /// By node, the weights in the forms that are read.
    weights: Vec<Forms>,
    places: Vec<Place>,
    slots: Vec<Vec<f32>>,
    scratch: Scratch,
}

/// The forms of a weight that a graph reads; neither of what is no weight.
#[derive(Clone, Default)]
struct Forms {
    plain: Option<Arc<HostTensor>>,
    packed: Option<Arc<Packed>>,
}

impl CpuWeights {
    /// A weight of a linear layer packed, if this CPU has tiles for it; every other reader gets it plain.
    fn forms(&self, graph: &Graph) -> Result<Vec<Forms>, BackendError> {
        let mut all = vec![Forms::default(); graph.nodes().len()];
        let weight = |id: ValueId| match &graph.node(id).op {
            Op::Weight { name } => self.weights.get(name),
            _ => None,
        };
        let plain = |all: &mut Vec<Forms>, id: ValueId| {
            let id = graph.storage(id);
            let forms = &mut all[id.index()];
            if let (Some(weight), None) = (weight(id), &forms.plain) {
                forms.plain = Some(weight.plain()?);
            }
            Ok::<_, BackendError>(())
        };
        for node in graph.nodes() {
            for (position, operand) in node.op.operands().into_iter().enumerate() {
                let multiplied = matches!(node.op, Op::Linear(_)) && position == 1;
                // Not one under another shape, whose rows are others.
                if let (true, Some(weight)) = (multiplied, weight(operand)) {
                    let forms = &mut all[operand.index()];
                    if forms.packed.is_none() {
                        forms.packed = weight.packed(self.math);
                    }
                    if forms.packed.is_some() {
                        continue;
                    }
                }
                if !matches!(node.op, Op::Reshape { .. }) {
                    plain(&mut all, operand)?;
                }
            }
        }
        graph.outputs().iter().try_for_each(|&id| plain(&mut all, id))?;
        Ok(all)
    }
}

impl WeightSet for CpuWeights {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        graph.check(|name| self.weights.get(name).map(|w| (w.dtype(), w.shape())))?;
        let Plan { places, slots } = graph.plan();
        let slots = slots.into_iter().map(zeros).collect::<Result<_, _>>()?;
        let weights = self.forms(graph)?;
        let (graph, scratch) = (graph.clone(), Scratch::default());
        Ok(Box::new(CpuProgram { graph, math: self.math, weights, places, slots, scratch }))
    }
}

/// A buffer of this many elements. Not `vec!`, which ends the process where there is not so much memory.
fn zeros(elements: usize) -> Result<Vec<f32>, BackendError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(elements).map_err(|e| BackendError::OutOfMemory {
        during: format!("reserving {elements} elements of activations"),
        problem: e.to_string(),
    })?;
    buffer.resize(elements, 0.0);
    Ok(buffer)
}

impl CpuProgram {
    /// The elements of an f32 value. That each value is of the type that its readers want, and each weight there, was
    /// checked when the graph was built, at compile time and before the run.
    fn floats<'a>(&'a self, inputs: &'a [HostTensor], id: ValueId) -> &'a [f32] {
        let storage = self.graph.storage(id);
        let n = self.graph.node(id).elements();
        let all = match self.places[storage.index()] {
            Place::Input(i) => inputs[i].as_f32().unwrap_or_default(),
            Place::Slot(s) => &self.slots[s],
            Place::Weight => self.weights[storage.index()].plain.as_ref().and_then(|w| w.as_f32()).unwrap_or_default(),
        };
        &all[..n]
    }

    /// The elements of a value that may be held in 16 bits.
    fn matrix<'a>(&'a self, inputs: &'a [HostTensor], id: ValueId) -> Held<'a> {
        match &self.weights[self.graph.storage(id).index()].plain {
            Some(weight) => held(weight).unwrap_or(Held::F32(&[])),
            None => Held::F32(self.floats(inputs, id)),
        }
    }

    fn indices<'a>(&self, inputs: &'a [HostTensor], id: ValueId) -> &'a [u32] {
        match self.places[self.graph.storage(id).index()] {
            Place::Input(i) => inputs[i].as_u32().unwrap_or_default(),
            _ => &[],
        }
    }

    /// Computes one node into `out`, which is not among the operands: a slot is free only after its last reader.
    fn step(&self, inputs: &[HostTensor], node: usize, out: &mut [f32], scratch: &mut Scratch) {
        let value = |id| self.floats(inputs, id);
        let shape = |id| self.graph.shape(id);
        match self.graph.nodes()[node].op {
            Op::Input { .. } | Op::Weight { .. } | Op::Reshape { .. } => {}
            Op::Linear(Linear { x, weight, bias, activation, residual }) => {
                let (n, k) = (shape(weight)[0], shape(weight)[1]);
                let epilogue = Epilogue { bias: bias.map(value), activation, residual: residual.map(value) };
                match &self.weights[weight.index()].packed {
                    Some(packed) => tiled::linear(out, value(x), packed, epilogue, (self.math, scratch)),
                    None => ops::linear(out, value(x), self.matrix(inputs, weight), [out.len() / n, n, k], epilogue),
                }
            }
            Op::LayerNorm { x, gamma, beta, eps } => ops::layer_norm(out, value(x), value(gamma), value(beta), eps),
            Op::Attention(Attention { q, k, v, heads, causal, lengths, scale }) => {
                let s = AttentionShape {
                    batch: shape(q)[0],
                    queries: shape(q)[1],
                    keys: shape(k)[1],
                    heads,
                    head_dim: shape(q)[2] / heads,
                    causal,
                    scale,
                };
                let lengths = lengths.map(|id| self.indices(inputs, id));
                let [q, k, v] = [q, k, v].map(value);
                if !tiled::attention(out, [q, k, v], (lengths, None), s) {
                    ops::attention(out, [q, k, v], lengths, s);
                }
            }
            Op::BiasedAttention(BiasedAttention { q, k, v, bias, heads, scale }) => {
                let (batch, queries, keys) = (shape(q)[0], shape(q)[1], shape(k)[1]);
                let head_dim = shape(q)[2] / heads;
                let s = AttentionShape { batch, queries, keys, heads, head_dim, causal: false, scale };
                let [q, k, v, bias] = [q, k, v, bias].map(value);
                if !tiled::attention(out, [q, k, v], (None, Some(Bias::new(bias, s))), s) {
                    ops::biased_attention(out, [q, k, v], bias, s);
                }
            }
            Op::Embedding { table, ids } => {
                ops::gather(out, self.matrix(inputs, table), self.indices(inputs, ids), shape(table)[1]);
            }
            Op::GatherRows { x, rows } => {
                ops::gather(out, Held::F32(value(x)), self.indices(inputs, rows), shape(x)[1]);
            }
            Op::Add { a, b } => ops::add(out, value(a), value(b)),
            Op::Patchify { image, patch } => {
                let s = shape(image);
                ops::patchify(out, value(image), [s[0], s[1], s[2], s[3]], patch);
            }
            Op::Unfold { x, kernel, stride, padding } => {
                let (s, o) = (shape(x), &self.graph.nodes()[node].shape);
                let windows = Windows { image: [s[1], s[2], s[3]], out: [o[1], o[2]], kernel, stride, padding };
                convolution::unfold(out, value(x), windows);
            }
            Op::MaxPool { x, kernel, stride } => {
                let (s, o) = (shape(x), &self.graph.nodes()[node].shape);
                let windows = Windows { image: [s[1], s[2], s[3]], out: [o[1], o[2]], kernel, stride, padding: 0 };
                convolution::max_pool(out, value(x), windows);
            }
            Op::Gram { x, scale } => convolution::gram(out, value(x), shape(x)[1], shape(x)[2], scale),
            Op::PrependToken { token, x } => ops::prepend(out, value(token), value(x), shape(x)[1]),
            Op::Rope { x, cos, sin, heads } => {
                ops::rope(out, value(x), [cos, sin].map(value), heads, shape(cos)[1]);
            }
            Op::MeanRows { x } => ops::mean_rows(out, value(x), shape(x)[1], shape(x)[2]),
            Op::Blend { a, b, gate, shared } => {
                ops::blend(out, [a, b, gate].map(value), value(shared), shape(a)[1], shape(a)[2]);
            }
            Op::L2Normalize { x } => ops::l2_normalize(out, value(x), self.graph.node(x).width()),
            Op::Activation { x, activation } => ops::activation(out, value(x), activation),
        }
    }
}

impl Program for CpuProgram {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        self.graph.check_inputs(inputs)?;
        for i in 0..self.graph.nodes().len() {
            let node = &self.graph.nodes()[i];
            if matches!(node.op, Op::Reshape { .. }) {
                continue;
            }
            let Place::Slot(slot) = self.places[i] else { continue };
            let n = node.elements();
            // Taken out so that the operands can be borrowed; put back right after.
            let mut buffer = std::mem::take(&mut self.slots[slot]);
            let mut scratch = std::mem::take(&mut self.scratch);
            self.step(inputs, i, &mut buffer[..n], &mut scratch);
            (self.slots[slot], self.scratch) = (buffer, scratch);
        }
        self.graph
            .outputs()
            .iter()
            .map(|&id| {
                let node = self.graph.node(id);
                Ok(match node.dtype {
                    DType::U32 => HostTensor::u32(&node.shape, self.indices(inputs, id).to_vec())?,
                    _ => HostTensor::f32(&node.shape, self.floats(inputs, id).to_vec())?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_graph::Activation;

    #[test]
    fn slots_are_reused_and_outputs_survive() {
        let mut g = Graph::new();
        let x = g.input("x", &[4]).unwrap();
        let mut v = g.activation(x, Activation::None).unwrap();
        g.output(v);
        for _ in 0..6 {
            v = g.add(v, x).unwrap();
        }
        g.output(v);
        let weights = Cpu::new().load(vec![]).unwrap();
        let mut program = weights.compile(&g).unwrap();
        let input = HostTensor::f32(&[4], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        for _ in 0..2 {
            let out = program.run(std::slice::from_ref(&input)).unwrap();
            assert_eq!(out[0].as_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
            assert_eq!(out[1].as_f32().unwrap(), [7.0, 14.0, 21.0, 28.0]);
        }
    }

    #[test]
    fn weights_are_checked_at_compile_time() {
        let mut g = Graph::new();
        let w = g.weight("w", &[2, 2]).unwrap();
        g.output(w);
        let none = Cpu::new().load(vec![]).unwrap();
        assert!(matches!(none.compile(&g), Err(BackendError::MissingWeight(_))));
        let wrong = HostTensor::f32(&[4], vec![0.0; 4]).unwrap();
        let wrong = Cpu::new().load(vec![("w".into(), wrong)]).unwrap();
        assert!(matches!(wrong.compile(&g), Err(BackendError::Mismatch { .. })));
        let index = HostTensor::u32(&[2, 2], vec![0; 4]).unwrap();
        let index = Cpu::new().load(vec![("w".into(), index)]);
        assert!(matches!(index.err(), Some(BackendError::Mismatch { .. })));
    }

    #[test]
    fn too_much_memory_is_an_error() {
        assert!(matches!(zeros(usize::MAX / 8), Err(BackendError::OutOfMemory { .. })));
        assert_eq!(zeros(3).unwrap(), [0.0; 3]);
    }

    #[test]
    fn a_run_with_nan_leaves_nothing_behind() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 4]).unwrap();
        let w = g.weight("w", &[4, 4]).unwrap();
        let mut v = x;
        for _ in 0..3 {
            let op = Linear { x: v, weight: w, bias: None, activation: Activation::Gelu, residual: None };
            v = g.linear(op).unwrap();
        }
        g.output(v);
        let w = HostTensor::f32(&[4, 4], (0..16).map(|i| i as f32 / 16.0).collect()).unwrap();
        let mut program = Cpu::new().load(vec![("w".into(), w)]).unwrap().compile(&g).unwrap();
        let good = HostTensor::f32(&[2, 4], vec![0.5; 8]).unwrap();
        let bad = HostTensor::f32(&[2, 4], vec![f32::NAN; 8]).unwrap();
        let before = program.run(std::slice::from_ref(&good)).unwrap();
        assert!(program.run(&[bad]).unwrap()[0].as_f32().unwrap().iter().all(|v| v.is_nan()));
        assert_eq!(program.run(&[good]).unwrap(), before);
    }

    #[test]
    fn inputs_weights_and_reshapes_may_be_outputs() {
        let mut g = Graph::new();
        let x = g.index_input("x", &[2, 2]).unwrap();
        let w = g.weight("w", &[2]).unwrap();
        let (flat, column) = (g.reshape(x, &[4]).unwrap(), g.reshape(w, &[2, 1]).unwrap());
        for value in [x, flat, column, w, w] {
            g.output(value);
        }
        let w = HostTensor::f32(&[2], vec![1.0, 2.0]).unwrap();
        let mut program = Cpu::new().load(vec![("w".into(), w)]).unwrap().compile(&g).unwrap();
        let out = program.run(&[HostTensor::u32(&[2, 2], vec![1, 2, 3, 4]).unwrap()]).unwrap();
        assert_eq!(out[1], HostTensor::u32(&[4], vec![1, 2, 3, 4]).unwrap());
        assert_eq!(out[2], HostTensor::f32(&[2, 1], vec![1.0, 2.0]).unwrap());
        assert_eq!((out.len(), &out[3]), (5, &out[4]));
    }
}
