//! Building the ops of convolutional towers, over images whose channels lie together: neighbourhoods, maxima, and Gram
//! matrices.

use crate::ValueId;
use crate::graph::{Built, Graph, GraphError, ensure};
use crate::op::{DType, Op};

/// How many windows of `kernel` fit into `side` at steps of `stride`; none where none does.
fn windows(side: usize, kernel: usize, stride: usize) -> Option<usize> {
    (kernel > 0 && stride > 0).then(|| side.checked_sub(kernel).map(|rest| rest / stride + 1)).flatten()
}

impl Graph {
    /// See [`Op::Unfold`].
    ///
    /// # Errors
    /// If no window fits, or some would lie in the padding alone.
    pub fn unfold(&mut self, x: ValueId, kernel: usize, stride: usize, padding: usize) -> Built {
        let s = &self.at("unfold", x)?.shape;
        ensure!("unfold", s.len() == 4, "x {s:?} is no image");
        ensure!("unfold", padding < kernel.max(1), "a padding of {padding} is not below the kernel's {kernel}");
        let padded = |side: usize| side.checked_add(2 * padding);
        let sides = [s[1], s[2]].map(|side| padded(side).and_then(|side| windows(side, kernel, stride)));
        let [Some(height), Some(width)] = sides else {
            let problem = format!("a window of {kernel} at steps of {stride} does not fit into {s:?}");
            return Err(GraphError { op: "unfold", problem });
        };
        let elements = kernel.checked_mul(kernel).and_then(|n| n.checked_mul(s[3]));
        ensure!("unfold", elements.is_some(), "a kernel of {kernel} is too large");
        let shape = vec![s[0], height, width, elements.unwrap_or_default()];
        self.push("unfold", Op::Unfold { x, kernel, stride, padding }, shape, DType::F32)
    }

    /// See [`Op::MaxPool`].
    ///
    /// # Errors
    /// If no window fits.
    pub fn max_pool(&mut self, x: ValueId, kernel: usize, stride: usize) -> Built {
        let s = &self.at("max_pool", x)?.shape;
        ensure!("max_pool", s.len() == 4, "x {s:?} is no image");
        let [Some(height), Some(width)] = [s[1], s[2]].map(|side| windows(side, kernel, stride)) else {
            let problem = format!("a window of {kernel} at steps of {stride} does not fit into {s:?}");
            return Err(GraphError { op: "max_pool", problem });
        };
        let shape = vec![s[0], height, width, s[3]];
        self.push("max_pool", Op::MaxPool { x, kernel, stride }, shape, DType::F32)
    }

    /// See [`Op::Gram`].
    ///
    /// # Errors
    /// If x has no sequences of rows, or `scale` is not finite.
    pub fn gram(&mut self, x: ValueId, scale: f32) -> Built {
        let s = &self.at("gram", x)?.shape;
        ensure!("gram", s.len() == 3, "x {s:?} has no sequences of rows");
        ensure!("gram", scale.is_finite(), "the scale {scale} is not finite");
        let shape = vec![s[0], s[2], s[2]];
        self.push("gram", Op::Gram { x, scale }, shape, DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;

    #[test]
    fn windows_are_those_of_a_convolution() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 7, 10, 3]).unwrap();
        let mut of = |kernel, stride, padding| {
            g.unfold(x, kernel, stride, padding).map(|id| g.shape(id).to_vec()).map_err(|e| e.to_string())
        };
        // As torch.nn.functional.conv2d has them.
        assert_eq!(of(3, 1, 1).unwrap(), [2, 7, 10, 27]);
        assert_eq!(of(3, 1, 0).unwrap(), [2, 5, 8, 27]);
        assert_eq!(of(3, 2, 1).unwrap(), [2, 4, 5, 27]);
        assert_eq!(of(1, 1, 0).unwrap(), [2, 7, 10, 3]);
        assert_eq!(of(7, 4, 0).unwrap(), [2, 1, 1, 147]);
        assert!(of(8, 1, 0).unwrap_err().contains("does not fit"));
        for (kernel, stride, padding) in [(0, 1, 0), (3, 0, 1), (3, 1, 3), (usize::MAX, 1, 0), (3, 1, usize::MAX)] {
            assert!(of(kernel, stride, padding).is_err(), "{kernel} {stride} {padding}");
        }
    }

    #[test]
    fn pools_leave_out_what_remains() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 7, 10, 3]).unwrap();
        let pool = g.max_pool(x, 2, 2).unwrap();
        assert_eq!(g.shape(pool), [2, 3, 5, 3]);
        let pool = g.max_pool(x, 3, 2).unwrap();
        assert_eq!(g.shape(pool), [2, 3, 4, 3]);
        assert!(g.max_pool(x, 8, 1).is_err() && g.max_pool(x, 0, 1).is_err() && g.max_pool(x, 1, 0).is_err());
    }

    #[test]
    fn gram_matrices_are_of_sequences() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 7, 10, 3]).unwrap();
        assert!(g.gram(x, 1.0).unwrap_err().to_string().contains("no sequences"));
        let rows = g.reshape(x, &[2, 70, 3]).unwrap();
        let gram = g.gram(rows, 0.5).unwrap();
        assert_eq!(g.shape(gram), [2, 3, 3]);
        assert!(g.gram(rows, f32::NAN).is_err() && g.unfold(rows, 1, 1, 0).is_err() && g.max_pool(rows, 1, 1).is_err());
        let ids = g.index_input("ids", &[2, 7, 10, 3]).unwrap();
        assert!(g.unfold(ids, 1, 1, 0).is_err() && g.max_pool(ids, 1, 1).is_err());
    }

    #[test]
    fn values_of_a_longer_graph_are_refused() {
        let mut long = Graph::new();
        let mut far = long.input("x", &[1, 4, 4, 4]).unwrap();
        for _ in 0..4 {
            far = long.activation(far, Activation::Relu).unwrap();
        }
        let mut g = Graph::new();
        g.input("x", &[1, 4, 4, 4]).unwrap();
        assert!(g.unfold(far, 1, 1, 0).is_err() && g.max_pool(far, 1, 1).is_err() && g.gram(far, 1.0).is_err());
        assert_eq!(g.nodes().len(), 1, "a refused call adds nothing");
    }
}
