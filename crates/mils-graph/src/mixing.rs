//! Building the ops of towers that mix what lies in windows and in several pictures of one thing: attention with a bias,
//! means of rows, and blends.

use crate::ValueId;
use crate::graph::{Built, Graph, GraphError, ensure};
use crate::op::{BiasedAttention, DType, Op};

impl Graph {
    /// See [`BiasedAttention`].
    ///
    /// # Errors
    /// If the shapes do not fit, or `scale` is not finite.
    pub fn biased_attention(&mut self, op: BiasedAttention) -> Built {
        let [q, k, v] = [op.q, op.k, op.v].map(|id| self.at("biased_attention", id).map(|node| &node.shape));
        let (q, k, v) = (q?, k?, v?);
        let ranks = q.len() == 3 && k.len() == 3 && k == v && q[0] == k[0] && q[2] == k[2];
        ensure!("biased_attention", ranks, "q {q:?}, k {k:?} and v {v:?} do not fit");
        let heads = op.heads;
        let whole = heads > 0 && q[2].is_multiple_of(heads);
        ensure!("biased_attention", whole, "{heads} heads do not divide {}", q[2]);
        let bias = &self.at("biased_attention", op.bias)?.shape;
        let fits = bias.len() == 4 && bias[1..] == [heads, q[1], k[1]] && q[0].is_multiple_of(bias[0]);
        ensure!("biased_attention", fits, "bias {bias:?} does not fit {heads} heads of q {q:?} and k {k:?}");
        ensure!("biased_attention", op.scale.is_finite(), "the scale {} is not finite", op.scale);
        let shape = q.clone();
        self.push("biased_attention", Op::BiasedAttention(op), shape, DType::F32)
    }

    /// See [`Op::MeanRows`].
    ///
    /// # Errors
    /// If x has no sequences of rows.
    pub fn mean_rows(&mut self, x: ValueId) -> Built {
        let s = &self.at("mean_rows", x)?.shape;
        ensure!("mean_rows", s.len() == 3, "x {s:?} has no sequences of rows");
        let shape = vec![s[0], s[2]];
        self.push("mean_rows", Op::MeanRows { x }, shape, DType::F32)
    }

    /// See [`Op::Blend`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn blend(&mut self, [a, b]: [ValueId; 2], gate: ValueId, shared: ValueId) -> Built {
        let shape = self.at("blend", a)?.shape.clone();
        let (other, g) = (&self.at("blend", b)?.shape, &self.at("blend", gate)?.shape);
        ensure!(
            "blend",
            shape.len() == 3 && other == &shape && g == &shape,
            "{other:?} and {g:?} are not a's {shape:?}"
        );
        let s = &self.at("blend", shared)?.shape;
        ensure!("blend", s[..] == [shape[0], shape[2]], "shared {s:?} is not one row a sequence of {shape:?}");
        self.push("blend", Op::Blend { a, b, gate, shared }, shape, DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;

    #[test]
    fn a_bias_is_of_heads_queries_and_keys() {
        let mut g = Graph::new();
        let [q, k] = [5, 7].map(|n| g.input("x", &[6, n, 12]).unwrap());
        let mut of = |shape: &[usize], heads| {
            let bias = g.input("bias", shape).unwrap();
            let made = g.biased_attention(BiasedAttention { q, k, v: k, bias, heads, scale: 1.0 });
            made.map(|id| g.shape(id).to_vec()).map_err(|e| e.to_string())
        };
        for groups in [1, 2, 3, 6] {
            assert_eq!(of(&[groups, 3, 5, 7], 3).unwrap(), [6, 5, 12], "{groups} biases");
        }
        for shape in [&[4, 3, 5, 7][..], &[1, 3, 7, 5], &[1, 2, 5, 7], &[3, 5, 7], &[12, 3, 5, 7]] {
            assert!(of(shape, 3).unwrap_err().contains("does not fit 3 heads"), "{shape:?}");
        }
        assert!(of(&[1, 5, 5, 7], 5).unwrap_err().contains("do not divide"));
        let (bias, ids) = (g.input("bias", &[1, 3, 5, 7]).unwrap(), g.index_input("ids", &[1, 3, 5, 7]).unwrap());
        let op = BiasedAttention { q, k, v: k, bias, heads: 3, scale: 1.0 };
        assert!(g.biased_attention(BiasedAttention { scale: f32::NAN, ..op }).is_err());
        assert!(g.biased_attention(BiasedAttention { v: q, ..op }).is_err());
        assert!(g.biased_attention(BiasedAttention { bias: ids, ..op }).unwrap_err().to_string().contains("U32"));
    }

    #[test]
    fn means_and_blends_are_of_sequences() {
        let mut g = Graph::new();
        let [x, y] = [5, 6].map(|n| g.input("x", &[2, n, 3]).unwrap());
        let mean = g.mean_rows(x).unwrap();
        assert_eq!(g.shape(mean), [2, 3]);
        assert!(g.mean_rows(mean).unwrap_err().to_string().contains("no sequences"));
        let blend = g.blend([x, x], x, mean).unwrap();
        assert_eq!(g.shape(blend), [2, 5, 3]);
        assert!(g.blend([x, y], x, mean).is_err() && g.blend([y, y], x, mean).is_err());
        assert!(g.blend([x, x], x, x).unwrap_err().to_string().contains("one row a sequence"));
        assert!(g.blend([mean, mean], mean, mean).is_err());
        let ids = g.index_input("ids", &[2, 5, 3]).unwrap();
        assert!(g.mean_rows(ids).is_err() && g.blend([x, x], ids, mean).is_err());
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
        let op = BiasedAttention { q: x, k: x, v: x, bias: x, heads: 1, scale: 1.0 };
        let tried = [
            g.biased_attention(BiasedAttention { bias: far, ..op }),
            g.biased_attention(BiasedAttention { q: far, ..op }),
            g.mean_rows(far),
            g.blend([far, x], x, x),
            g.blend([x, far], x, x),
            g.blend([x, x], far, x),
            g.blend([x, x], x, far),
        ];
        for (i, result) in tried.into_iter().enumerate() {
            assert!(result.is_err(), "call {i}");
        }
        assert_eq!(g.nodes().len(), 1, "a refused call adds nothing");
    }
}
