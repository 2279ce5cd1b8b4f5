//! `mils models path`: where downloaded files are.

use super::{ModalityName, ModelsFormat, Target, sections};
use anyhow::{Context, Result, bail};
use clap::Args;
use mils_models::{Modality, Model, Pack, Store};
use serde_json::json;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

const PATH_EXAMPLES: &str = "\
Examples:
  mils models path small                       (one a line: what it is, a tab, where)
  mils models path small --modality image
  mils models path openai/clip-vit-base-patch32
  mils models path bartowski/Qwen_Qwen3-4B-Instruct-2507-GGUF/Qwen_Qwen3-4B-Instruct-2507-Q4_K_M.gguf
  mils models path small --format json | jq -r .generator

Exit codes: 0 done, 1 it is not there, 2 wrong usage.";

/// `mils models path`.
#[derive(Debug, Args)]
#[command(after_help = PATH_EXAMPLES)]
pub struct PathArgs {
    /// A pack, a repository of the hub, or a file of one: ORG/NAME, ORG/NAME@REVISION, ORG/NAME/FILE
    #[arg(value_name = "PACK|ORG/NAME[/FILE]")]
    pub target: String,

    /// Of a pack, only these
    #[arg(long, value_enum)]
    pub modality: Vec<ModalityName>,

    /// How the paths are printed
    #[arg(long, value_enum, default_value_t = ModelsFormat::Text)]
    pub format: ModelsFormat,
}

/// Runs the command.
///
/// # Errors
/// If it is not there, or the result cannot be printed.
pub(super) fn run(args: &PathArgs) -> Result<ExitCode> {
    let line = match Target::of(&args.target)? {
        Target::Pack(pack) => of_pack(&pack, args)?,
        Target::Hub { repo, revision, file } => {
            let store = Store::from_env()?;
            let path = match file {
                None => Model::find(&args.target, Modality::Image)?.folder,
                Some(file) => file_of(&store, &repo, &revision, &file)?,
            };
            match args.format {
                ModelsFormat::Text => path.display().to_string(),
                ModelsFormat::Json => json!({"path": path}).to_string(),
            }
        }
    };
    writeln!(stdout().lock(), "{line}").context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

fn of_pack(pack: &Pack, args: &PathArgs) -> Result<String> {
    let generator = pack.generator_path();
    let scorers = sections(pack, &args.modality)?.into_iter().map(|m| (m, pack.scorer(m)));
    // What was not named need not be there, as long as something is.
    let scorers: Vec<(Modality, PathBuf)> = match args.modality.is_empty() {
        true => scorers.filter_map(|(m, folder)| Some((m, folder.ok()?))).collect(),
        false => scorers.map(|(m, folder)| Ok((m, folder?))).collect::<Result<_>>()?,
    };
    let generator = if scorers.is_empty() { Some(generator?) } else { generator.ok() };
    Ok(match args.format {
        ModelsFormat::Json => {
            let scorers: serde_json::Map<String, _> =
                scorers.iter().map(|(m, folder)| (m.name().to_owned(), json!(folder))).collect();
            json!({"pack": pack.name, "file": pack.file(), "generator": generator, "scorers": scorers}).to_string()
        }
        ModelsFormat::Text => {
            let generator = generator.iter().map(|path| format!("generator\t{}", path.display()));
            let scorers = scorers.iter().map(|(m, folder)| format!("{m}\t{}", folder.display()));
            generator.chain(scorers).collect::<Vec<_>>().join("\n")
        }
    })
}

fn file_of(store: &Store, repo: &str, revision: &str, file: &str) -> Result<PathBuf> {
    let found = store.hub().cached_files(repo, revision).into_iter().find(|(remote, _)| remote.file == file);
    let at = if revision == "main" { String::new() } else { format!("@{revision}") };
    let Some((_, path)) = found else {
        bail!("{file} of {repo} is not in the hub cache; `mils models get {repo}{at}/{file}` fetches it");
    };
    Ok(path)
}
