//! What a device must offer: hold weights once, compile graphs against them, run the programs.

use crate::{DType, Graph, GraphError, HostTensor, TensorError, Work};

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
    /// A weight that is held in 16 bits is read as something that must be f32.
    #[error(
        "weight `{name}` is held as {dtype:?}: a linear layer's matrix or an embedding's table may be, not {reader}"
    )]
    HalfWeight {
        /// The weight.
        name: String,
        /// How it is held.
        dtype: DType,
        /// An op with the operand's position, or an output.
        reader: String,
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
    /// A sequence has no keys, or more than there are.
    #[error("`{name}` holds length {length}, but a length is 1 to {most}")]
    LengthOutOfRange {
        /// The input with the length.
        name: String,
        /// The length.
        length: u32,
        /// The largest length.
        most: usize,
    },
    /// Shape and data do not fit together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The graph is not one: an output is another graph's.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// More than this device can take at once. Nothing was done; smaller batches, or another backend, may do.
    #[error("{what} takes {needed} {unit}, but this device allows {limit}; use smaller batches or the CPU backend")]
    Limit {
        /// A weight, a value, or an op.
        what: String,
        /// How much of it.
        needed: u64,
        /// The most that the device allows.
        limit: u64,
        /// What is counted: bytes, workgroups, elements.
        unit: &'static str,
    },
    /// Memory ran out. What was asked for failed; the backend and its other programs go on working.
    #[error("out of memory while {during}: {problem}; use smaller batches or the CPU backend")]
    OutOfMemory {
        /// What was being done.
        during: String,
        /// The device's words.
        problem: String,
    },
    /// The device is gone: its driver was restarted or gave up, or it was unplugged. Nothing on it works any more; the
    /// backend must be opened and the weights be loaded again.
    #[error("the device was lost while {during}: {reason}")]
    Lost {
        /// What was being done when it was noticed.
        during: String,
        /// The device's words.
        reason: String,
    },
    /// The device refused a command as invalid: a defect of the backend or of a driver. Later calls may work.
    #[error("the device refused a command while {during}: {problem}")]
    Rejected {
        /// What was being done.
        during: String,
        /// The device's words.
        problem: String,
    },
    /// The device failed in some other way. Later calls may work.
    #[error("the device failed while {during}: {problem}")]
    Device {
        /// What was being done.
        during: String,
        /// The device's words.
        problem: String,
    },
}

/// A device that runs graphs.
pub trait Backend: Send + Sync {
    /// A short name: `cpu`, or the adapter's.
    fn name(&self) -> String;

    /// Takes the weights, by name, to where the device wants them. Done once a model: programs share the result.
    ///
    /// Weights are f32, or 16-bit floats (f16, bf16), which stay so: they take half the memory. Graphs know no
    /// difference, but may read the latter only as [`Linear::weight`](crate::Linear::weight) or as the table of
    /// [`Op::Embedding`](crate::Op::Embedding). All is computed in f32.
    ///
    /// # Errors
    /// If a weight is of indices, comes twice, or does not fit the device.
    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError>;
}

impl<T: Backend + ?Sized> Backend for &T {
    fn name(&self) -> String {
        (**self).name()
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        (**self).load(weights)
    }
}

/// Weights on a device.
pub trait WeightSet: Send + Sync {
    /// Makes a graph ready to run. Costly; keep the program.
    ///
    /// # Errors
    /// If a weight is missing, misshapen, or held in 16 bits and read as what must be f32, or the graph does not fit
    /// the device.
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError>;
}

/// A compiled graph.
pub trait Program: Send {
    /// Runs it once. `inputs` are in the order in which the graph declared them; the result is in the order of its
    /// outputs.
    ///
    /// # Errors
    /// If an input has the wrong type or shape, an index or a length is out of range, or the device fails.
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError>;

    /// What one run does, as planned. Of a backend that does not say: nothing.
    fn work(&self) -> Work {
        Work::default()
    }

    /// Runs it once and times every kernel on the device, which makes the run as a whole slower: what [`Program::run`]
    /// gives, and [`Program::work`] with seconds. Of a device without timestamps, without seconds.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn profile(&mut self, inputs: &[HostTensor]) -> Result<(Vec<HostTensor>, Work), BackendError> {
        Ok((self.run(inputs)?, self.work()))
    }
}
