//! Captions beside the files and in them: sidecars of text, JSON and XMP, and XMP in pictures.

mod picture;
mod xmp;

use self::picture::Picture;
use self::xmp::Home;
use crate::args::output::{IfExists, OutputArgs, Sidecar, SidecarName};
use crate::output::replace;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Bytes of a sidecar that is read: a bound on memory.
const MOST: u64 = 64 << 20;

/// What is to be written of each file.
pub struct Metadata {
    sidecars: Vec<Sidecar>,
    name: Option<SidecarName>,
    embed: bool,
    if_exists: IfExists,
}

impl Metadata {
    /// What is asked for.
    pub fn of(args: &OutputArgs) -> Self {
        let mut sidecars: Vec<Sidecar> = Vec::new();
        for sidecar in &args.sidecar {
            if !sidecars.contains(sidecar) {
                sidecars.push(*sidecar);
            }
        }
        let if_exists = args.if_exists.unwrap_or_default();
        Self { sidecars, name: args.sidecar_name, embed: args.embed_xmp, if_exists }
    }

    /// Whether anything is asked for.
    pub fn is_wanted(&self) -> bool {
        self.embed || !self.sidecars.is_empty()
    }

    /// A file's sidecars.
    fn paths<'a>(&'a self, file: &'a Path) -> impl Iterator<Item = (Sidecar, PathBuf)> + 'a {
        self.sidecars.iter().map(move |&sidecar| {
            let usual = if sidecar == Sidecar::Xmp { SidecarName::Full } else { SidecarName::Stem };
            let mut name = match self.name.unwrap_or(usual) {
                SidecarName::Full => file.as_os_str().to_owned(),
                SidecarName::Stem => file.with_extension("").into_os_string(),
            };
            name.push(".");
            name.push(sidecar.extension());
            (sidecar, name.into())
        })
    }

    /// An error where two files would have one sidecar, or one would go over a file or an output.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self, files: &[PathBuf], outputs: &[&Path]) -> Result<()> {
        if self.sidecars.is_empty() {
            return Ok(());
        }
        let taken: HashSet<&Path> = files.iter().map(PathBuf::as_path).chain(outputs.iter().copied()).collect();
        let mut owners: HashMap<PathBuf, &Path> = HashMap::new();
        let hint = "give --sidecar-name full, so that it has a name of its own";
        for file in files {
            for (_, path) in self.paths(file) {
                if taken.contains(&*path) {
                    bail!("the sidecar of {} would go over {}; {hint}", file.display(), path.display());
                }
                let shown = path.display().to_string();
                if let Some(other) = owners.insert(path, file).filter(|other| other != file) {
                    bail!("{} and {} would share the sidecar {shown}; {hint}", other.display(), file.display());
                }
            }
        }
        Ok(())
    }

    /// Whether a file is not to be captioned, by its sidecars: what is asked for is there. What is in the file itself,
    /// [`Metadata::is_described`] tells.
    pub fn has_sidecars(&self, file: &Path) -> bool {
        self.if_exists == IfExists::Skip
            && !self.sidecars.is_empty()
            && self.paths(file).all(|(of, path)| is_there(of, &path))
    }

    /// Whether sidecars are all that is asked for.
    pub fn is_beside(&self) -> bool {
        !self.embed
    }

    /// Whether a file is not to be captioned, since all that is asked for is there, in the file too.
    ///
    /// # Errors
    /// If it cannot be read, or its XMP not be understood.
    pub fn is_described(&self, file: &Path) -> Result<bool> {
        let beside = self.sidecars.is_empty() || self.has_sidecars(file);
        if !beside || !self.embed || self.if_exists != IfExists::Skip {
            return Ok(false);
        }
        Ok(match Picture::open(read(file)?)? {
            Some(picture) => picture.description()?.is_some(),
            // Without a place for it, there is only what stands beside it.
            None => !self.sidecars.is_empty(),
        })
    }

    /// Whether sidecars of a file whose result is known are missing.
    pub fn lacks_sidecars(&self, file: &Path) -> bool {
        self.paths(file).any(|(of, path)| !is_there(of, &path))
    }

    /// Writes the missing ones.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn add_sidecars(&self, file: &Path, result: &Value) -> Result<()> {
        self.paths(file).try_for_each(|(of, path)| write_sidecar(of, &path, result, IfExists::Skip))
    }

    /// Writes all that is asked for, as far as it is not there.
    ///
    /// # Errors
    /// If something cannot be written; the rest is.
    pub fn write(&self, file: &Path, result: &Value) -> Result<()> {
        let mut written = Ok(());
        for (of, path) in self.paths(file) {
            written = written.and(write_sidecar(of, &path, result, self.if_exists));
        }
        if self.embed {
            written = written.and(embed(file, caption(result)?, self.if_exists));
        }
        written
    }
}

fn caption(result: &Value) -> Result<&str> {
    result["caption"].as_str().context("a result without a caption")
}

/// What a description becomes with a caption; `None`: it stays, or says it already.
fn combine(old: Option<&str>, caption: &str, how: IfExists) -> Option<String> {
    let Some(old) = old.map(str::trim_end).filter(|old| !old.is_empty()) else { return Some(caption.to_owned()) };
    let said = || old.lines().any(|line| line.trim() == caption.trim());
    match how {
        IfExists::Skip => None,
        IfExists::Overwrite => (old != caption).then(|| caption.to_owned()),
        IfExists::Append => (!said()).then(|| format!("{old}\n{caption}")),
        IfExists::Prepend => (!said()).then(|| format!("{caption}\n{old}")),
    }
}

/// Whether a sidecar says something: one of XMP may hold other things alone. One that cannot be read is told of when
/// it is to be written.
fn is_there(of: Sidecar, path: &Path) -> bool {
    match of {
        Sidecar::Txt | Sidecar::Json => std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0),
        Sidecar::Xmp => {
            let text = read_sidecar(path).ok().flatten();
            text.is_some_and(|text| xmp::description(&text).is_ok_and(|description| description.is_some()))
        }
    }
}

/// A sidecar's text, if it is there.
fn read_sidecar(path: &Path) -> Result<Option<String>> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(None) };
    ensure!(meta.is_file(), "it is no file");
    ensure!(meta.len() <= MOST, "it is larger than {} MiB", MOST >> 20);
    let text = String::from_utf8(std::fs::read(path)?).context("it is not UTF-8")?;
    Ok(Some(text))
}

fn write_sidecar(of: Sidecar, path: &Path, result: &Value, how: IfExists) -> Result<()> {
    let write = || -> Result<()> {
        if how == IfExists::Skip && is_there(of, path) {
            return Ok(());
        }
        // What is written over need not be understood, but for what stays of it.
        let reads = of == Sidecar::Xmp || how != IfExists::Overwrite;
        let old = if reads { read_sidecar(path)? } else { None };
        let new = match of {
            Sidecar::Txt => combine(old.as_deref(), caption(result)?, how).map(|text| text + "\n"),
            Sidecar::Json => list(old.as_deref(), result, how)?,
            Sidecar::Xmp => xmp::describe(old.as_deref(), caption(result)?, how, Home::Sidecar)?,
        };
        new.map_or(Ok(()), |new| replace(path, [new]))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A result as JSON; with others, a list of them all.
fn list(old: Option<&str>, result: &Value, how: IfExists) -> Result<Option<String>> {
    let old = old.filter(|old| !old.trim().is_empty() && how != IfExists::Overwrite);
    let new = match old.map(serde_json::from_str::<Value>).transpose().context("what is there is no JSON")? {
        None => result.clone(),
        Some(old) => {
            let mut all = if let Value::Array(all) = old { all } else { vec![old] };
            if how == IfExists::Skip || all.iter().any(|one| one["caption"] == result["caption"]) {
                return Ok(None);
            }
            all.insert(if how == IfExists::Prepend { 0 } else { all.len() }, result.clone());
            Value::Array(all)
        }
    };
    Ok(Some(serde_json::to_string_pretty(&new)? + "\n"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    crate::inputs::regular(file)?;
    std::fs::read(file).map_err(|error| anyhow!("cannot be read: {error}"))
}

/// Writes a caption into a file; where that has no place for it, nothing.
fn embed(file: &Path, caption: &str, how: IfExists) -> Result<()> {
    let write = || -> Result<()> {
        let Some(picture) = Picture::open(read(file)?)? else { return Ok(()) };
        picture.describe(caption, how)?.map_or(Ok(()), |parts| replace(file, parts))
    };
    write().context("cannot write the caption into it")
}

#[cfg(test)]
mod tests;
