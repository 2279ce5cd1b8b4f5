//! What a graph costs at least: its arithmetic and its bytes, the two floors under any backend's time.

use crate::{Attention, BiasedAttention, Graph, Linear, Node, Op};
use std::collections::HashSet;
use std::ops::AddAssign;

/// Arithmetic and traffic of an op, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations of the matrix products: 2 for a multiplication with its addition. All else (norms,
    /// activations, softmax) is a few operations an element, which bytes bound and not arithmetic: not counted.
    pub flops: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

impl Cost {
    /// Bytes read and written.
    pub fn bytes(self) -> u64 {
        self.read + self.written
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.read += other.read;
        self.written += other.written;
    }
}

impl Graph {
    /// What a run costs if nothing is read or written twice: arithmetic of all ops; every input read once, every weight
    /// read once however many ops read it (of an embedding's table, the rows that are looked up), every output written
    /// once. Values between ops cost nothing: no backend can do with less, and only one that kept them on its chip could
    /// do with as little.
    ///
    /// `element` gives the bytes of one element of a node's value: 4 in f32, 2 where it is held in 16 bits.
    ///
    /// # Panics
    /// If an output is of another graph, which [`Graph::check`] finds.
    pub fn cost(&self, element: impl Fn(&Node) -> u64) -> Cost {
        let mut total = Cost::default();
        let mut read: HashSet<usize> = HashSet::new();
        for (i, node) in self.nodes().iter().enumerate() {
            total.flops += self.flops(&node.op);
            for (position, id) in node.op.operands().into_iter().enumerate() {
                let storage = self.storage(id);
                let given = matches!(self.node(storage).op, Op::Input { .. } | Op::Weight { .. });
                if !given || matches!(node.op, Op::Reshape { .. }) {
                    continue;
                }
                if let Some(rows) = self.looked_up(i, position) {
                    total.read += rows * element(self.node(storage));
                } else if read.insert(storage.index()) {
                    total.read += bytes(self.node(storage), &element);
                }
            }
        }
        total.written = self.outputs().iter().map(|&id| bytes(self.node(id), &element)).sum();
        total
    }

    /// What one node costs by itself: its arithmetic, every operand read once (of an embedding's table, the rows that
    /// are looked up; an operand given twice, once) and its value written once. Inputs, weights and reshapes cost
    /// nothing. Summed over the nodes this is what a backend moves that runs op after op.
    ///
    /// `element` is as for [`Graph::cost`].
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_cost(&self, index: usize, element: impl Fn(&Node) -> u64) -> Cost {
        let node = &self.nodes()[index];
        if matches!(node.op, Op::Input { .. } | Op::Weight { .. } | Op::Reshape { .. }) {
            return Cost::default();
        }
        let mut cost = Cost { flops: self.flops(&node.op), read: 0, written: bytes(node, &element) };
        let mut read: HashSet<usize> = HashSet::new();
        for (position, id) in node.op.operands().into_iter().enumerate() {
            let storage = self.storage(id);
            if let Some(rows) = self.looked_up(index, position) {
                cost.read += rows * element(self.node(storage));
            } else if read.insert(storage.index()) {
                cost.read += bytes(self.node(storage), &element);
            }
        }
        cost
    }

    /// Elements that are read of an operand of which only some rows are: those of the result.
    fn looked_up(&self, node: usize, position: usize) -> Option<u64> {
        let node = &self.nodes()[node];
        let table = matches!(node.op, Op::Embedding { .. } | Op::GatherRows { .. }) && position == 0;
        table.then(|| node.elements() as u64)
    }

    fn flops(&self, op: &Op) -> u64 {
        match *op {
            Op::Linear(Linear { x, weight, .. }) => 2 * self.node(x).elements() as u64 * self.shape(weight)[0] as u64,
            // Two products, with the keys and with the values. Lengths are known only when it runs.
            Op::Attention(Attention { q, k, causal, .. }) => {
                let (queries, keys) = (self.shape(q)[1] as u64, self.shape(k)[1] as u64);
                let pairs = if causal { queries * (queries + 1) / 2 } else { queries * keys };
                4 * self.shape(q)[0] as u64 * pairs * self.shape(q)[2] as u64
            }
            Op::BiasedAttention(BiasedAttention { q, k, .. }) => {
                4 * self.node(q).elements() as u64 * self.shape(k)[1] as u64
            }
            Op::Gram { x, .. } => 2 * self.node(x).elements() as u64 * self.shape(x)[2] as u64,
            _ => 0,
        }
    }
}

fn bytes(node: &Node, element: impl Fn(&Node) -> u64) -> u64 {
    node.elements() as u64 * element(node)
}

/// What a program does in one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// How many times commands are handed to the device.
    pub submits: u64,
    /// By kind of kernel, by name.
    pub kernels: Vec<KernelWork>,
}

/// What the kernels of one kind do in a run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KernelWork {
    /// The kernel with its variant, for people.
    pub kernel: String,
    /// How many times one is launched.
    pub dispatches: u64,
    /// Groups of threads that are launched.
    pub workgroups: u64,
    /// Arithmetic, and traffic if every operand is read once.
    pub cost: Cost,
    /// Bytes that threads load from memory and store to it, as the kernel is written: an operand that several groups
    /// read counts as often. Caches serve a part of it. 0 of a backend that does not say.
    pub moved: u64,
    /// Seconds on the device, of a run that was timed.
    pub seconds: Option<f64>,
}

impl Work {
    /// Adds a launch of a kernel: its groups, its cost, the bytes that it moves, and its seconds if it was timed.
    pub fn add(&mut self, kernel: &str, workgroups: u64, cost: Cost, moved: u64, seconds: Option<f64>) {
        self.merge(&KernelWork { kernel: kernel.to_owned(), dispatches: 1, workgroups, cost, moved, seconds });
    }

    fn merge(&mut self, more: &KernelWork) {
        let at = self.kernels.binary_search_by(|k| k.kernel.cmp(&more.kernel)).unwrap_or_else(|at| {
            self.kernels.insert(at, KernelWork { kernel: more.kernel.clone(), ..KernelWork::default() });
            at
        });
        let of = &mut self.kernels[at];
        of.dispatches += more.dispatches;
        of.workgroups += more.workgroups;
        of.cost += more.cost;
        of.moved += more.moved;
        if let Some(more) = more.seconds {
            *of.seconds.get_or_insert(0.0) += more;
        }
    }

    /// Launches of all kernels.
    pub fn dispatches(&self) -> u64 {
        self.kernels.iter().map(|k| k.dispatches).sum()
    }

    /// Arithmetic and traffic of all kernels.
    pub fn cost(&self) -> Cost {
        let mut total = Cost::default();
        self.kernels.iter().for_each(|k| total += k.cost);
        total
    }

    /// Bytes that all kernels move.
    pub fn moved(&self) -> u64 {
        self.kernels.iter().map(|k| k.moved).sum()
    }
}

/// Both, one after the other.
impl AddAssign<&Work> for Work {
    fn add_assign(&mut self, other: &Work) {
        self.submits += other.submits;
        other.kernels.iter().for_each(|k| self.merge(k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;

    const F32: fn(&Node) -> u64 = |_| 4;

    #[test]
    fn a_linear_layer_costs_what_it_does_by_hand() {
        let mut g = Graph::new();
        let x = g.input("x", &[3, 5, 8]).unwrap();
        let weight = g.weight("w", &[16, 8]).unwrap();
        let bias = g.weight("b", &[16]).unwrap();
        let op = Linear { x, weight, bias: Some(bias), activation: Activation::Gelu, residual: None };
        let y = g.linear(op).unwrap();
        let z = g.linear(Linear { residual: Some(y), ..op }).unwrap();
        g.output(z);
        let flops = 2 * 15 * 8 * 16;
        let (x, w, b, y) = (15 * 8 * 4, 16 * 8 * 4, 16 * 4, 15 * 16 * 4);
        assert_eq!(g.node_cost(3, F32), Cost { flops, read: x + w + b, written: y });
        assert_eq!(g.node_cost(4, F32), Cost { flops, read: x + w + b + y, written: y });
        // The two layers share their operands; what is between them costs nothing.
        assert_eq!(g.cost(F32), Cost { flops: 2 * flops, read: x + w + b, written: y });
        let halves = g.cost(|node| if matches!(&node.op, Op::Weight { name } if name == "w") { 2 } else { 4 });
        assert_eq!(halves.read, x + w / 2 + b);
    }

    #[test]
    fn attention_costs_the_pairs_that_it_sees() {
        let cost = |causal, queries: usize| {
            let mut g = Graph::new();
            let q = g.input("q", &[2, queries, 12]).unwrap();
            let k = g.input("k", &[2, 7, 12]).unwrap();
            let op = Attention { q, k, v: k, heads: 3, causal, lengths: None, scale: 1.0 };
            let y = g.attention(op).unwrap();
            g.output(y);
            g.node_cost(2, F32)
        };
        // Keys are the values, and read once.
        let bytes = |queries: u64| (2 * (queries + 7) * 12 * 4, 2 * queries * 12 * 4);
        let (read, written) = bytes(5);
        assert_eq!(cost(false, 5), Cost { flops: 2 * 2 * 2 * 5 * 7 * 12, read, written });
        let (read, written) = bytes(7);
        assert_eq!(cost(true, 7), Cost { flops: 2 * 2 * 2 * 28 * 12, read, written });
    }

    #[test]
    fn biased_attention_reads_its_bias_once_for_all_sequences() {
        let mut g = Graph::new();
        let q = g.input("q", &[6, 5, 12]).unwrap();
        let k = g.input("k", &[6, 7, 12]).unwrap();
        let bias = g.weight("bias", &[2, 3, 5, 7]).unwrap();
        let y = g.biased_attention(BiasedAttention { q, k, v: k, bias, heads: 3, scale: 1.0 }).unwrap();
        g.output(y);
        let (read, written) = ((6 * 5 * 12 + 6 * 7 * 12 + 2 * 3 * 5 * 7) * 4, 6 * 5 * 12 * 4);
        assert_eq!(g.node_cost(3, F32), Cost { flops: 2 * 2 * 6 * 5 * 7 * 12, read, written });
    }

    #[test]
    fn means_and_blends_cost_their_bytes() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 5, 3]).unwrap();
        let mean = g.mean_rows(x).unwrap();
        let blend = g.blend([x, x], x, mean).unwrap();
        g.output(blend);
        let (all, row) = (2 * 5 * 3 * 4, 2 * 3 * 4);
        assert_eq!(g.node_cost(1, F32), Cost { flops: 0, read: all, written: row });
        assert_eq!(g.node_cost(2, F32), Cost { flops: 0, read: all + row, written: all });
    }

    #[test]
    fn a_convolution_costs_its_product_and_the_rows_before_it() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 4, 6, 5]).unwrap();
        let rows = g.unfold(x, 3, 1, 1).unwrap();
        let weight = g.weight("w", &[7, 45]).unwrap();
        let op = Linear { x: rows, weight, bias: None, activation: Activation::None, residual: None };
        let y = g.linear(op).unwrap();
        let flat = g.reshape(y, &[2, 24, 7]).unwrap();
        let gram = g.gram(flat, 1.0).unwrap();
        g.output(gram);
        let (image, unfolded, result) = (2 * 24 * 5 * 4, 2 * 24 * 45 * 4, 2 * 24 * 7 * 4);
        assert_eq!(g.node_cost(1, F32), Cost { flops: 0, read: image, written: unfolded });
        assert_eq!(g.node_cost(3, F32).flops, 2 * 2 * 24 * 45 * 7);
        assert_eq!(g.node_cost(5, F32), Cost { flops: 2 * 2 * 24 * 7 * 7, read: result, written: 2 * 49 * 4 });
    }

    #[test]
    fn of_a_table_only_rows_are_read() {
        let mut g = Graph::new();
        let table = g.weight("table", &[1000, 6]).unwrap();
        let ids = g.index_input("ids", &[2, 3]).unwrap();
        let a = g.embedding(table, ids).unwrap();
        let flat = g.reshape(a, &[6, 6]).unwrap();
        let norm = g.l2_normalize(flat).unwrap();
        g.output(norm);
        let (rows, index) = (6 * 6 * 4, 6 * 4);
        assert_eq!(g.node_cost(2, F32), Cost { flops: 0, read: rows + index, written: rows });
        assert_eq!(g.node_cost(3, F32), Cost::default());
        assert_eq!(g.cost(F32), Cost { flops: 0, read: rows + index, written: rows });
    }

    #[test]
    fn work_is_gathered_by_kernel() {
        let mut work = Work::default();
        let cost = Cost { flops: 10, read: 2, written: 1 };
        for (kernel, groups) in [("b", 4), ("a", 1), ("b", 3)] {
            work.add(kernel, groups, cost, 7, (kernel == "b").then_some(0.5));
        }
        let names: Vec<_> = work.kernels.iter().map(|k| (&k.kernel[..], k.dispatches, k.workgroups)).collect();
        assert_eq!(names, [("a", 1, 1), ("b", 2, 7)]);
        assert_eq!((work.kernels[0].seconds, work.kernels[1].seconds), (None, Some(1.0)));
        assert_eq!((work.dispatches(), work.cost().flops, work.cost().bytes()), (3, 30, 9));
        assert_eq!(work.moved(), 21);
        work.submits = 1;
        let mut twice = work.clone();
        twice += &work;
        let of = |w: &Work| (w.submits, w.dispatches(), w.moved(), w.kernels[1].workgroups, w.kernels[1].seconds);
        assert_eq!(of(&twice), (2, 6, 42, 14, Some(2.0)));
    }
}
