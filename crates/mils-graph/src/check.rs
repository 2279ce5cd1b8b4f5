//! What is checked where a graph meets data: the weights at compile time, the inputs before every run.

use crate::{Attention, BackendError, DType, Graph, HostTensor, Op, ValueId};

impl Graph {
    /// Checks a graph before it is compiled: that its outputs are its own, that its weights are held in their shapes,
    /// and that those held in 16 bits are read only where backends widen them. `held` gives the type and the shape
    /// under which a backend holds a name.
    ///
    /// # Errors
    /// Names the first output or weight that does not fit.
    pub fn check<'a>(&self, held: impl Fn(&str) -> Option<(DType, &'a [usize])>) -> Result<(), BackendError> {
        for &output in self.outputs() {
            self.at("output", output)?;
        }
        // By node, the name and type of a weight that is held in 16 bits.
        let mut halves: Vec<Option<(&str, DType)>> = vec![None; self.nodes().len()];
        for (i, node) in self.nodes().iter().enumerate() {
            let Op::Weight { name } = &node.op else { continue };
            let (dtype, found) = held(name).ok_or_else(|| BackendError::MissingWeight(name.clone()))?;
            if found != node.shape {
                return Err(BackendError::Mismatch {
                    name: name.clone(),
                    expected: format!("shape {:?}", node.shape),
                    found: format!("shape {found:?}"),
                });
            }
            halves[i] = (dtype != DType::F32).then_some((name, dtype));
        }
        self.check_halves(&halves)
    }

    fn check_halves(&self, halves: &[Option<(&str, DType)>]) -> Result<(), BackendError> {
        let refuse = |id: ValueId, reader: &dyn Fn() -> String| match halves[self.storage(id).index()] {
            Some((name, dtype)) => Err(BackendError::HalfWeight { name: name.to_owned(), dtype, reader: reader() }),
            None => Ok(()),
        };
        for node in self.nodes() {
            for (position, operand) in node.op.operands().into_iter().enumerate() {
                match (&node.op, position) {
                    (Op::Linear(_), 1) | (Op::Embedding { .. }, 0) | (Op::Reshape { .. }, _) => {}
                    (op, _) => refuse(operand, &|| format!("operand {position} of {op:?}"))?,
                }
            }
        }
        self.outputs().iter().try_for_each(|&id| refuse(id, &|| "an output".into()))
    }

    /// Checks inputs before a run: number, types, shapes, that every index is inside its table, and that every
    /// length is one.
    ///
    /// # Errors
    /// Names the first input that does not fit.
    pub fn check_inputs(&self, inputs: &[HostTensor]) -> Result<(), BackendError> {
        if inputs.len() != self.inputs().len() {
            return Err(BackendError::Mismatch {
                name: "inputs".into(),
                expected: format!("{} tensors", self.inputs().len()),
                found: inputs.len().to_string(),
            });
        }
        for (&id, tensor) in self.inputs().iter().zip(inputs) {
            let node = self.node(id);
            if tensor.dtype() != node.dtype || tensor.shape() != node.shape {
                return Err(BackendError::Mismatch {
                    name: self.input_name(id),
                    expected: format!("{:?} {:?}", node.dtype, node.shape),
                    found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                });
            }
        }
        for node in self.nodes() {
            let (table, ids) = match node.op {
                Op::Embedding { table, ids } => (table, ids),
                Op::GatherRows { x, rows } => (x, rows),
                Op::Attention(Attention { k, lengths: Some(lengths), .. }) => {
                    let most = self.shape(k)[1];
                    if let Some((name, length)) = self.misfit(inputs, lengths, |n| (1..=most).contains(&n)) {
                        return Err(BackendError::LengthOutOfRange { name, length, most });
                    }
                    continue;
                }
                _ => continue,
            };
            let limit = self.shape(table)[0];
            if let Some((name, index)) = self.misfit(inputs, ids, |i| i < limit) {
                return Err(BackendError::IndexOutOfRange { name, index, limit });
            }
        }
        Ok(())
    }

    /// The first number of an index input that does not fit, with the input's name.
    fn misfit(&self, inputs: &[HostTensor], id: ValueId, fits: impl Fn(usize) -> bool) -> Option<(String, u32)> {
        // Indices are inputs, or reshapes of inputs: no op computes them.
        let id = self.storage(id);
        let at = self.inputs().iter().position(|&i| i == id)?;
        let found = inputs[at].as_u32()?.iter().copied().find(|&i| !fits(i as usize))?;
        Some((self.input_name(id), found))
    }

    fn input_name(&self, id: ValueId) -> String {
        match &self.node(id).op {
            Op::Input { name } => name.clone(),
            _ => "value".into(),
        }
    }
}

/// Checks weights before a backend takes them: that none are indices, and that no name comes twice.
///
/// # Errors
/// Names the first weight that does not fit.
pub fn check_weights(weights: &[(String, HostTensor)]) -> Result<(), BackendError> {
    let mut names = std::collections::HashSet::new();
    for (name, tensor) in weights {
        let mismatch = |expected: &str, found| {
            let (name, expected) = (name.clone(), expected.to_owned());
            Err(BackendError::Mismatch { name, expected, found })
        };
        if tensor.dtype() == DType::U32 {
            return mismatch("an F32, F16 or BF16 weight", format!("{:?} {:?}", tensor.dtype(), tensor.shape()));
        }
        if !names.insert(name) {
            return mismatch("one weight of this name", "two".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Linear};

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

    #[test]
    fn indices_are_checked_through_reshapes() {
        let mut g = Graph::new();
        let ids = g.index_input("ids", &[2, 2]).unwrap();
        let flat = g.reshape(ids, &[4]).unwrap();
        let x = g.input("x", &[3, 5]).unwrap();
        let rows = g.gather_rows(x, flat).unwrap();
        g.output(rows);
        let x = HostTensor::f32(&[3, 5], vec![0.0; 15]).unwrap();
        let ids = |last| HostTensor::u32(&[2, 2], vec![0, 1, 2, last]).unwrap();
        assert!(g.check_inputs(&[ids(2), x.clone()]).is_ok());
        assert!(matches!(g.check_inputs(&[ids(3), x]), Err(BackendError::IndexOutOfRange { index: 3, limit: 3, .. })));
    }

    #[test]
    fn lengths_are_from_one_to_the_number_of_keys() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 3, 4]).unwrap();
        let lengths = g.index_input("lengths", &[1, 2]).unwrap();
        let lengths = g.reshape(lengths, &[2]).unwrap();
        let op = Attention { q: x, k: x, v: x, heads: 1, causal: false, lengths: Some(lengths), scale: 1.0 };
        let y = g.attention(op).unwrap();
        g.output(y);
        let x = HostTensor::f32(&[2, 3, 4], vec![0.0; 24]).unwrap();
        let check = |last| g.check_inputs(&[x.clone(), HostTensor::u32(&[1, 2], vec![3, last]).unwrap()]);
        assert!(check(1).is_ok() && check(3).is_ok());
        assert!(matches!(check(0), Err(BackendError::LengthOutOfRange { length: 0, most: 3, .. })));
        assert_eq!(check(4).unwrap_err().to_string(), "`lengths` holds length 4, but a length is 1 to 3");
    }

    #[test]
    fn outputs_and_weights_are_checked_before_a_compile() {
        let mut long = Graph::new();
        let x = long.input("x", &[2]).unwrap();
        let far = long.activation(x, Activation::Gelu).unwrap();
        let mut g = Graph::new();
        g.weight("w", &[2]).unwrap();
        assert!(g.check(|_| Some((DType::F32, &[2]))).is_ok());
        assert!(matches!(g.check(|_| None), Err(BackendError::MissingWeight(name)) if name == "w"));
        assert!(matches!(g.check(|_| Some((DType::F32, &[1, 2]))), Err(BackendError::Mismatch { .. })));
        g.output(far);
        assert!(matches!(g.check(|_| Some((DType::F32, &[2]))), Err(BackendError::Graph(_))));
    }

    #[test]
    fn weights_in_16_bits_are_read_only_as_matrices_and_tables() {
        let dtype = DType::BF16;
        let check = |build: &dyn Fn(&mut Graph, ValueId, ValueId) -> ValueId| {
            let mut g = Graph::new();
            let x = g.input("x", &[4, 4]).unwrap();
            let w = g.weight("w", &[2, 2, 4]).unwrap();
            let w = g.reshape(w, &[4, 4]).unwrap();
            let y = build(&mut g, x, w);
            g.output(y);
            let checked = g.check(|_| Some((dtype, &[2, 2, 4])));
            assert!(g.check(|_| Some((DType::F32, &[2, 2, 4]))).is_ok());
            checked.map_err(|e| match e {
                BackendError::HalfWeight { name, dtype: found, reader } if name == "w" && found == dtype => reader,
                other => panic!("{other}"),
            })
        };
        let linear = |x, weight| Linear { x, weight, bias: None, activation: Activation::None, residual: None };
        assert_eq!(check(&|g, x, w| g.linear(linear(x, w)).unwrap()), Ok(()));
        let embedding = |g: &mut Graph, table| {
            let ids = g.index_input("ids", &[3]).unwrap();
            g.embedding(table, ids).unwrap()
        };
        assert_eq!(check(&|g, _, w| embedding(g, w)), Ok(()));
        assert_eq!(check(&|_, _, w| w), Err("an output".into()));
        let reader = check(&|g, x, w| g.linear(linear(w, x)).unwrap()).unwrap_err();
        assert!(reader.starts_with("operand 0 of Linear"), "{reader}");
        let residual = |x, w| Linear { residual: Some(w), ..linear(x, w) };
        assert!(check(&|g, x, w| g.linear(residual(x, w)).unwrap()).unwrap_err().starts_with("operand 2"));
        assert!(check(&|g, x, w| g.add(x, w).unwrap()).unwrap_err().starts_with("operand 1 of Add"));
        let rows = |g: &mut Graph, x| {
            let ids = g.index_input("ids", &[3]).unwrap();
            g.gather_rows(x, ids).unwrap()
        };
        assert!(check(&|g, _, w| rows(g, w)).unwrap_err().starts_with("operand 0 of GatherRows"));
    }

    #[test]
    fn weights_are_floats_and_come_once() {
        let float = ("w".to_owned(), HostTensor::f32(&[1], vec![0.0]).unwrap());
        let index = ("i".to_owned(), HostTensor::u32(&[1], vec![0]).unwrap());
        let half = ("h".to_owned(), HostTensor::bf16(&[1], vec![half::bf16::ONE]).unwrap());
        assert!(check_weights(&[float.clone(), half]).is_ok());
        assert!(check_weights(&[float.clone(), index]).unwrap_err().to_string().contains("U32 [1]"));
        assert!(check_weights(&[float.clone(), float]).unwrap_err().to_string().contains("two"));
    }
}
