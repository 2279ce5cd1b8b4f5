//! The graph: nodes in the order of computation, built with every shape checked.

use crate::op::{Activation, Attention, DType, Linear, Op};

/// A node's number; also the name of its value. It means something in the graph that made it, and in clones of it.
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
    /// Number of elements: at least 1, at most 2^31. A scalar, of shape [], has one.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last dimension; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Shapes, types or numbers that do not fit an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {problem}")]
pub struct GraphError {
    pub(crate) op: &'static str,
    pub(crate) problem: String,
}

/// Larger values than this (in elements) are refused when the graph is built: 2^31, which still fits a u32 index.
const MOST_ELEMENTS: usize = 1 << 31;

/// Number of elements; none where it is more than a usize holds.
fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))
}

/// A forward pass for one set of shapes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

pub(crate) type Built = Result<ValueId, GraphError>;

macro_rules! ensure {
    ($op:literal, $test:expr, $($why:tt)*) => {
        if !$test {
            return Err(GraphError { op: $op, problem: format!($($why)*) });
        }
    };
}
pub(crate) use ensure;

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
    ///
    /// # Panics
    /// If the value is of another, longer graph. The methods that add nodes answer that with an error.
    pub fn node(&self, id: ValueId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Shape of a value.
    ///
    /// # Panics
    /// As [`Graph::node`].
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

    /// Declares `value` an output. Whether it is a value of this graph is checked at compile time: [`Graph::check`].
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

    /// A weight that the backend holds under `name`, in f32 or in 16 bits; its value is f32. Asked for twice, it is
    /// one node.
    ///
    /// # Errors
    /// If a dimension is 0, the tensor is too large, or the name was used with another shape.
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
        let (x, w) = (self.at("linear", op.x)?.shape.clone(), self.at("linear", op.weight)?.shape.clone());
        ensure!("linear", w.len() == 2 && x.last() == Some(&w[1]), "x {x:?} does not fit weight {w:?}");
        let mut shape = x;
        let last = shape.len() - 1;
        shape[last] = w[0];
        if let Some(b) = op.bias {
            let b = &self.at("linear", b)?.shape;
            ensure!("linear", b == &[w[0]], "bias {b:?} does not fit weight {w:?}");
        }
        if let Some(r) = op.residual {
            let r = &self.at("linear", r)?.shape;
            ensure!("linear", r == &shape, "residual {r:?} is not {shape:?}");
        }
        self.push("linear", Op::Linear(op), shape, DType::F32)
    }

    /// See [`Op::LayerNorm`].
    ///
    /// # Errors
    /// If the shapes do not fit, x is a scalar, or `eps` is negative or not finite.
    pub fn layer_norm(&mut self, x: ValueId, gamma: ValueId, beta: ValueId, eps: f32) -> Built {
        let shape = self.at("layer_norm", x)?.shape.clone();
        let (g, b) = (&self.at("layer_norm", gamma)?.shape, &self.at("layer_norm", beta)?.shape);
        let fits = !shape.is_empty() && g == b && g == &shape[shape.len() - 1..];
        ensure!("layer_norm", fits, "gamma {g:?} and beta {b:?} do not fit x {shape:?}");
        ensure!("layer_norm", eps.is_finite() && eps >= 0.0, "eps {eps} is negative or not finite");
        self.push("layer_norm", Op::LayerNorm { x, gamma, beta, eps }, shape, DType::F32)
    }

    /// See [`Attention`].
    ///
    /// # Errors
    /// If the shapes do not fit, or `scale` is not finite.
    pub fn attention(&mut self, op: Attention) -> Built {
        let [q, k, v] = [op.q, op.k, op.v].map(|id| self.at("attention", id).map(|node| &node.shape));
        let (q, k, v) = (q?, k?, v?);
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
        if let Some(lengths) = op.lengths {
            let lengths = &self.at("attention", lengths)?.shape;
            ensure!("attention", lengths == &q[..1], "lengths {lengths:?} are not one a sequence of k {k:?}");
        }
        ensure!("attention", op.scale.is_finite(), "the scale {} is not finite", op.scale);
        let shape = q.clone();
        self.push("attention", Op::Attention(op), shape, DType::F32)
    }

    /// See [`Op::Embedding`].
    ///
    /// # Errors
    /// If the shapes or types do not fit.
    pub fn embedding(&mut self, table: ValueId, ids: ValueId) -> Built {
        let t = &self.at("embedding", table)?.shape;
        ensure!("embedding", t.len() == 2, "the table {t:?} is not a matrix");
        let mut shape = self.at("embedding", ids)?.shape.clone();
        shape.push(t[1]);
        self.push("embedding", Op::Embedding { table, ids }, shape, DType::F32)
    }

    /// See [`Op::Add`].
    ///
    /// # Errors
    /// If b's shape is not a's trailing dimensions.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        let shape = self.at("add", a)?.shape.clone();
        let tail = &self.at("add", b)?.shape;
        ensure!("add", shape.ends_with(tail), "{tail:?} does not end {shape:?}");
        self.push("add", Op::Add { a, b }, shape, DType::F32)
    }

    /// See [`Op::Patchify`].
    ///
    /// # Errors
    /// If the patch is empty or larger than the image.
    pub fn patchify(&mut self, image: ValueId, patch: usize) -> Built {
        let s = &self.at("patchify", image)?.shape;
        let fits = s.len() == 4 && patch > 0 && patch <= s[2] && patch <= s[3];
        ensure!("patchify", fits, "patch {patch} does not fit into image {s:?}");
        let shape = vec![s[0], (s[2] / patch) * (s[3] / patch), s[1] * patch * patch];
        self.push("patchify", Op::Patchify { image, patch }, shape, DType::F32)
    }

    /// See [`Op::PrependToken`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn prepend_token(&mut self, token: ValueId, x: ValueId) -> Built {
        let (t, s) = (&self.at("prepend_token", token)?.shape, &self.at("prepend_token", x)?.shape);
        ensure!("prepend_token", s.len() == 3 && t[..] == s[2..], "token {t:?} does not fit {s:?}");
        let shape = vec![s[0], s[1] + 1, s[2]];
        self.push("prepend_token", Op::PrependToken { token, x }, shape, DType::F32)
    }

    /// See [`Op::Rope`].
    ///
    /// # Errors
    /// If the shapes do not fit, or a head has an odd number of elements.
    pub fn rope(&mut self, x: ValueId, cos: ValueId, sin: ValueId, heads: usize) -> Built {
        let shape = self.at("rope", x)?.shape.clone();
        let (c, s) = (&self.at("rope", cos)?.shape, &self.at("rope", sin)?.shape);
        let whole = heads > 0 && shape.len() == 3 && shape[2].is_multiple_of(heads);
        ensure!("rope", whole, "{heads} heads do not fit x {shape:?}");
        let wanted = [shape[1], shape[2] / heads];
        ensure!("rope", wanted[1].is_multiple_of(2), "a head of {} elements has no pairs", wanted[1]);
        ensure!("rope", c == &wanted && s == &wanted, "cos {c:?} and sin {s:?} are not {wanted:?}");
        self.push("rope", Op::Rope { x, cos, sin, heads }, shape, DType::F32)
    }

    /// See [`Op::GatherRows`].
    ///
    /// # Errors
    /// If the shapes or types do not fit.
    pub fn gather_rows(&mut self, x: ValueId, rows: ValueId) -> Built {
        let (s, r) = (&self.at("gather_rows", x)?.shape, &self.at("gather_rows", rows)?.shape);
        ensure!("gather_rows", s.len() == 2 && r.len() == 1, "x {s:?} and rows {r:?} do not fit");
        let shape = vec![r[0], s[1]];
        self.push("gather_rows", Op::GatherRows { x, rows }, shape, DType::F32)
    }

    /// See [`Op::L2Normalize`].
    ///
    /// # Errors
    /// If x is not f32.
    pub fn l2_normalize(&mut self, x: ValueId) -> Built {
        let shape = self.at("l2_normalize", x)?.shape.clone();
        self.push("l2_normalize", Op::L2Normalize { x }, shape, DType::F32)
    }

    /// See [`Op::Activation`].
    ///
    /// # Errors
    /// If x is not f32.
    pub fn activation(&mut self, x: ValueId, activation: Activation) -> Built {
        let shape = self.at("activation", x)?.shape.clone();
        self.push("activation", Op::Activation { x, activation }, shape, DType::F32)
    }

    /// See [`Op::Reshape`].
    ///
    /// # Errors
    /// If the number of elements changes.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Built {
        let from = self.at("reshape", x)?;
        ensure!(
            "reshape",
            product(shape) == Some(from.elements()),
            "{:?} has not as many elements as {shape:?}",
            from.shape
        );
        let dtype = from.dtype;
        self.push("reshape", Op::Reshape { x }, shape.to_vec(), dtype)
    }

    pub(crate) fn push(&mut self, op_name: &'static str, op: Op, shape: Vec<usize>, dtype: DType) -> Built {
        let fail = |problem| GraphError { op: op_name, problem };
        if !product(&shape).is_some_and(|n| n > 0 && n <= MOST_ELEMENTS) {
            return Err(fail(format!("a value of shape {shape:?} is empty or too large")));
        }
        // By position and not by value: the same value may be the table and the ids.
        for (position, operand) in op.operands().into_iter().enumerate() {
            let wanted = match (&op, position) {
                (Op::Reshape { .. }, _) => continue,
                (Op::Embedding { .. } | Op::GatherRows { .. }, 1) | (Op::Attention(_), 3) => DType::U32,
                _ => DType::F32,
            };
            let found = self.at(op_name, operand)?.dtype;
            if found != wanted {
                return Err(fail(format!("operand {position} is {found:?}, not {wanted:?}")));
            }
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| fail("the graph has too many nodes".into()))?;
        self.nodes.push(Node { op, shape, dtype });
        Ok(ValueId(id))
    }

    /// A node by a number that may be another graph's.
    pub(crate) fn at(&self, op: &'static str, id: ValueId) -> Result<&Node, GraphError> {
        let problem = || format!("value {} is of another graph", id.index());
        self.nodes.get(id.index()).ok_or_else(|| GraphError { op, problem: problem() })
    }

    /// The value whose storage `id` shares: itself, or what a chain of reshapes leads to.
    ///
    /// # Panics
    /// As [`Graph::node`].
    pub fn storage(&self, mut id: ValueId) -> ValueId {
        while let Op::Reshape { x } = self.node(id).op {
            id = x;
        }
        id
    }

    /// For every node, the last node that reads its storage (itself if none does; the number of nodes for outputs).
    ///
    /// # Panics
    /// If an output is of another graph, which [`Graph::check`] finds.
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
        let heads = Attention { q: x, k: x, v: x, heads: 3, causal: false, lengths: None, scale: 1.0 };
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
    fn what_would_panic_later_is_an_error_now() {
        let mut g = Graph::new();
        let x = g.input("x", &[4, 4]).unwrap();
        let scalar = g.input("scalar", &[]).unwrap();
        let ids = g.index_input("ids", &[2, 2]).unwrap();
        let row = g.index_input("row", &[2]).unwrap();
        // One value as table and as ids: of the right type for one of the two only.
        assert!(g.embedding(ids, ids).unwrap_err().to_string().contains("operand 0 is U32"));
        assert!(g.embedding(x, x).unwrap_err().to_string().contains("operand 1 is F32"));
        assert!(g.gather_rows(ids, row).is_err() && g.gather_rows(x, x).is_err());
        assert!(g.layer_norm(scalar, scalar, scalar, 1e-5).is_err());
        assert!(
            g.activation(ids, Activation::Gelu).is_err() && g.l2_normalize(ids).is_err() && g.add(ids, ids).is_err()
        );
        let w = g.weight("w", &[4]).unwrap();
        assert!(g.layer_norm(x, w, w, f32::NAN).is_err() && g.layer_norm(x, w, w, -1e-5).is_err());
        let q = g.reshape(x, &[1, 4, 4]).unwrap();
        let op = Attention { q, k: q, v: q, heads: 2, causal: false, lengths: None, scale: f32::INFINITY };
        assert!(g.attention(op).is_err() && g.attention(Attention { heads: 0, scale: 1.0, ..op }).is_err());
        // (2^60 + 1) · 16 wraps round to the 16 elements of x.
        assert!(g.reshape(x, &[(1 << 60) + 1, 16]).is_err());
        assert!(g.patchify(x, 1).is_err() && g.prepend_token(scalar, x).is_err());
    }

    #[test]
    fn patches_leave_out_what_remains_of_the_image() {
        let mut g = Graph::new();
        let image = g.input("image", &[1, 3, 384, 30]).unwrap();
        let patches = g.patchify(image, 14).unwrap();
        assert_eq!(g.shape(patches), [1, 27 * 2, 3 * 14 * 14]);
        assert!(g.patchify(image, 30).is_ok(), "as wide as the image");
        assert!(g.patchify(image, 31).is_err() && g.patchify(image, 0).is_err());
    }

    #[test]
    fn lengths_are_one_index_a_sequence() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 3, 8]).unwrap();
        let [lengths, more] = [2, 3].map(|n| g.index_input("lengths", &[n]).unwrap());
        let floats = g.input("floats", &[2]).unwrap();
        let of = |lengths| Attention { q: x, k: x, v: x, heads: 2, causal: true, lengths: Some(lengths), scale: 1.0 };
        assert!(g.attention(of(lengths)).is_ok());
        assert!(g.attention(of(more)).unwrap_err().to_string().contains("lengths [3]"));
        assert!(g.attention(of(floats)).unwrap_err().to_string().contains("operand 3 is F32"));
    }

    #[test]
    fn rope_wants_whole_heads_of_pairs() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 3, 12]).unwrap();
        let [six, four, three] = [6, 4, 3].map(|d| g.weight(&format!("w{d}"), &[3, d]).unwrap());
        let rotated = g.rope(x, six, six, 2).unwrap();
        assert_eq!(g.shape(rotated), [2, 3, 12]);
        assert!(g.rope(x, four, four, 3).is_ok());
        assert!(g.rope(x, six, four, 2).is_err() && g.rope(x, four, six, 2).is_err());
        assert!(g.rope(x, three, three, 4).unwrap_err().to_string().contains("no pairs"));
        assert!(
            g.rope(x, six, six, 0).is_err() && g.rope(x, six, six, 5).is_err() && g.rope(six, six, six, 1).is_err()
        );
        let ids = g.index_input("ids", &[3, 6]).unwrap();
        assert!(g.rope(x, ids, six, 2).is_err() && g.rope(x, six, ids, 2).is_err());
    }

    #[test]
    fn values_of_a_longer_graph_are_refused() {
        let mut long = Graph::new();
        let mut far = long.input("x", &[1, 4, 4]).unwrap();
        for _ in 0..4 {
            far = long.activation(far, Activation::Gelu).unwrap();
        }
        let mut g = Graph::new();
        let x = g.input("x", &[1, 4, 4]).unwrap();
        let linear = Linear { x, weight: x, bias: None, activation: Activation::None, residual: None };
        let attention = Attention { q: x, k: far, v: x, heads: 1, causal: false, lengths: None, scale: 1.0 };
        let tried = [
            g.linear(Linear { x: far, ..linear }),
            g.linear(Linear { weight: far, ..linear }),
            g.layer_norm(far, x, x, 0.0),
            g.layer_norm(x, far, x, 0.0),
            g.attention(attention),
            g.attention(Attention { k: x, lengths: Some(far), ..attention }),
            g.rope(far, x, x, 1),
            g.rope(x, far, x, 1),
            g.rope(x, x, far, 1),
            g.embedding(far, x),
            g.add(x, far),
            g.patchify(far, 1),
            g.prepend_token(far, x),
            g.gather_rows(far, x),
            g.l2_normalize(far),
            g.activation(far, Activation::Gelu),
            g.reshape(far, &[16]),
        ];
        for (i, result) in tried.into_iter().enumerate() {
            assert!(result.is_err(), "call {i}");
        }
        assert_eq!(g.nodes().len(), 1, "a refused call adds nothing");
    }
}
