//! `mils models rm`: removes downloaded files, but for those that other packs use.

use super::{ModalityName, ModelsFormat, Target, ask, can_ask, sections};
use crate::show::tell;
use anyhow::{Context, Result, bail};
use clap::Args;
use mils_models::download::{Remote, size};
use mils_models::{Modality, Pack, Store};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const RM_EXAMPLES: &str = "\
Examples:
  mils models rm small
  mils models rm paper --modality sound --yes
  mils models rm openai/clip-vit-base-patch32@main

Removes the files of a pack or a repository from the hub cache, and what was made of them. The cache is
shared with Python: what other programs fetched into it is the same files, so it is said and asked first
(--yes answers). What an installed pack uses stays.

Exit codes: 0 done, 1 something cannot be removed, 2 wrong usage.";

/// `mils models rm`.
#[derive(Debug, Args)]
#[command(after_help = RM_EXAMPLES)]
pub struct RmArgs {
    /// A pack, or a repository of the hub: ORG/NAME, ORG/NAME@REVISION or ORG/NAME/FILE
    #[arg(value_name = "PACK|ORG/NAME")]
    pub target: String,

    /// Of a pack, only what describing these takes, and nothing else does
    #[arg(long, value_enum)]
    pub modality: Vec<ModalityName>,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// How what was done is printed
    #[arg(long, value_enum, default_value_t = ModelsFormat::Text)]
    pub format: ModelsFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// What there is to remove.
#[derive(Default)]
struct There {
    /// Files of the cache, by where they are.
    cached: BTreeMap<PathBuf, Remote>,
    /// Folders of ours.
    made: BTreeSet<PathBuf>,
    /// Files that are not there as a whole.
    begun: Vec<Remote>,
}

/// Runs the command.
///
/// # Errors
/// If something cannot be removed, or nobody can be asked.
pub(super) fn run(args: &RmArgs) -> Result<ExitCode> {
    let store = Store::from_env()?;
    let (name, there, used) = match Target::of(&args.target)? {
        Target::Pack(pack) => {
            let named = sections(&pack, &args.modality)?;
            let rest: Vec<Modality> = pack.installed().into_iter().filter(|m| !named.contains(m)).collect();
            let mut used = used(&store, Some(&pack));
            used.add(&pack, &rest, &store);
            (format!("the pack `{}`", pack.name), There::of(&pack, &named, &store), used)
        }
        Target::Hub { repo, revision, file } => {
            let files = store.hub().cached_files(&repo, &revision).into_iter();
            let files = files.filter(|(remote, _)| file.as_ref().is_none_or(|file| *file == remote.file));
            let cached = files.map(|(remote, path)| (path, remote)).collect();
            let made = store.converted(&repo, &revision).filter(|_| file.is_none()).into_iter().collect();
            (repo, There { cached, made, begun: Vec::new() }, used(&store, None))
        }
    };
    let stays = there.cached.keys().chain(&there.made).filter(|path| used.has(path)).count();
    let there = There {
        cached: there.cached.into_iter().filter(|(path, _)| !used.has(path)).collect(),
        made: there.made.into_iter().filter(|path| !used.has(path)).collect(),
        begun: there.begun,
    };
    // What was begun is of no use to anybody.
    let mut freed = 0;
    for remote in &there.begun {
        freed += store.hub().remove(remote)?;
    }
    if there.cached.is_empty() && there.made.is_empty() && freed == 0 {
        let why = if stays > 0 { ": other packs use what it has" } else { "" };
        bail!("nothing of {name} is there to be removed{why}");
    }
    if !(args.yes || there.cached.is_empty() && there.made.is_empty()) {
        agree(&name, &there, &store)?;
    }
    for remote in there.cached.values() {
        freed += store.hub().remove(remote)?;
    }
    for folder in &there.made {
        freed += bytes_in(folder);
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        // The shelf of a repository goes with its last folder.
        let _ = folder.parent().map(tidy);
    }
    if stays > 0 && !args.quiet {
        tell(&format!("mils: {stays} of its files stay: other packs use them"));
    }
    let line = match args.format {
        ModelsFormat::Text => format!("{} files removed, {} freed", there.cached.len() + there.made.len(), size(freed)),
        ModelsFormat::Json => {
            let removed: Vec<&PathBuf> = there.cached.keys().chain(&there.made).collect();
            json!({"removed": removed, "freed": freed, "stay": stays}).to_string()
        }
    };
    writeln!(stdout().lock(), "{line}").context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

/// Asks whether all this may go.
fn agree(name: &str, there: &There, store: &Store) -> Result<()> {
    let cached: u64 = there.cached.keys().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum();
    let made: u64 = there.made.iter().map(|folder| bytes_in(folder)).sum();
    let what = format!(
        "{} files of {name}, {}, from the hub cache {}, which Python uses too{}",
        there.cached.len(),
        size(cached),
        store.hub().cache().display(),
        if made > 0 { format!("; and what was made of them, {}", size(made)) } else { String::new() },
    );
    if !can_ask() {
        bail!("this would remove {what}; add --yes to say so");
    }
    if !ask(&format!("Remove {what}?"))? {
        bail!("nothing was removed");
    }
    Ok(())
}

/// What packs that are installed use, but for one.
fn used(store: &Store, but: Option<&Pack>) -> There {
    let mut used = There::default();
    for (_, pack) in mils_models::all() {
        let Ok(pack) = pack else { continue };
        if but.is_none_or(|but| but.file() != pack.file()) {
            used.add(&pack, &pack.installed(), store);
        }
    }
    used
}

impl There {
    fn of(pack: &Pack, sections: &[Modality], store: &Store) -> Self {
        let mut there = Self::default();
        there.add(pack, sections, store);
        there
    }

    /// What is there of some sections of a pack.
    fn add(&mut self, pack: &Pack, sections: &[Modality], store: &Store) {
        if sections.is_empty() {
            return;
        }
        for source in pack.sources(sections) {
            for remote in source.files.iter().filter_map(|file| source.remote(file)) {
                match store.hub().cached(&remote) {
                    Some(path) => drop(self.cached.insert(path, remote)),
                    None => self.begun.push(remote),
                }
            }
        }
        for sources in pack.scorers(sections) {
            if store.made(sources).is_some() {
                self.made.extend(store.folder(sources));
            }
        }
    }

    fn has(&self, path: &Path) -> bool {
        self.cached.contains_key(path) || self.made.contains(path)
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|held| held.len()).sum()
}

/// Removes a shelf that has nothing left but locks.
fn tidy(shelf: &Path) -> std::io::Result<()> {
    let left: Vec<PathBuf> = fs::read_dir(shelf)?.flatten().map(|entry| entry.path()).collect();
    if left.iter().all(|path| path.extension().is_some_and(|e| e == "lock")) {
        fs::remove_dir_all(shelf)?;
    }
    Ok(())
}
