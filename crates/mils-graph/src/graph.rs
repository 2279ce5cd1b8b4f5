//! The graph: nodes in the order of computation, built with every shape checked.

use crate::op::{Activation, Attention, DType, Linear, Op};
use crate::{BackendError, HostTensor};

/// A node's number; also the name of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An op with the type and shape of its value.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Shape of the value; no dimension is 0.
    pub shape: Vec<usize>,
    /// Element type of the value.
    pub dtype: DType,
}

impl Node {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last dimension.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Shapes that do not fit an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {problem}")]
pub struct GraphError {
    op: &'static str,
    problem: String,
}

/// Larger values than this (in elements) are refused when the graph is built: 2^31, which still fits a u32 index.
const MOST_ELEMENTS: usize = 1 << 31;

/// A forward pass for one set of shapes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

type Built = Result<ValueId, GraphError>;

macro_rules! ensure {
    ($op:literal, $test:expr, $($why:tt)*) => {
        if !$test {
            return Err(GraphError { op: $op, problem: format!($($why)*) });
        }
    };
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes, each after the nodes that it reads.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that computes a value.
    pub fn node(&self, id: ValueId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Shape of a value.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.node(id).shape
    }

    /// Inputs, in the order of their declaration.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Outputs, in the order of their declaration.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Declares `value` an output.
    pub fn output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    /// An f32 input.
    ///
    /// # Errors
    /// If a dimension is 0 or the tensor is too large.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Built {
        let id = self.push("input", Op::Input { name: name.into() }, shape.to_vec(), DType::F32)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// A u32 input.
    ///
    /// # Errors
    /// If a dimension is 0 or the tensor is too large.
    pub fn index_input(&mut self, name: &str, shape: &[usize]) -> Built {
        let id = self.push("input", Op::Input { name: name.into() }, shape.to_vec(), DType::U32)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// A weight that the backend holds under `name`. Asked for twice, it is one node.
    ///
    /// # Errors
    /// If a dimension is 0, or the name was used with another shape.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Built {
        for (i, node) in self.nodes.iter().enumerate() {
            if matches!(&node.op, Op::Weight { name: n } if n == name) {
                ensure!("weight", node.shape == shape, "`{name}` is used as {:?} and {shape:?}", node.shape);
                return Ok(ValueId(i as u32));
            }
        }
        self.push("weight", Op::Weight { name: name.into() }, shape.to_vec(), DType::F32)
    }

    /// See [`Linear`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn linear(&mut self, op: Linear) -> Built {
        let (x, w) = (self.shape(op.x).to_vec(), self.shape(op.weight).to_vec());
        ensure!("linear", w.len() == 2 && x.last() == Some(&w[1]), "x {x:?} does not fit weight {w:?}");
        let mut shape = x;
        let last = shape.len() - 1;
        shape[last] = w[0];
        if let Some(b) = op.bias {
            ensure!("linear", self.shape(b) == [w[0]], "bias {:?} does not fit weight {w:?}", self.shape(b));
        }
        if let Some(r) = op.residual {
            ensure!("linear", self.shape(r) == shape, "residual {:?} is not {shape:?}", self.shape(r));
        }
        self.push("linear", Op::Linear(op), shape, DType::F32)
    }

    /// See [`Op::LayerNorm`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn layer_norm(&mut self, x: ValueId, gamma: ValueId, beta: ValueId, eps: f32) -> Built {
        let shape = self.shape(x).to_vec();
        let wanted = &shape[shape.len() - 1..];
        let fits = self.shape(gamma) == wanted && self.shape(beta) == wanted;
        ensure!("layer_norm", fits, "gamma {:?} does not fit x {shape:?}", self.shape(gamma));
        self.push("layer_norm", Op::LayerNorm { x, gamma, beta, eps }, shape, DType::F32)
    }

    /// See [`Attention`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn attention(&mut self, op: Attention) -> Built {
        let (q, k, v) = (self.shape(op.q), self.shape(op.k), self.shape(op.v));
        let ranks = q.len() == 3 && k.len() == 3 && k == v && q[0] == k[0] && q[2] == k[2];
        ensure!("attention", ranks, "q {q:?}, k {k:?} and v {v:?} do not fit");
        ensure!(
            "attention",
            op.heads > 0 && q[2].is_multiple_of(op.heads),
            "{} heads do not divide {}",
            op.heads,
            q[2]
        );
        ensure!("attention", !op.causal || q[1] == k[1], "causal attention needs as many queries as keys");
        let shape = q.to_vec();
        self.push("attention", Op::Attention(op), shape, DType::F32)
    }

    /// See [`Op::Embedding`].
    ///
    /// # Errors
    /// If the shapes or types do not fit.
    pub fn embedding(&mut self, table: ValueId, ids: ValueId) -> Built {
        let t = self.shape(table);
        let fits = t.len() == 2 && self.node(ids).dtype == DType::U32;
        ensure!("embedding", fits, "table {t:?} or the type of the ids does not fit");
        let mut shape = self.shape(ids).to_vec();
        shape.push(t[1]);
        self.push("embedding", Op::Embedding { table, ids }, shape, DType::F32)
    }

    /// See [`Op::Add`].
    ///
    /// # Errors
    /// If b's shape is not a's trailing dimensions.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        let shape = self.shape(a).to_vec();
        ensure!("add", shape.ends_with(self.shape(b)), "{:?} does not end {shape:?}", self.shape(b));
        self.push("add", Op::Add { a, b }, shape, DType::F32)
    }

    /// See [`Op::Patchify`].
    ///
    /// # Errors
    /// If the patch does not divide the image.
    pub fn patchify(&mut self, image: ValueId, patch: usize) -> Built {
        let s = self.shape(image);
        let fits = s.len() == 4 && patch > 0 && s[2].is_multiple_of(patch) && s[3].is_multiple_of(patch);
        ensure!("patchify", fits, "patch {patch} does not divide image {s:?}");
        let shape = vec![s[0], (s[2] / patch) * (s[3] / patch), s[1] * patch * patch];
        self.push("patchify", Op::Patchify { image, patch }, shape, DType::F32)
    }

    /// See [`Op::PrependToken`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn prepend_token(&mut self, token: ValueId, x: ValueId) -> Built {
        let (t, s) = (self.shape(token), self.shape(x));
        ensure!("prepend_token", s.len() == 3 && t == &s[2..], "token {t:?} does not fit {s:?}");
        let shape = vec![s[0], s[1] + 1, s[2]];
        self.push("prepend_token", Op::PrependToken { token, x }, shape, DType::F32)
    }

    /// See [`Op::GatherRows`].
    ///
    /// # Errors
    /// If the shapes or types do not fit.
    pub fn gather_rows(&mut self, x: ValueId, rows: ValueId) -> Built {
        let (s, r) = (self.shape(x), self.shape(rows));
        let fits = s.len() == 2 && r.len() == 1 && self.node(rows).dtype == DType::U32;
        ensure!("gather_rows", fits, "x {s:?}, rows {r:?} or their type do not fit");
        let shape = vec![r[0], s[1]];
        self.push("gather_rows", Op::GatherRows { x, rows }, shape, DType::F32)
    }

    /// See [`Op::L2Normalize`].
    ///
    /// # Errors
    /// Never for a value of this graph.
    pub fn l2_normalize(&mut self, x: ValueId) -> Built {
        self.push("l2_normalize", Op::L2Normalize { x }, self.shape(x).to_vec(), DType::F32)
    }

    /// See [`Op::Activation`].
    ///
    /// # Errors
    /// Never for a value of this graph.
    pub fn activation(&mut self, x: ValueId, activation: Activation) -> Built {
        self.push("activation", Op::Activation { x, activation }, self.shape(x).to_vec(), DType::F32)
    }

    /// See [`Op::Reshape`].
    ///
    /// # Errors
    /// If the number of elements changes.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Built {
        let from = self.node(x);
        let same = from.elements() == shape.iter().product::<usize>();
        ensure!("reshape", same, "{:?} has not as many elements as {shape:?}", from.shape);
        let dtype = from.dtype;
        self.push("reshape", Op::Reshape { x }, shape.to_vec(), dtype)
    }

    fn push(&mut self, op_name: &'static str, op: Op, shape: Vec<usize>, dtype: DType) -> Built {
        let elements = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let fits = elements.is_some_and(|n| n > 0 && n <= MOST_ELEMENTS);
        if !fits {
            return Err(GraphError {
                op: op_name,
                problem: format!("a value of shape {shape:?} is empty or too large"),
            });
        }
        for operand in op.operands() {
            let index = matches!(&op, Op::Embedding { ids, .. } if *ids == operand)
                || matches!(&op, Op::GatherRows { rows, .. } if *rows == operand)
                || matches!(op, Op::Reshape { .. });
            if !index && self.node(operand).dtype != DType::F32 {
                return Err(GraphError { op: op_name, problem: "an operand is not f32".into() });
            }
        }
        let id = ValueId(self.nodes.len() as u32);
        self.nodes.push(Node { op, shape, dtype });
        Ok(id)
    }

    /// The value whose storage `id` shares: itself, or what a chain of reshapes leads to.
    pub fn storage(&self, mut id: ValueId) -> ValueId {
        while let Op::Reshape { x } = self.node(id).op {
            id = x;
        }
        id
    }

    /// For every node, the last node that reads its storage (itself if none does; the number of nodes for outputs).
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            for operand in node.op.operands() {
                last[self.storage(operand).index()] = i;
            }
        }
        for &output in &self.outputs {
            last[self.storage(output).index()] = self.nodes.len();
        }
        last
    }

    /// Checks inputs before a run: number, types, shapes, and that every index is inside its table.
    ///
    /// # Errors
    /// Names the first input that does not fit.
    pub fn check_inputs(&self, inputs: &[HostTensor]) -> Result<(), BackendError> {
        if inputs.len() != self.inputs.len() {
            return Err(BackendError::Mismatch {
                name: "inputs".into(),
                expected: format!("{} tensors", self.inputs.len()),
                found: inputs.len().to_string(),
            });
        }
        for (&id, tensor) in self.inputs.iter().zip(inputs) {
            let node = self.node(id);
            let dtype = if tensor.as_f32().is_some() { DType::F32 } else { DType::U32 };
            if dtype != node.dtype || tensor.shape() != node.shape {
                return Err(BackendError::Mismatch {
                    name: self.input_name(id),
                    expected: format!("{:?} {:?}", node.dtype, node.shape),
                    found: format!("{dtype:?} {:?}", tensor.shape()),
                });
            }
        }
        for node in &self.nodes {
            let (table, ids) = match node.op {
                Op::Embedding { table, ids } => (table, ids),
                Op::GatherRows { x, rows } => (x, rows),
                _ => continue,
            };
            let ids = self.storage(ids);
            let Some(at) = self.inputs.iter().position(|&i| i == ids) else { continue };
            let limit = self.shape(table)[0];
            let found = inputs[at].as_u32().and_then(|all| all.iter().find(|&&i| i as usize >= limit));
            if let Some(&index) = found {
                return Err(BackendError::IndexOutOfRange { name: self.input_name(ids), index, limit });
            }
        }
        Ok(())
    }

    fn input_name(&self, id: ValueId) -> String {
        match &self.node(id).op {
            Op::Input { name } => name.clone(),
            _ => "value".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked_when_the_graph_is_built() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 3, 8]).unwrap();
        let w = g.weight("w", &[4, 7]).unwrap();
        let linear = Linear { x, weight: w, bias: None, activation: Activation::None, residual: None };
        assert!(g.linear(linear).unwrap_err().to_string().contains("does not fit weight"));
        assert!(g.weight("w", &[4, 8]).is_err());
        assert!(g.input("none", &[3, 0]).is_err());
        assert!(g.input("huge", &[usize::MAX, 2]).is_err());
        let heads = Attention { q: x, k: x, v: x, heads: 3, causal: false, scale: 1.0 };
        assert!(g.attention(heads).is_err());
        assert!(g.patchify(x, 2).is_err());
        assert!(g.reshape(x, &[6, 9]).is_err());
    }

    #[test]
    fn reshapes_share_storage_and_extend_its_life() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 8]).unwrap();
        let y = g.activation(x, Activation::Gelu).unwrap();
        let flat = g.reshape(y, &[16]).unwrap();
        let z = g.activation(flat, Activation::Gelu).unwrap();
        g.output(z);
        assert_eq!(g.storage(flat), y);
        let last = g.last_uses();
        assert_eq!((last[y.index()], last[z.index()]), (z.index(), 4));
    }

    #[test]
    fn inputs_are_checked_before_a_run() {
        let mut g = Graph::new();
        let ids = g.index_input("ids", &[2]).unwrap();
        let table = g.weight("table", &[10, 4]).unwrap();
        let e = g.embedding(table, ids).unwrap();
        g.output(e);
        let bad = HostTensor::u32(&[2], vec![1, 10]).unwrap();
        assert!(g.check_inputs(&[bad]).unwrap_err().to_string().contains("index 10"));
        let float = HostTensor::f32(&[2], vec![0.0; 2]).unwrap();
        assert!(g.check_inputs(&[float]).is_err());
        let good = HostTensor::u32(&[2], vec![1, 9]).unwrap();
        assert!(g.check_inputs(&[good]).is_ok());
        assert!(g.check_inputs(&[]).is_err());
    }
}
