//! What a device must offer: hold weights once, compile graphs against them, run the programs.

use crate::{Graph, HostTensor, TensorError};

/// Why a backend could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The graph names a weight that was not loaded.
    #[error("weight `{0}` was not loaded")]
    MissingWeight(String),
    /// A tensor is not what the graph says.
    #[error("`{name}`: expected {expected}, found {found}")]
    Mismatch {
        /// Input or weight.
        name: String,
        /// Type and shape that the graph wants.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An index is outside its table.
    #[error("`{name}` holds index {index}, but there are only {limit} rows")]
    IndexOutOfRange {
        /// The input with the index.
        name: String,
        /// The index.
        index: u32,
        /// The first index that is too large.
        limit: usize,
    },
    /// Shape and data do not fit together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device cannot, for a reason of its own: limits, memory, a lost adapter.
    #[error("{0}")]
    Device(String),
}

/// A device that runs graphs.
pub trait Backend: Send + Sync {
    /// A short name: `cpu`, or the adapter's.
    fn name(&self) -> String;

    /// Takes the weights, by name, to where the device wants them. Done once a model: programs share the result.
    ///
    /// # Errors
    /// If a weight does not fit the device.
    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError>;
}

/// Weights on a device.
pub trait WeightSet: Send + Sync {
    /// Makes a graph ready to run. Costly; keep the program.
    ///
    /// # Errors
    /// If a weight is missing or misshapen, or the graph does not fit the device.
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError>;
}

/// A compiled graph.
pub trait Program: Send {
    /// Runs it once. `inputs` are in the order in which the graph declared them; the result is in the order of its
    /// outputs.
    ///
    /// # Errors
    /// If an input has the wrong type or shape, an index is out of range, or the device fails.
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError>;
}
