//! What an encoder's runs do on a device: backends that keep account, for the counts that a test pins and for the times
//! of kernels.

use mils_gpu::{Setup, count};
use mils_graph::{Backend, BackendError, DType, Graph, HostTensor, Program, WeightSet, Work};
use std::sync::{Arc, Mutex, PoisonError};

/// The account of a [`Meter`], which every program of it adds its runs to.
#[derive(Clone, Default)]
pub struct Account(Arc<Mutex<Work>>);

impl Account {
    /// What was done since the last call.
    pub fn take(&self) -> Work {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, work: &Work) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += work;
    }
}

/// A backend whose programs are timed kernel by kernel, which makes them slower, and put on an account.
pub struct Meter<'a> {
    backend: &'a dyn Backend,
    account: Account,
}

impl<'a> Meter<'a> {
    /// On a backend.
    pub fn new(backend: &'a dyn Backend) -> Self {
        Self { backend, account: Account::default() }
    }

    /// Where its programs' runs are put.
    pub fn account(&self) -> Account {
        self.account.clone()
    }
}

impl Backend for Meter<'_> {
    fn name(&self) -> String {
        self.backend.name()
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        Ok(Box::new(Metered { of: self.backend.load(weights)?, account: self.account() }))
    }
}

/// Weights, or a program, on an account.
struct Metered<T: ?Sized> {
    of: Box<T>,
    account: Account,
}

impl WeightSet for Metered<dyn WeightSet> {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        Ok(Box::new(Metered { of: self.of.compile(graph)?, account: self.account.clone() }))
    }
}

impl Program for Metered<dyn Program> {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        let (out, work) = self.of.profile(inputs)?;
        self.account.add(&work);
        Ok(out)
    }

    fn work(&self) -> Work {
        self.of.work()
    }
}

/// A GPU of some kind that is not there: it counts what its runs would do by the code that would do it, and gives zeros.
pub struct Absent {
    /// What it would be.
    pub setup: Setup,
    /// How matrices and tables would come; all else in f32.
    pub matrices: DType,
}

impl Backend for Absent {
    fn name(&self) -> String {
        format!("a {} that is not there", self.setup.kind)
    }

    fn load(&self, weights: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
        let half = |t: &HostTensor| matches!(t.dtype(), DType::F16 | DType::BF16);
        let matrices = weights.iter().filter(|(_, t)| half(t)).map(|(name, _)| name.clone()).collect();
        Ok(Box::new(AbsentWeights { setup: self.setup, held: self.matrices, matrices }))
    }
}

struct AbsentWeights {
    setup: Setup,
    held: DType,
    /// Names of what came in 16 bits.
    matrices: Vec<String>,
}

impl WeightSet for AbsentWeights {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        let dtype = |name: &str| if self.matrices.iter().any(|n| n == name) { self.held } else { DType::F32 };
        let work = count(graph, self.setup, dtype)?;
        let outputs = graph.outputs().iter().map(|&id| graph.shape(id).to_vec()).collect();
        Ok(Box::new(AbsentProgram { work, outputs }))
    }
}

struct AbsentProgram {
    work: Work,
    outputs: Vec<Vec<usize>>,
}

impl Program for AbsentProgram {
    fn run(&mut self, _inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        let zeros = |shape: &Vec<usize>| HostTensor::f32(shape, vec![0.0; shape.iter().product()]);
        Ok(self.outputs.iter().map(zeros).collect::<Result<_, _>>()?)
    }

    fn work(&self) -> Work {
        self.work.clone()
    }
}
