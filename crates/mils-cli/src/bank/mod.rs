//! `mils bank`: making initial sets, the texts that runs start from.

mod build;
mod import;
mod journal;
mod list;

pub use build::BuildArgs;
pub use import::ImportArgs;
pub use list::ListArgs;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use std::process::ExitCode;

/// The subcommands of `mils bank`.
#[derive(Debug, Subcommand)]
pub enum BankCommand {
    /// Have a language model write a set about lists of labels
    Build(BuildArgs),
    /// Make a set of caption files: text, CSV, TSV, JSON Lines, COCO and others
    Import(ImportArgs),
    /// List the sets that can be named with --initial
    List(ListArgs),
}

impl BankCommand {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Build(_) => "bank build",
            Self::Import(_) => "bank import",
            Self::List(_) => "bank list",
        }
    }

    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Build(args) => args.check(),
            Self::Import(args) => args.check(),
            Self::List(_) => Ok(()),
        }
    }
}

/// Runs a subcommand.
///
/// # Errors
/// As it says.
pub fn run(command: &BankCommand) -> Result<ExitCode> {
    match command {
        BankCommand::Build(args) => build::run(args),
        BankCommand::Import(args) => import::run(args),
        BankCommand::List(args) => list::run(args),
    }
}

/// How what was done is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BankFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}
