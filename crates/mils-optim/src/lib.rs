//! The MILS loop (arXiv 2501.18096, section 3) as a pure library: a generator proposes texts, a scorer judges them,
//! the best go back to the generator with their scores, until nothing better comes.
//!
//! Nothing here knows what a picture, a model, a file, a clock or a thread is; with the same generator, scorer and
//! seed a run is the same run. What the reference code does differently is listed at [`Optimizer`].
//!
//! ```
//! use mils_optim::{BoxError, Config, Generator, Optimizer, Proposals, Request, Scorer};
//! use std::ops::ControlFlow;
//!
//! /// Adds a letter to the best text so far.
//! struct Longer;
//! impl Generator for Longer {
//!     fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
//!         let best = &request.pool.last().ok_or("an empty pool")?.text;
//!         Ok(Proposals { texts: vec![format!("{best}a"), format!("{best}b")], ..Proposals::default() })
//!     }
//! }
//! /// Counts the letters `a`.
//! struct CountA;
//! impl Scorer for CountA {
//!     fn score(&mut self, texts: &[String]) -> Result<Vec<f32>, BoxError> {
//!         Ok(texts.iter().map(|t| t.matches('a').count() as f32).collect())
//!     }
//! }
//! let config = Config { steps: 3, keep: 2, propose: 2, ..Config::default() };
//! let outcome = Optimizer::new(config)
//!     .run(&["a".into(), "b".into()], &mut Longer, &mut CountA, &mut |_| ControlFlow::Continue(()))
//!     .unwrap();
//! assert_eq!(outcome.best.text, "aaaa");
//! ```

mod initial;
mod optimizer;
mod pool;
pub mod prompt;
mod types;

pub use initial::InitialSet;
pub use optimizer::Optimizer;
pub use pool::{non_dominated, relative_labels, top_of_fronts};
pub use types::{
    BoxError, Candidate, Config, Counts, Error, Event, Feedback, Generator, Labelled, Outcome, Proposals, Request,
    Scorer, StepRecord, StoppedBy, Unusable, UnusableReason, Usage,
};
