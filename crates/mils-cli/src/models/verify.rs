//! `mils models verify`: downloaded files against all that is known of them.

use super::assemble::hash;
use super::watch::Bars;
use super::{ModalityName, ModelsFormat, Target, sections};
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::show::{one_line, tell};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use mils_models::download::{Against, DownloadError, Remote, Verified, size};
use mils_models::{Manifest, Modality, Pack, Store};
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const VERIFY_EXAMPLES: &str = "\
Examples:
  mils models verify                   (all packs, as far as they are installed)
  mils models verify small --modality image
  mils models verify openai/clip-vit-base-patch32
  mils models verify small --remove && mils models get small      (fetches what was damaged again)
  mils models verify --format json | jq '.files[] | select(.problem)'

Every file is read once and its SHA-256 compared with the pack's, with the one recorded when it was
fetched, or with its name in the cache. Nothing is asked of the network.

Exit codes: 0 all is well, 1 something is damaged or nothing is there, 2 wrong usage, 130 interrupted.";

/// `mils models verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    /// A pack, or a repository of the hub [default: all packs]
    #[arg(value_name = "PACK|ORG/NAME")]
    pub target: Option<String>,

    /// Of a pack, only what describing these takes
    #[arg(long, value_enum)]
    pub modality: Vec<ModalityName>,

    /// Remove what is damaged, so that `mils models get` fetches it again
    #[arg(long)]
    pub remove: bool,

    /// How the result is printed
    #[arg(long, value_enum, default_value_t = ModelsFormat::Text)]
    pub format: ModelsFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// What is to be read.
enum Wanted {
    /// A file of the cache.
    Cached(Remote, PathBuf),
    /// A checkpoint folder of ours, which is as good as its worst file.
    Made(PathBuf),
}

/// What was found.
struct Report {
    path: PathBuf,
    /// From where it is.
    from: String,
    found: Result<Found, anyhow::Error>,
}

struct Found {
    size: u64,
    sha256: String,
    against: &'static str,
}

/// Runs the command.
///
/// # Errors
/// If nothing is there to be verified, or the result cannot be printed. What is damaged is said, and in the exit code.
pub(super) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let store = Store::from_env()?;
    let wanted = wanted(args, &store)?;
    let total = wanted.iter().map(|wanted| wanted.size()).sum();
    let cancel = on_ctrl_c()?;
    let bars = Bars::new(args.quiet, total, &cancel);
    let mut reports = Vec::new();
    for wanted in &wanted {
        let Some(found) = wanted.verify(&store, &bars)? else {
            bars.finish();
            return Ok(ExitCode::from(INTERRUPTED));
        };
        if args.remove && found.iter().any(|report| report.found.is_err()) {
            wanted.remove(&store)?;
        }
        reports.extend(found);
    }
    bars.finish();
    let good = reports.iter().all(|report| report.found.is_ok());
    print(args, &reports)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is there of what was asked for.
fn wanted(args: &VerifyArgs, store: &Store) -> Result<Vec<Wanted>> {
    let mut all: Vec<Wanted> = Vec::new();
    match args.target.as_deref().map(Target::of).transpose()? {
        None => {
            for (_, pack) in mils_models::all() {
                // Those that make no sense are `models list`'s to tell.
                let Ok(pack) = pack else { continue };
                let of: Vec<Modality> = match args.modality.is_empty() {
                    true => pack.modalities(),
                    false => sections(&pack, &args.modality).unwrap_or_default(),
                };
                of_pack(&pack, &of, store, &mut all);
            }
            if all.is_empty() {
                bail!("nothing is installed; `mils models get` downloads the pack that suits this machine");
            }
        }
        Some(Target::Pack(pack)) => {
            of_pack(&pack, &sections(&pack, &args.modality)?, store, &mut all);
            if all.is_empty() && !pack.sources(&pack.modalities()).is_empty() {
                bail!("nothing of the pack `{}` is installed; run `{}`", pack.name, pack.get_command());
            }
            if all.is_empty() {
                bail!("the pack `{}` has its models with it; nothing of it was downloaded", pack.name);
            }
        }
        Some(Target::Hub { repo, revision, file }) => {
            let files = store.hub().cached_files(&repo, &revision);
            let files = files.into_iter().filter(|(remote, _)| file.as_ref().is_none_or(|file| *file == remote.file));
            all.extend(files.map(|(remote, path)| Wanted::Cached(remote, path)));
            all.extend(store.converted(&repo, &revision).map(Wanted::Made));
            if all.is_empty() {
                bail!("{repo} is not in the hub cache; `mils models get {repo}` fetches it");
            }
        }
    }
    Ok(all)
}

fn of_pack(pack: &Pack, sections: &[Modality], store: &Store, all: &mut Vec<Wanted>) {
    let mut add = |wanted: Wanted| {
        if !all.iter().any(|there| there.path() == wanted.path()) {
            all.push(wanted);
        }
    };
    for source in pack.sources(sections) {
        for file in &source.files {
            if let Some(remote) = source.remote(file)
                && let Some(path) = store.hub().cached(&remote)
            {
                add(Wanted::Cached(remote, path));
            }
        }
    }
    for sources in pack.scorers(sections) {
        // Only what is put together; what lies in the cache is verified there.
        if let (Some(folder), Some(_)) = (store.folder(sources), store.made(sources)) {
            add(Wanted::Made(folder));
        }
    }
}

impl Wanted {
    fn path(&self) -> &Path {
        match self {
            Self::Cached(_, path) | Self::Made(path) => path,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Cached(remote, path) => remote.size.unwrap_or_else(|| std::fs::metadata(path).map_or(0, |m| m.len())),
            Self::Made(folder) => {
                let manifest = Manifest::read(folder).ok().flatten();
                manifest.map_or(0, |manifest| manifest.parts.iter().map(|part| part.size).sum())
            }
        }
    }

    /// Reads it; `None` if that was interrupted.
    fn verify(&self, store: &Store, bars: &Bars) -> Result<Option<Vec<Report>>> {
        match self {
            Self::Cached(remote, path) => {
                let found = match store.hub().verify(remote, bars) {
                    Err(DownloadError::Cancelled) => return Ok(None),
                    Ok(Verified { size, sha256, against, .. }) => Ok(Found { size, sha256, against: said(against) }),
                    Err(error) => Err(error.into()),
                };
                Ok(Some(vec![Report { path: path.clone(), from: remote.repo.clone(), found }]))
            }
            Self::Made(folder) => made(folder, bars),
        }
    }

    fn remove(&self, store: &Store) -> Result<()> {
        match self {
            Self::Cached(remote, _) => store.hub().remove(remote).map(drop).map_err(Into::into),
            Self::Made(folder) => {
                std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
            }
        }
    }
}

/// The files of a folder that was put together.
fn made(folder: &Path, bars: &Bars) -> Result<Option<Vec<Report>>> {
    let Some(manifest) = Manifest::read(folder)? else { return Ok(Some(Vec::new())) };
    let mut reports = Vec::new();
    for part in manifest.parts {
        let path = folder.join(&part.name);
        bars.say(&part.name);
        let found = match hash(&path, bars) {
            Ok(None) => return Ok(None),
            Ok(Some((size, sha256))) if sha256 == part.sha256 => Ok(Found { size, sha256, against: "record" }),
            Ok(Some((_, sha256))) => Err(anyhow!(
                "{} is damaged: its SHA-256 is {sha256}, expected {}; remove it and make it again",
                path.display(),
                part.sha256
            )),
            Err(error) => Err(error),
        };
        reports.push(Report { path, from: part.from, found });
    }
    Ok(Some(reports))
}

/// With what it was compared.
fn said(against: Against) -> &'static str {
    match against {
        Against::Given => "pack",
        Against::Record => "record",
        Against::Name => "name",
        _ => "nothing",
    }
}

fn print(args: &VerifyArgs, reports: &[Report]) -> Result<()> {
    let remedy = match args.remove {
        true => "; it was removed, and `mils models get` fetches it again",
        false => "; --remove removes it, and `mils models get` fetches it again",
    };
    let mut out = stdout().lock();
    for report in reports {
        match &report.found {
            Err(error) => tell(&format!("mils: {}{remedy}", one_line(error))),
            Ok(_) if args.format == ModelsFormat::Json => {}
            Ok(Found { size: bytes, against, .. }) => {
                let by = match *against {
                    "pack" => "as the pack says",
                    "record" => "as it was when it was made or fetched",
                    "name" => "as it is named",
                    _ => "nothing to compare it with",
                };
                writeln!(out, "good  {} ({}, {by})", report.path.display(), size(*bytes))?;
            }
        }
    }
    if args.format == ModelsFormat::Json {
        let file = |report: &Report| match &report.found {
            Ok(Found { size, sha256, against }) => json!({
                "from": report.from, "path": report.path, "size": size, "sha256": sha256, "against": against,
                "problem": null,
            }),
            Err(error) => json!({"from": report.from, "path": report.path, "problem": one_line(error)}),
        };
        let good = reports.iter().all(|report| report.found.is_ok());
        writeln!(out, "{}", json!({"good": good, "files": reports.iter().map(file).collect::<Vec<Value>>()}))?;
    }
    out.flush().context("cannot print the result")
}
