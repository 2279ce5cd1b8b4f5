//! Which pack is taken where none is named: the largest that is installed and that this machine can run.

use crate::memory;
use crate::models::{ask, can_ask, install};
use crate::show::tell;
use anyhow::{Result, anyhow, bail};
use mils_models::{Modality, Pack, PackError, Store};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A pack that was chosen.
pub enum Choice {
    /// It is installed.
    Installed(Box<Pack>),
    /// It is to be downloaded first, as was agreed to.
    Download(Box<Pack>),
}

/// The pack that was named, or as [`pack`] chooses one.
///
/// # Errors
/// If there is no such pack, or as there.
pub fn named(name: Option<&str>, modality: impl FnOnce() -> Modality) -> Result<Choice> {
    match name {
        Some(name) => Ok(Choice::Installed(Box::new(Pack::find(name)?))),
        None => pack(modality()),
    }
}

/// Chooses a pack for things of a modality. Where none is installed, a download is offered on a terminal.
///
/// # Errors
/// If none is installed, and none was agreed to.
pub fn pack(modality: Modality) -> Result<Choice> {
    let packs = packs()?;
    let memory = memory::total();
    if let Some(best) = best(&packs, modality, memory) {
        // By its name or its file, as a user would: what is missing of it is said.
        return Ok(Choice::Installed(Box::new(Pack::find(best.given())?)));
    }
    let pack = to_download(&packs, memory).ok_or_else(none)?;
    let (amount, command) = (pack.still_missing(), pack.get_command());
    if !can_ask() {
        bail!(
            "no model pack is installed; run `{command}` ({amount}), or name a pack with --pack: `--pack demo` is bundled \
             and works now"
        );
    }
    tell("No model pack is installed. (The bundled one knows nothing of real pictures; `--pack demo` takes it.)");
    let question = format!("Download `{}` ({}; {amount}; {})?", pack.name, pack.description, pack.licence);
    if !ask(&question)? {
        bail!("there is no model pack to use; run `{command}` ({amount}) whenever you like, or try `--pack demo`");
    }
    Ok(Choice::Download(Box::new(pack.clone())))
}

/// The pack that suits this machine, of those to be downloaded without terms.
///
/// # Errors
/// If there is none.
pub fn suggested() -> Result<Pack> {
    to_download(&packs()?, memory::total()).cloned().ok_or_else(none)
}

/// The packs that make sense. Where it cannot be told what of them is there, none is chosen.
fn packs() -> Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for (_, found) in mils_models::all() {
        match found {
            Ok(pack) => packs.push(pack),
            Err(error @ PackError::Store(_)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(packs)
}

fn none() -> anyhow::Error {
    anyhow!("there is no model pack for download; name one with --pack: `--pack demo` is bundled and works now")
}

impl Choice {
    /// The pack, with its models; `None` if downloading them was interrupted.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn with_models(self, quiet: bool, cancel: &Arc<AtomicBool>) -> Result<Option<Pack>> {
        match self {
            Self::Installed(pack) => Ok(Some(*pack)),
            Self::Download(mut pack) => {
                let sections = pack.modalities();
                let done = install(&mut pack, &sections, &Store::from_env()?, false, quiet, cancel)?;
                if !done {
                    tell("mils: interrupted; what was fetched stays, and the same command goes on");
                    return Ok(None);
                }
                Pack::find(pack.given()).map(Some).map_err(Into::into)
            }
        }
    }
}

/// The largest pack that is installed and fits; first of those that describe such things.
pub(crate) fn best(packs: &[Pack], modality: Modality, memory: u64) -> Option<&Pack> {
    let usable = packs.iter().filter(|pack| pack.automatic && !pack.installed().is_empty() && pack.memory() <= memory);
    usable.max_by_key(|pack| (pack.describes(modality), pack.memory()))
}

/// The largest pack to be downloaded that fits and has no terms; the smallest where none fits.
pub(crate) fn to_download(packs: &[Pack], memory: u64) -> Option<&Pack> {
    let free = |pack: &&Pack| {
        let sources = pack.sources(&pack.modalities());
        pack.automatic && !sources.is_empty() && sources.iter().all(|source| source.terms.is_none())
    };
    let fits = packs.iter().filter(free).filter(|pack| pack.memory() <= memory).max_by_key(|pack| pack.memory());
    fits.or_else(|| packs.iter().filter(free).min_by_key(|pack| pack.memory()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_models::download::Hub;
    use std::fs;
    use std::path::Path;

    fn store(dir: &Path) -> Store {
        Store::new(Hub::new("https://huggingface.co", &dir.join("hub")).unwrap(), &dir.join("home"))
    }

    /// A pack of files that are there.
    fn local(dir: &Path, name: &str, sections: &[&str], more: &str) -> Pack {
        let at = dir.join(name);
        fs::create_dir_all(at.join("m")).unwrap();
        fs::write(at.join("g.gguf"), "x").unwrap();
        let sections: String = sections.iter().map(|s| format!("[{s}]\nscorer = 'm'\ninitial = 'i'\n")).collect();
        let text = format!("name = '{name}'\n{more}\n[generator]\npath = 'g.gguf'\n{sections}[prompt]\nuser = 'u'\n");
        fs::write(at.join("pack.toml"), text).unwrap();
        Pack::read(&at.join("pack.toml"), &store(dir)).unwrap()
    }

    /// A pack that is to be downloaded.
    fn remote(dir: &Path, name: &str, more: &str, terms: &str) -> Pack {
        let file = dir.join(format!("{name}.toml"));
        let source = format!("{{ repo = 'org/{name}', file = 'g.gguf', size = 5 {terms} }}");
        let text = format!(
            "name = '{name}'\n{more}\n[generator]\nsource = {source}\n[image]\nscorer = {source}\ninitial = 'i'\n[prompt]\nuser = 'u'\n"
        );
        fs::write(&file, text).unwrap();
        Pack::read(&file, &store(dir)).unwrap()
    }

    fn name(pack: Option<&Pack>) -> &str {
        pack.map_or("none", |pack| &pack.name)
    }

    #[test]
    fn the_largest_that_fits_and_describes_such_things_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let packs = [
            local(at, "small", &["image", "sound"], "memory = 6_000"),
            local(at, "large", &["image"], "memory = 12_000"),
            local(at, "toy", &["image"], "memory = 1\nautomatic = false"),
            remote(at, "far", "memory = 7_000", ""),
        ];
        assert_eq!(name(best(&packs, Modality::Image, 16_000)), "large");
        assert_eq!(name(best(&packs, Modality::Video, 16_000)), "large");
        assert_eq!(name(best(&packs, Modality::Image, 8_000)), "small", "what is not installed does not count");
        assert_eq!(name(best(&packs, Modality::Sound, 16_000)), "small");
        // One that describes something else says what to do.
        assert_eq!(name(best(&packs[1..2], Modality::Sound, 16_000)), "large");
        assert_eq!(name(best(&packs, Modality::Image, 5_000)), "none");
        // Without a word on memory, by its files: one byte, and none in its folder.
        let plain = local(at, "plain", &["image"], "");
        assert_eq!(plain.memory(), 1);
    }

    #[test]
    fn what_is_suggested_for_download_is_free_and_fits() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let packs = [
            remote(at, "small", "memory = 6_000", ""),
            remote(at, "large", "memory = 12_000", ""),
            remote(at, "paper", "memory = 13_000", ", terms = 'ask'"),
            local(at, "demo", &["image"], ""),
        ];
        assert_eq!(name(to_download(&packs, 16_000)), "large");
        assert_eq!(name(to_download(&packs, 8_000)), "small");
        assert_eq!(name(to_download(&packs, 0)), "small", "rather the smallest than nothing");
        assert_eq!(name(to_download(&packs[2..], 16_000)), "none");
    }
}
