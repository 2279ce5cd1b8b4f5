//! `mils models get`: a pack's models, or files of a repository, into the hub cache.

use super::assemble::assemble;
use super::watch::Bars;
use super::{ModalityName, ModelsFormat, Target, ask, can_ask, sections, select};
use crate::choose;
use crate::interrupt::{INTERRUPTED, on_ctrl_c};
use crate::show::tell;
use anyhow::{Context, Result, bail};
use clap::Args;
use mils_models::download::{GetOptions, Remote, size};
use mils_models::{Amount, Modality, Origin, Pack, Source, SourceFile, Store};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const GET_EXAMPLES: &str = "\
Examples:
  mils models get                                 (the pack that suits this machine; see `mils models list`)
  mils models get small
  mils models get small --modality image          (no more than pictures take)
  mils models get paper --modality video --accept-licence
  mils models get openai/clip-vit-base-patch32    (an encoder, for --model)
  mils models get bartowski/Qwen_Qwen3-4B-Instruct-2507-GGUF --file '*Q4_K_M.gguf'
  mils models get ~/my-pack                       (a folder with a pack.toml)

Files are put into the hub cache that is shared with Python (HF_HUB_CACHE, HF_HOME), each when it is
whole and has the hash that the hub, the pack and the record say. Killed at any moment, the same
command goes on where it was. What older repositories have as a pickle is made safetensors of, without
running it; that lies in MILS_HOME (default: `mils` in the user's cache folder).

A branch is taken at the commit that it was at first; --update moves on. HF_TOKEN is a token for gated
repositories, HF_ENDPOINT another hub, HF_HUB_OFFLINE=1 leaves the network alone.

Exit codes: 0 done, 1 something cannot be had, 2 wrong usage, 130 interrupted.";

/// `mils models get`.
#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub struct GetArgs {
    /// A pack's name, a pack's folder, or a repository of the hub: ORG/NAME, ORG/NAME@REVISION or ORG/NAME/FILE
    /// [default: the pack that suits this machine]
    #[arg(value_name = "PACK|ORG/NAME")]
    pub target: Option<String>,

    /// Of a pack, only what describing these takes; can be given several times
    #[arg(long, value_enum)]
    pub modality: Vec<ModalityName>,

    /// Of a repository, only the files that fit this pattern; can be given several times [default: what an encoder has]
    #[arg(long = "file", value_name = "GLOB")]
    pub files: Vec<String>,

    /// Accept licences that restrict the use, without being asked
    #[arg(long, short, visible_alias = "accept-licence")]
    pub yes: bool,

    /// Ask the hub what branches are at now
    #[arg(long)]
    pub update: bool,

    /// How what was done is printed
    #[arg(long, value_enum, default_value_t = ModelsFormat::Text)]
    pub format: ModelsFormat,

    /// Print nothing but the result and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl GetArgs {
    /// What can only be told of several arguments together.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if !self.files.is_empty() && (self.target.is_none() || !self.modality.is_empty()) {
            return Err("--file chooses files of a repository; name one as ORG/NAME, without --modality".into());
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// If something cannot be had, or a licence was not accepted.
pub(super) fn run(args: &GetArgs) -> Result<ExitCode> {
    let store = Store::from_env()?;
    let target = match &args.target {
        Some(name) => Target::of(name)?,
        None => Target::Pack(Box::new(choose::suggested()?)),
    };
    match target {
        Target::Pack(_) if !args.files.is_empty() => bail!("--file chooses files of a repository, and this is a pack"),
        Target::Pack(pack) => get_pack(*pack, args, &store),
        Target::Hub { .. } if !args.modality.is_empty() => bail!("--modality is about packs, and this is a repository"),
        Target::Hub { repo, revision, file } => get_repository(&repo, &revision, file, args, &store),
    }
}

fn get_pack(mut pack: Pack, args: &GetArgs, store: &Store) -> Result<ExitCode> {
    let sections = sections(&pack, &args.modality)?;
    if pack.sources(&sections).is_empty() {
        if !args.quiet {
            tell(&format!("mils: the pack `{}` has its models with it; there is nothing to download", pack.name));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet {
        show(&pack, &sections, store);
    }
    let consent = if args.yes { Consent::Given } else { Consent::Asked };
    consent.of(&pack, &sections, store)?;
    let cancel = on_ctrl_c()?;
    if !install(&mut pack, &sections, store, args.update, args.quiet, &cancel)? {
        return Ok(interrupted());
    }
    let text = format!("{}: ready for {}", pack.name, plural(&pack.installed()));
    let json = json!({
        "pack": pack.name, "installed": pack.installed(), "files": files_json(&pack.sources(&sections), store),
        "folders": sections.iter().filter_map(|m| Some((m.name(), pack.scorer(*m).ok()?))).collect::<std::collections::BTreeMap<_, _>>(),
        "generator": pack.generator_path().ok(),
    });
    print(args.format, &text, &json)?;
    Ok(ExitCode::SUCCESS)
}

/// Says that nothing was lost.
fn interrupted() -> ExitCode {
    tell("mils: interrupted; what was fetched stays, and the same command goes on");
    ExitCode::from(INTERRUPTED)
}

fn print(format: ModelsFormat, text: &str, json: &Value) -> Result<()> {
    let line = match format {
        ModelsFormat::Text => text.to_owned(),
        ModelsFormat::Json => json.to_string(),
    };
    writeln!(stdout().lock(), "{line}").context("cannot print the result")
}

/// `images, videos and sounds`.
pub(super) fn plural(modalities: &[Modality]) -> String {
    let all: Vec<String> = modalities.iter().map(|m| format!("{m}s")).collect();
    match &all[..] {
        [] => "nothing".into(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// What is to be fetched, and from where.
fn show(pack: &Pack, sections: &[Modality], store: &Store) {
    let missing = pack.missing(sections, store);
    tell(&format!("{}: {}", pack.name, pack.description));
    let sources = pack.sources(sections);
    let width = sources.iter().map(|source| source.place().len()).max().unwrap_or_default();
    for source in sources {
        let of: Vec<_> = missing.iter().filter(|(s, _)| s.origin == source.origin).collect();
        let amount = match of.is_empty() {
            true => "there already".to_owned(),
            false => of.iter().map(|(_, file)| file.amount()).sum::<Amount>().to_string(),
        };
        tell(&format!("  {:<width$}  {amount:<14}  {}", source.place(), source.licence));
    }
    if !missing.is_empty() {
        let all: Amount = missing.iter().map(|(_, file)| file.amount()).sum();
        tell(&format!("  {all} to download, into {}", store.hub().cache().display()));
    }
}

/// Whether terms were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// By a flag.
    Given,
    /// Is asked for, on a terminal.
    Asked,
}

impl Consent {
    /// Asks for what is needed to fetch what is missing.
    ///
    /// # Errors
    /// If it was not given, or nobody can be asked.
    fn of(self, pack: &Pack, sections: &[Modality], store: &Store) -> Result<()> {
        let missing = pack.missing(sections, store);
        let wanted =
            pack.sources(sections).into_iter().filter(|source| missing.iter().any(|(s, _)| s.origin == source.origin));
        let terms: Vec<String> = wanted
            .filter_map(|source| Some(format!("{} is {}: {}", source.place(), source.licence, source.terms.as_ref()?)))
            .collect();
        if terms.is_empty() || self == Self::Given {
            return Ok(());
        }
        if !can_ask() {
            bail!("{}; add --accept-licence (or --yes) to say that you accept that", terms.join("; "));
        }
        for line in &terms {
            tell(line);
        }
        if !ask("Do you accept these terms?")? {
            bail!("the terms were not accepted; nothing was downloaded");
        }
        Ok(())
    }
}

/// Fetches what is missing, and puts it together; `false` if that was interrupted. The pack knows its models then.
///
/// # Errors
/// If something cannot be had.
pub fn install(
    pack: &mut Pack,
    sections: &[Modality],
    store: &Store,
    update: bool,
    quiet: bool,
    cancel: &Arc<AtomicBool>,
) -> Result<bool> {
    own_files(&pack.missing(sections, store), store)?;
    let wanted = if update { all_files(&pack.sources(sections)) } else { pack.missing(sections, store) };
    let scorers: Vec<Vec<Source>> = pack.scorers(sections).into_iter().map(<[Source]>::to_vec).collect();
    let done = fetch(&wanted, &scorers, store, update, quiet, cancel)?;
    pack.look_again(store);
    if let (true, Some(missing)) = (done, sections.iter().find(|m| !pack.installed().contains(m))) {
        bail!(
            "the pack `{}` is not complete for {missing}s, although all was fetched; is another program removing it?",
            pack.name
        );
    }
    Ok(done)
}

/// What is not on the hub must be there.
fn own_files(missing: &[(&Source, &SourceFile)], store: &Store) -> Result<()> {
    let own = missing.iter().find(|(source, _)| matches!(source.origin, Origin::Elsewhere { .. }));
    let Some((source, file)) = own else { return Ok(()) };
    let path = store.own_file(file);
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let is = if path.exists() { "has not the size that it should have" } else { "is not on the hub" };
    bail!(
        "{} {is}: download {} to {}, then run the same command again (--modality chooses what does without it)",
        file.file,
        source.place(),
        path.display()
    );
}

fn all_files<'a>(sources: &[&'a Source]) -> Vec<(&'a Source, &'a SourceFile)> {
    sources.iter().flat_map(|source| source.files.iter().map(move |file| (*source, file))).collect()
}

/// Fetches files, and puts folders together of them; `false` if that was interrupted.
fn fetch(
    wanted: &[(&Source, &SourceFile)],
    scorers: &[Vec<Source>],
    store: &Store,
    update: bool,
    quiet: bool,
    cancel: &Arc<AtomicBool>,
) -> Result<bool> {
    let known: u64 = wanted.iter().filter_map(|(_, file)| file.size).sum();
    let mut seen = HashSet::new();
    let remotes: Vec<Remote> = wanted.iter().filter_map(|(source, file)| source.remote(file)).collect();
    let remotes: Vec<Remote> = remotes.into_iter().filter(|remote| seen.insert(remote.clone())).collect();
    let bars = Bars::new(quiet, known, cancel);
    let done = (|| {
        let options = GetOptions { update, ..GetOptions::default() };
        match store.hub().get(&remotes, &options, &bars) {
            Err(mils_models::download::DownloadError::Cancelled) => return Ok(false),
            got => got?,
        };
        for sources in scorers {
            if assemble(sources, store, update, &bars)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    })();
    bars.finish();
    done
}

fn get_repository(repo: &str, revision: &str, file: Option<String>, args: &GetArgs, store: &Store) -> Result<ExitCode> {
    let patterns: Vec<String> = args.files.iter().cloned().chain(file).collect();
    if !args.quiet {
        tell(&format!("{repo}@{revision}, into {}", store.hub().cache().display()));
    }
    // Nothing is lost by Ctrl-C before something is fetched.
    let listed = store.hub().files(repo, revision)?;
    let files = match patterns.is_empty() {
        true => select::of_encoder(repo, &listed)?,
        false => select::by_patterns(repo, &listed, &patterns)?,
    };
    let origin = Origin::Hub { repo: repo.to_owned(), revision: revision.to_owned() };
    let source = Source { origin, files, licence: String::new(), terms: None };
    let converts = source.files.iter().any(|file| file.convert.is_some());
    let scorers = if converts { vec![vec![source.clone()]] } else { Vec::new() };
    if !args.quiet {
        let bytes = source.files.iter().filter_map(|file| file.about).sum();
        tell(&format!("  {} files, {}", source.files.len(), size(bytes)));
    }
    let cancel = on_ctrl_c()?;
    let missing = store.missing(std::slice::from_ref(&source));
    let wanted = if args.update { all_files(&[&source]) } else { missing };
    if !fetch(&wanted, &scorers, store, args.update, args.quiet, &cancel)? {
        return Ok(interrupted());
    }
    let paths: Vec<PathBuf> = match patterns.is_empty() {
        true => store.folder(std::slice::from_ref(&source)).into_iter().collect(),
        false => source.files.iter().filter_map(|file| store.file(&source, file)).collect(),
    };
    let text: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let json = json!({"repo": repo, "revision": revision, "paths": paths, "files": files_json(&[&source], store)});
    print(args.format, &text.join("\n"), &json)?;
    Ok(ExitCode::SUCCESS)
}

/// Each file, and where it is.
fn files_json(sources: &[&Source], store: &Store) -> Value {
    let file = |(source, file): (&Source, &SourceFile)| {
        let revision = match &source.origin {
            Origin::Hub { revision, .. } => Some(revision),
            Origin::Elsewhere { .. } => None,
        };
        json!({"from": source.place(), "revision": revision, "file": file.file, "path": store.file(source, file)})
    };
    all_files(sources).into_iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modalities_are_listed_for_people() {
        assert_eq!(plural(&[]), "nothing");
        assert_eq!(plural(&[Modality::Sound]), "sounds");
        assert_eq!(plural(&Modality::ALL), "images, videos and sounds");
    }
}
