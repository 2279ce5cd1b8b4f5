//! `mils optimize`: the loop with a scorer of the user's own.
//!
//! A task file says what is searched for (`task`); a program of the user's scores texts (`program`), by one objective
//! or several (`scorer`); the language model proposes, the best go back to it (`search`).

pub mod args;
mod program;
mod scorer;
mod search;
mod task;

pub use args::OptimizeArgs;

use anyhow::Result;
use std::process::ExitCode;

/// Runs the command.
///
/// # Errors
/// If the task file, a model or the scorer fails, or the folder cannot be written.
pub fn run(args: &OptimizeArgs) -> Result<ExitCode> {
    search::run(args)
}
