//! `mils models list`: the packs, what of them is installed, and what this machine can run.

use super::ModelsFormat;
use crate::choose::best;
use crate::memory;
use anyhow::{Context, Result};
use clap::Args;
use mils_models::download::size;
use mils_models::{Modality, Pack, PackError, search_path};
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::process::ExitCode;

const LIST_EXAMPLES: &str = "\
Examples:
  mils models list
  mils models list --format json | jq -r '.packs[] | select(.fits) | .name'
  MILS_PACKS=~/packs mils models list     (where packs are looked for first; several folders as in PATH)

What is installed can be named with --pack and --model. `mils caption` without --pack takes the
largest pack that is installed and fits this machine; a pack fits if its models fit into main memory.

Exit codes: 0 done, 1 the list cannot be printed, 2 wrong usage.";

/// `mils models list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = ModelsFormat::Text)]
    pub format: ModelsFormat,
}

/// Runs the command.
///
/// # Errors
/// If the list cannot be printed.
pub(super) fn run(args: &ListArgs) -> Result<ExitCode> {
    let packs = mils_models::all();
    let memory = memory::total();
    let good: Vec<Pack> = packs.iter().filter_map(|(_, pack)| pack.as_ref().ok().cloned()).collect();
    let taken = best(&good, Modality::Image, memory).map(|pack| pack.name.clone());
    let text = match args.format {
        ModelsFormat::Text => text(&packs, memory, taken.as_deref()),
        ModelsFormat::Json => {
            let packs: Vec<Value> = packs.iter().map(|(name, found)| pack_json(name, found, memory)).collect();
            json!({"memory": memory, "taken": taken, "packs": packs, "looked_for_in": search_path()}).to_string()
        }
    };
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the list")?;
    Ok(ExitCode::SUCCESS)
}

fn text(packs: &[(String, Result<Pack, PackError>)], memory: u64, taken: Option<&str>) -> String {
    let paragraph = |(name, found): &(String, Result<Pack, PackError>)| match found {
        Ok(pack) => pack_text(pack, memory),
        Err(error) => format!("{name}\n  cannot be used         {error}"),
    };
    let mut out: Vec<String> = packs.iter().map(paragraph).collect();
    out.push(match taken {
        Some(name) => format!("mils caption without --pack takes {name} for pictures"),
        None => {
            "mils caption without --pack has none to take: `mils models get` downloads the one that suits this machine"
                .to_owned()
        }
    });
    out.join("\n\n")
}

/// `image, video`, or `none`.
fn names(modalities: &[Modality]) -> String {
    let all: Vec<&str> = modalities.iter().map(|m| m.name()).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn pack_text(pack: &Pack, memory: u64) -> String {
    let (all, installed) = (pack.modalities(), pack.installed());
    let state = if installed == all {
        "yes".to_owned()
    } else if installed.is_empty() {
        format!("no; {}", pack.get_command())
    } else {
        format!("in part, {}; {}", names(&installed), pack.get_command())
    };
    let amount = pack.amount(&all);
    let download = if pack.sources(&all).is_empty() {
        "none".to_owned()
    } else if installed == all {
        amount.to_string()
    } else {
        let each: Vec<String> = all.iter().map(|m| format!("{m} alone {}", size(pack.amount(&[*m]).bytes))).collect();
        format!("{amount} ({})", each.join(", "))
    };
    let fits = if pack.memory() <= memory { "fits" } else { "more than" };
    let rows = [
        ("describes", names(&all)),
        ("installed", state),
        ("download", download),
        ("memory", format!("{}: {fits} this machine's {}", size(pack.memory()), size(memory))),
        ("licence", pack.licence.clone()),
    ];
    let lines = rows.iter().map(|(name, value)| format!("\n  {name:<12}{value}"));
    std::iter::once(format!("{}: {}", pack.name, pack.description)).chain(lines).collect()
}

fn pack_json(name: &str, found: &Result<Pack, PackError>, memory: u64) -> Value {
    let pack = match found {
        Ok(pack) => pack,
        Err(error) => return json!({"name": name, "problem": error.to_string()}),
    };
    let installed = pack.installed();
    let section = |modality: &Modality| {
        let amount = pack.amount(&[*modality]);
        json!({
            "modality": modality, "installed": installed.contains(modality), "download": amount.bytes,
            "exact": amount.exact,
        })
    };
    let all = pack.amount(&pack.modalities());
    let sources = pack.sources(&pack.modalities());
    let source = |source: &&mils_models::Source| json!({"from": source.place(), "licence": source.licence, "terms": source.terms, "download": source.amount().bytes});
    json!({
        "name": name, "description": pack.description, "licence": pack.licence, "file": pack.file(),
        "modalities": pack.modalities().iter().map(section).collect::<Vec<_>>(),
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
        "download": all.bytes, "missing": pack.still_missing().bytes, "exact": all.exact,
        "memory": pack.memory(), "fits": pack.memory() <= memory, "automatic": pack.automatic, "problem": null,
    })
}
