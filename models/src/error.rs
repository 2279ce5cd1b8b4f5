//! Why a pack cannot be used.

use crate::download::DownloadError;
use crate::{Amount, Modality};
use std::path::PathBuf;

/// Why a pack cannot be used. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// No such pack.
    #[error("there is no pack `{name}`; those that can be named: {known}; a folder with a pack.toml can be given too")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// The pack's file cannot be read.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// It has nothing that hears or sees such things.
    #[error(
        "the pack `{pack}` has no scorer for this: it is a {modality}, and the pack describes {has}; take another pack \
         or add a [{modality}] section to its file"
    )]
    Modality {
        /// The pack.
        pack: String,
        /// What it lacks.
        modality: Modality,
        /// What it has, for people.
        has: String,
    },
    /// A file that the pack names is not there.
    #[error("pack `{name}` is incomplete: {} is missing ({what})", path.display())]
    Incomplete {
        /// The pack.
        name: String,
        /// What is missing.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No such initial set.
    #[error("{name} is no file, and no initial set that can be named: {known}")]
    Bank {
        /// What was asked for.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// Its models were not downloaded.
    #[error("the pack `{pack}` is not installed{}; run `{command}` ({amount})", of.map(|m| format!(" for {m}s")).unwrap_or_default())]
    NotInstalled {
        /// The pack.
        pack: String,
        /// What cannot be described; `None`: nothing can.
        of: Option<Modality>,
        /// What downloads it.
        command: String,
        /// How much that is.
        amount: Amount,
    },
    /// It cannot be told what is there.
    #[error(transparent)]
    Store(#[from] DownloadError),
}
