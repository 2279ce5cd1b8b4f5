//! The memory plan: which values may share a buffer because their lives do not overlap.

use crate::{Graph, Op};

/// Where a value's elements are during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The run's input of this number.
    Input(usize),
    /// The backend's weight of the node's name.
    Weight,
    /// The activation buffer of this number.
    Slot(usize),
}

/// A place for every node of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By node; a reshape has the place of what it reshapes.
    pub places: Vec<Place>,
    /// Elements of every activation buffer.
    pub slots: Vec<usize>,
}

impl Graph {
    /// Gives every computed value a slot, reusing those whose value nobody reads any more. The slot that a node writes
    /// is never one that it reads.
    ///
    /// # Panics
    /// If an output is of another graph, which [`Graph::check`] finds.
    pub fn plan(&self) -> Plan {
        let last = self.last_uses();
        let mut places: Vec<Place> = Vec::with_capacity(self.nodes().len());
        let mut slots: Vec<usize> = Vec::new();
        // For every slot, the node after which it is free.
        let mut busy_until: Vec<usize> = Vec::new();
        for (i, node) in self.nodes().iter().enumerate() {
            let place = match &node.op {
                Op::Input { .. } => {
                    // Every input node was registered when it was made.
                    let at = self.inputs().iter().position(|id| id.index() == i);
                    Place::Input(at.unwrap_or_default())
                }
                Op::Weight { .. } => Place::Weight,
                Op::Reshape { x } => places[self.storage(*x).index()],
                _ => {
                    let need = node.elements();
                    // The best fitting free slot, so that small values do not take large buffers.
                    let free = (0..slots.len()).filter(|&s| busy_until[s] < i);
                    let slot = free.min_by_key(|&s| slots[s].abs_diff(need)).unwrap_or_else(|| {
                        slots.push(0);
                        busy_until.push(0);
                        slots.len() - 1
                    });
                    slots[slot] = slots[slot].max(need);
                    busy_until[slot] = last[i];
                    Place::Slot(slot)
                }
            };
            places.push(place);
        }
        Plan { places, slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Linear, ValueId};

    /// Plays a plan: whatever a node reads must still be there, in another slot than the one that it writes.
    fn play(g: &Graph, plan: &Plan) {
        let mut holds: Vec<Option<usize>> = vec![None; plan.slots.len()];
        let check = |holds: &[Option<usize>], id: ValueId| {
            if let Place::Slot(slot) = plan.places[id.index()] {
                assert_eq!(holds[slot], Some(g.storage(id).index()), "slot {slot} was taken from under a reader");
            }
        };
        for (i, node) in g.nodes().iter().enumerate() {
            for operand in node.op.operands() {
                check(&holds, operand);
                let free = matches!(node.op, Op::Reshape { .. }) || plan.places[operand.index()] != plan.places[i];
                assert!(free, "node {i} writes what it reads");
            }
            if let (Place::Slot(slot), false) = (plan.places[i], matches!(node.op, Op::Reshape { .. })) {
                assert!(plan.slots[slot] >= node.elements(), "slot {slot} is too small for node {i}");
                holds[slot] = Some(i);
            }
        }
        g.outputs().iter().for_each(|&output| check(&holds, output));
    }

    #[test]
    fn slots_are_reused_but_never_under_a_reader() {
        let mut g = Graph::new();
        let x = g.input("x", &[4]).unwrap();
        let mut v = g.activation(x, Activation::None).unwrap();
        g.output(v);
        for _ in 0..6 {
            v = g.add(v, x).unwrap();
        }
        g.output(v);
        let plan = g.plan();
        assert_eq!(plan.slots.len(), 3, "the kept output and two that alternate");
        play(&g, &plan);
    }

    /// A small generator of random numbers: tests of this crate need no other.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
    }

    fn random_graph(random: &mut Random) -> Graph {
        let mut g = Graph::new();
        let mut values = vec![
            g.input("x", &[6, 4]).unwrap(),
            g.input("y", &[2, 4]).unwrap(),
            g.weight("square", &[4, 4]).unwrap(),
            g.weight("wide", &[12, 4]).unwrap(),
            g.weight("row", &[4]).unwrap(),
        ];
        for _ in 0..random.below(60) {
            // Mostly recent values, sometimes old ones, so that lives are short and long.
            let mut pick = || {
                let from = if random.below(3) == 0 { 0 } else { values.len().saturating_sub(4) };
                values[from + random.below(values.len() - from)]
            };
            let (a, b, c) = (pick(), pick(), pick());
            let linear = Linear { x: a, weight: b, bias: None, activation: Activation::None, residual: None };
            let elements = g.node(a).elements();
            let tried = match random.below(8) {
                0 => g.activation(a, Activation::Gelu),
                1 => g.add(a, b),
                2 => g.add(a, a),
                3 => g.linear(linear),
                4 => g.linear(Linear { residual: Some(c), ..linear }),
                5 => g.reshape(a, &[elements]),
                6 => g.reshape(a, &[elements / 4, 4]),
                _ => g.l2_normalize(a),
            };
            // Operands that do not fit are no loss: others will.
            let Ok(value) = tried else { continue };
            values.push(value);
            if random.below(6) == 0 {
                g.output(value);
            }
        }
        g.output(values[values.len() - 1]);
        g
    }

    #[test]
    fn no_random_graph_loses_a_value_that_is_still_read() {
        let mut random = Random(1);
        let (mut nodes, mut slots) = (0, 0);
        for _ in 0..2000 {
            let g = random_graph(&mut random);
            let plan = g.plan();
            assert_eq!(plan.places.len(), g.nodes().len());
            play(&g, &plan);
            nodes += g.nodes().len();
            slots += plan.slots.len();
        }
        assert!(nodes > 20_000 && slots * 2 < nodes, "{nodes} nodes in {slots} slots: the graphs test no reuse");
    }
}
