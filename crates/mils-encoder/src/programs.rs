//! Compiled programs, kept for shapes that come again.

use crate::EncoderError;
use mils_graph::{Graph, GraphError, HostTensor, Program, TensorError, WeightSet};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Programs that are kept; each holds its activations.
const MOST_PROGRAMS: usize = 48;

/// A model's weights on a device, and its programs by the shapes that they are for.
pub(crate) struct Programs<K> {
    weights: Box<dyn WeightSet>,
    made: HashMap<K, Box<dyn Program>>,
}

impl<K: Eq + Hash> Programs<K> {
    pub(crate) fn new(weights: Box<dyn WeightSet>) -> Self {
        Self { weights, made: HashMap::new() }
    }

    /// The only output, [rows, width], of one run of a program, which is compiled where it is new. For errors, the
    /// model's name and the tower's.
    ///
    /// # Errors
    /// If there can be no such graph, the device fails, or the output is not of this shape or not finite.
    pub(crate) fn run(
        &mut self,
        key: K,
        graph: impl FnOnce() -> Result<Graph, GraphError>,
        inputs: &[HostTensor],
        shape: [usize; 2],
        (model, tower): (&str, &'static str),
    ) -> Result<Vec<f32>, EncoderError> {
        let out = self.run_all(key, graph, inputs, (model, tower))?.into_iter().next().unwrap_or_default();
        if out.len() != shape[0] * shape[1] {
            return Err(TensorError::Elements { shape: shape.to_vec(), found: out.len() }.into());
        }
        Ok(out)
    }

    /// The elements of every output of one run of a program, which is compiled where it is new.
    ///
    /// # Errors
    /// If there can be no such graph, the device fails, or an output is not finite.
    pub(crate) fn run_all(
        &mut self,
        key: K,
        graph: impl FnOnce() -> Result<Graph, GraphError>,
        inputs: &[HostTensor],
        (model, tower): (&str, &'static str),
    ) -> Result<Vec<Vec<f32>>, EncoderError> {
        if self.made.len() >= MOST_PROGRAMS && !self.made.contains_key(&key) {
            self.made.clear();
        }
        let program = match self.made.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.weights.compile(&graph()?)?),
        };
        let outputs = program.run(inputs)?.into_iter().map(|out| out.into_f32().unwrap_or_default());
        let outputs: Vec<Vec<f32>> = outputs.collect();
        if !outputs.iter().flatten().all(|v| v.is_finite()) {
            return Err(EncoderError::NotFinite { model: model.to_owned(), tower });
        }
        Ok(outputs)
    }
}
