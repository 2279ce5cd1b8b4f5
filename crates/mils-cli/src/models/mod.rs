//! `mils models`: which models there are, and fetching, checking, converting and removing their files.

mod assemble;
mod convert;
mod get;
mod list;
mod path;
mod rm;
mod select;
mod verify;
mod watch;

pub use convert::ConvertArgs;
pub use get::{Consent, GetArgs, install};
pub use list::ListArgs;
pub use path::PathArgs;
pub use rm::RmArgs;
pub use verify::VerifyArgs;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use mils_models::{Modality, Pack, parse_id};
use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;
use std::process::ExitCode;

/// The subcommands of `mils models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the model packs, what of them is installed, and what this machine can run
    List(ListArgs),
    /// Download a model pack, or a model of the hub
    Get(GetArgs),
    /// Compare downloaded files with their hashes
    Verify(VerifyArgs),
    /// Remove downloaded files
    Rm(RmArgs),
    /// Print where downloaded files are
    Path(PathArgs),
    /// Make safetensors of a PyTorch checkpoint, without running anything that is in it
    Convert(ConvertArgs),
}

impl ModelsCommand {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "models list",
            Self::Get(_) => "models get",
            Self::Verify(_) => "models verify",
            Self::Rm(_) => "models rm",
            Self::Path(_) => "models path",
            Self::Convert(_) => "models convert",
        }
    }

    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Get(args) => args.check(),
            Self::Convert(args) => args.check(),
            Self::List(_) | Self::Verify(_) | Self::Rm(_) | Self::Path(_) => Ok(()),
        }
    }
}

/// Runs a subcommand.
///
/// # Errors
/// As it says.
pub fn run(command: &ModelsCommand) -> Result<ExitCode> {
    match command {
        ModelsCommand::List(args) => list::run(args),
        ModelsCommand::Get(args) => get::run(args),
        ModelsCommand::Verify(args) => verify::run(args),
        ModelsCommand::Rm(args) => rm::run(args),
        ModelsCommand::Path(args) => path::run(args),
        ModelsCommand::Convert(args) => convert::run(args),
    }
}

/// How what was done is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelsFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// A modality on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModalityName {
    /// Pictures
    Image,
    /// Videos
    Video,
    /// Sounds
    Sound,
}

impl From<ModalityName> for Modality {
    fn from(name: ModalityName) -> Self {
        match name {
            ModalityName::Image => Self::Image,
            ModalityName::Video => Self::Video,
            ModalityName::Sound => Self::Sound,
        }
    }
}

/// What a subcommand is about.
enum Target {
    Pack(Box<Pack>),
    /// A repository of the hub at a revision, or one file of it.
    Hub {
        repo: String,
        revision: String,
        file: Option<String>,
    },
}

impl Target {
    /// By a pack's name or path, or `ORG/NAME[@REVISION][/FILE]`.
    ///
    /// # Errors
    /// If it is neither, or the pack's file is damaged.
    fn of(name: &str) -> Result<Self> {
        let is_path = Path::new(name).exists() || name.starts_with(['.', '/', '~', '\\']);
        if !is_path && name.contains('/') {
            let Some((repo, revision, file)) = parse_id(name) else {
                bail!("`{name}` is neither a pack nor a model of the hub (ORG/NAME or ORG/NAME@REVISION)");
            };
            return Ok(Self::Hub { repo, revision, file });
        }
        Ok(Self::Pack(Box::new(Pack::open(name)?)))
    }
}

/// The sections of a pack that are meant: those that were named, or all.
///
/// # Errors
/// If it has none for one of them.
fn sections(pack: &Pack, named: &[ModalityName]) -> Result<Vec<Modality>> {
    let all = pack.modalities();
    if named.is_empty() {
        return Ok(all);
    }
    let mut sections = Vec::new();
    for name in named {
        let wanted = Modality::from(*name);
        // Without a section of their own videos are described by that of pictures.
        let instead = (wanted == Modality::Video).then_some(Modality::Image);
        let Some(section) = all.iter().copied().find(|m| *m == wanted).or(instead.filter(|m| all.contains(m))) else {
            let has: Vec<&str> = all.iter().map(|m| m.name()).collect();
            bail!("the pack `{}` has nothing for {wanted}s; it has: {}", pack.name, has.join(", "));
        };
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    Ok(sections)
}

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Asks a question on a terminal; anything but a yes is a no.
///
/// # Errors
/// If the answer cannot be read.
pub fn ask(question: &str) -> Result<bool> {
    // Its line is not ended, so that the answer stands beside it.
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    if stdin().read_line(&mut answer)? == 0 {
        // Nobody has ended the line.
        eprintln!();
    }
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
