//! wip

pub mod bleu;
pub mod cider;
pub mod clipscore;
pub mod diversity;
mod error;
pub mod meteor;
pub mod ngram;
pub mod ptb;
pub mod read;
pub mod rouge;
pub use error::EvalError;
