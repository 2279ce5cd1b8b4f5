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
    use crate::Activation;

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
        for (i, node) in g.nodes().iter().enumerate() {
            for operand in node.op.operands() {
                assert_ne!(plan.places[operand.index()], plan.places[i]);
            }
        }
    }
}
