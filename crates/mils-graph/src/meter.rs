//! Backends that keep account of what their programs' runs do.

use crate::{Backend, BackendError, Graph, HostTensor, Program, WeightSet, Work};
use std::sync::{Arc, Mutex, PoisonError};

/// The kernel that runs are counted as where nobody looks at their kernels.
const RUN: &str = "run";

/// The account of a [`Meter`], which every program of it adds its runs to.
#[derive(Clone, Debug, Default)]
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

/// A backend whose programs' runs are put on an account.
pub struct Meter<'a> {
    backend: Box<dyn Backend + 'a>,
    account: Account,
    timed: bool,
}

impl<'a> Meter<'a> {
    /// Kernel by kernel and timed, which makes runs slower.
    pub fn timed(backend: Box<dyn Backend + 'a>) -> Self {
        Self { backend, account: Account::default(), timed: true }
    }

    /// By the graph alone, which costs nothing: a dispatch a run, of all its arithmetic and the bytes that it needs in
    /// f32, on whichever backend.
    pub fn counting(backend: Box<dyn Backend + 'a>) -> Self {
        Self { backend, account: Account::default(), timed: false }
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
        let (of, account) = (self.backend.load(weights)?, self.account());
        Ok(Box::new(MeteredWeights { of, account, timed: self.timed }))
    }
}

struct MeteredWeights {
    of: Box<dyn WeightSet>,
    account: Account,
    timed: bool,
}

impl WeightSet for MeteredWeights {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Program>, BackendError> {
        let (of, account) = (self.of.compile(graph)?, self.account.clone());
        let planned = (!self.timed).then(|| {
            let mut work = Work::default();
            work.add(RUN, 0, graph.cost(|_| 4), 0, None);
            work
        });
        Ok(Box::new(Metered { of, account, planned }))
    }
}

struct Metered {
    of: Box<dyn Program>,
    account: Account,
    /// What a run counts as; `None` where it is timed.
    planned: Option<Work>,
}

impl Program for Metered {
    fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
        match &self.planned {
            Some(work) => {
                let out = self.of.run(inputs)?;
                self.account.add(work);
                Ok(out)
            }
            None => {
                let (out, work) = self.of.profile(inputs)?;
                self.account.add(&work);
                Ok(out)
            }
        }
    }

    fn work(&self) -> Work {
        self.of.work()
    }

    fn profile(&mut self, inputs: &[HostTensor]) -> Result<(Vec<HostTensor>, Work), BackendError> {
        self.of.profile(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Linear};

    /// Gives what it is given.
    struct Echo;

    impl Backend for Echo {
        fn name(&self) -> String {
            "echo".into()
        }

        fn load(&self, _: Vec<(String, HostTensor)>) -> Result<Box<dyn WeightSet>, BackendError> {
            Ok(Box::new(Self))
        }
    }

    impl WeightSet for Echo {
        fn compile(&self, _: &Graph) -> Result<Box<dyn Program>, BackendError> {
            Ok(Box::new(Self))
        }
    }

    impl Program for Echo {
        fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, BackendError> {
            Ok(inputs.to_vec())
        }
    }

    #[test]
    fn runs_are_counted_by_their_graph() {
        let mut g = Graph::new();
        let x = g.input("x", &[5, 8]).unwrap();
        let weight = g.weight("w", &[16, 8]).unwrap();
        let op = Linear { x, weight, bias: None, activation: Activation::None, residual: None };
        let y = g.linear(op).unwrap();
        g.output(y);
        let meter = Meter::counting(Box::new(Echo));
        let mut program = meter.load(vec![]).unwrap().compile(&g).unwrap();
        for _ in 0..3 {
            program.run(&[]).unwrap();
        }
        let work = meter.account().take();
        assert_eq!((work.dispatches(), work.cost().flops), (3, 3 * 2 * 5 * 8 * 16));
        assert_eq!(meter.account().take().dispatches(), 0, "what was taken is gone");
    }
}
