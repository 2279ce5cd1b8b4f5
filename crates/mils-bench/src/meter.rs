//! What an encoder's runs would do on a device that is not there, for the counts that a test pins.

use mils_gpu::{Setup, count};
use mils_graph::{Backend, BackendError, DType, Graph, HostTensor, Program, WeightSet, Work};

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
