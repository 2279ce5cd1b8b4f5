//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

/// Why a checkpoint could not be read or written. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PthError {
    /// The file cannot be opened.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no checkpoint, is damaged, or is of a kind that is not read.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The file asks for a class or a function that no state dict needs.
    #[error(
        "{}: asks for `{name}`, which is code; only dictionaries of tensors are converted, and nothing was run",
        path.display()
    )]
    Code {
        /// The file.
        path: PathBuf,
        /// Module and name, as the file has them, with what is no plain text escaped.
        name: String,
    },
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Write(#[from] std::io::Error),
    /// Whoever was told of the progress asked to stop.
    #[error("stopped")]
    Stopped,
}

/// The same without the file's name.
#[derive(Debug)]
pub(crate) enum Problem {
    Read(std::io::Error),
    File(String),
    Code(String),
}

impl Problem {
    pub(crate) fn file(problem: impl std::fmt::Display) -> Self {
        Self::File(problem.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl PthError {
    pub(crate) fn new(path: &Path, problem: Problem) -> Self {
        let path = path.to_owned();
        match problem {
            Problem::Read(source) => Self::Read { path, source },
            Problem::File(problem) => Self::File { path, problem },
            Problem::Code(name) => Self::Code { path, name },
        }
    }
}
