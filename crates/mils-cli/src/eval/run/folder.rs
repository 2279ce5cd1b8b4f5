//! A folder of results: what it was begun with, and what is taken over from others.

use super::args::RunArgs;
use super::plan::{Plan, draw};
use crate::output::replace;
use crate::progress::Progress;
use crate::session::decimal;
use anyhow::{Context, Result, anyhow, bail};
use mils_bank::blob;
use mils_models::Pack;
use mils_models::download::sha256;
use mils_optim::Feedback;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What `mils caption -o` writes.
const CAPTIONS: &str = "captions.jsonl";
const SETTINGS: &str = "settings.json";

/// A folder of results.
pub(crate) struct Folder {
    path: PathBuf,
    /// All that decides what captions come out, and what they are of.
    pub(crate) settings: Value,
}

impl Folder {
    /// Makes it, or finds that it was begun with the same.
    ///
    /// # Errors
    /// If it cannot be written, or was begun with something else.
    pub(crate) fn begin(args: &RunArgs, plan: &Plan, pack: &Pack, progress: &Progress) -> Result<Self> {
        let path = args.output.clone();
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let settings = settings(args, plan, pack, progress)?;
        let folder = Self { path, settings };
        let at = folder.file(SETTINGS);
        if let Some(before) = read(&at)? {
            same(&before, &folder.settings, false).map_err(|what| {
                anyhow!("{} was begun with another {what}; name another folder, or remove it", folder.path.display())
            })?;
        }
        folder.write(SETTINGS, &format!("{:#}\n", folder.settings))?;
        Ok(folder)
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where captions grow.
    pub(crate) fn captions(&self) -> PathBuf {
        self.file(CAPTIONS)
    }

    /// Writes a whole file into it.
    ///
    /// # Errors
    /// If that fails.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        replace(&path, [text]).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The lines of captions that are there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn lines(&self) -> Result<Vec<Value>> {
        lines(&self.captions())
    }

    /// Takes over captions of other folders that were made with the same, of the items of this run.
    ///
    /// # Errors
    /// If one was made with something else, or cannot be read.
    pub(crate) fn merge(&self, others: &[PathBuf], plan: &Plan, root: &Path) -> Result<usize> {
        if others.is_empty() {
            return Ok(0);
        }
        let mut all = self.lines()?;
        let name = |line: &Value| line["file"].as_str().map(str::to_owned);
        let good = |line: &Value| line["caption"].is_string() && line["interrupted"] != true;
        all.retain(good);
        let before = all.len();
        let mut known: HashSet<String> = all.iter().filter_map(name).collect();
        let wanted: HashSet<String> = plan.files().iter().map(|f| f.display().to_string()).collect();
        for other in others {
            let theirs = read(&other.join(SETTINGS))?
                .with_context(|| format!("{} has no {SETTINGS}: it is no folder of results", other.display()))?;
            same(&theirs, &self.settings, true)
                .map_err(|what| anyhow!("{} was made with another {what}", other.display()))?;
            let from = theirs["root"].as_str().unwrap_or_default();
            for mut line in lines(&other.join(CAPTIONS))?.into_iter().filter(good) {
                let Some(file) = name(&line) else { continue };
                // The data set may lie elsewhere on that machine.
                let here = Path::new(&file).strip_prefix(from).map_or(PathBuf::from(&file), |below| root.join(below));
                let here = here.display().to_string();
                if wanted.contains(&here) && known.insert(here.clone()) {
                    line["file"] = here.into();
                    all.push(line);
                }
            }
        }
        let text: String = all.iter().map(|line| format!("{line}\n")).collect();
        self.write(CAPTIONS, &text)?;
        Ok(all.len() - before)
    }
}

/// JSON Lines; a last one that was cut off by a kill is passed over.
pub(crate) fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => all.push(line),
            Err(_) if at + 1 == text.lines().count() => {}
            Err(error) => bail!("{}:{}: it is no result of `mils caption`: {error}", path.display(), at + 1),
        }
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Option<Value>> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => {
            let place = || format!("cannot read {}", path.display());
            serde_json::from_str(&text.with_context(place)?).with_context(place).map(Some)
        }
    }
}

/// Whether two are the same in what decides the captions; the first thing that is not. Of folders that are merged, items
/// and places may differ.
fn same(a: &Value, b: &Value, merged: bool) -> Result<(), String> {
    let free: &[&str] = if merged {
        &["version", "machine", "root", "captions", "limit", "shard", "items", "missing"]
    } else {
        &["version", "machine"]
    };
    let empty = Map::new();
    let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
    match b.iter().find(|(key, value)| !free.contains(&&***key) && a.get(*key) != Some(value)) {
        Some((key, _)) => Err(key.clone()),
        None => Ok(()),
    }
}

fn settings(args: &RunArgs, plan: &Plan, pack: &Pack, progress: &Progress) -> Result<Value> {
    let run = &args.run;
    let task = pack.task(args.data.modality())?;
    let initial = run.initial()?.unwrap_or_else(|| task.initial.clone());
    let generator = match &run.writer.generator {
        Some(url) => json!({"endpoint": url, "model": run.writer.generator_model}),
        None => hashed(&pack.generator_path()?, progress)?,
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(&task.scorer)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("cannot read {}", task.scorer.display()))?;
    files.retain(|path| path.is_file() && path.extension().is_some_and(|e| e == "json" || e == "safetensors"));
    files.sort();
    let scorer: Vec<Value> = files.iter().map(|file| hashed(file, progress)).collect::<Result<_>>()?;
    let loop_settings = &task.settings;
    let number = |told: Option<u32>, packs: usize| told.map_or(packs, |n| n as usize);
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "machine": {"os": std::env::consts::OS, "arch": std::env::consts::ARCH, "cpu": cpu(),
            "threads": std::thread::available_parallelism().map_or(1, usize::from)},
        "data": args.data.data_set().name(),
        "split": plan.split,
        "root": args.root,
        "captions": hashed(&plan.captions, progress)?,
        "items": plan.items.len(),
        "limit": args.limit,
        "shard": args.shard.map(|s| format!("{}/{}", s.number, s.of)),
        "missing": format!("{:?}", args.missing).to_lowercase(),
        "seed": run.seed,
        "pack": pack.name,
        "generator": generator,
        "scorer": scorer,
        "initial": hashed(&initial, progress)?,
        "initial_size": args.initial_size,
        "steps": number(run.steps, loop_settings.steps),
        "keep": number(run.keep, loop_settings.keep),
        "propose": number(run.propose, loop_settings.propose),
        "temperature": decimal(run.temperature.unwrap_or(pack.settings.temperature)),
        "top_p": decimal(pack.settings.top_p),
        "prompt": {"system": task.prompt.system, "user": task.prompt.user},
        "feedback": Feedback::from(args.feedback),
        "dtype": format!("{:?}", run.encoder.dtype).to_lowercase(),
        "math": format!("{:?}", run.encoder.math).to_lowercase(),
    }))
}

fn cpu() -> Option<String> {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
}

/// A file's name and the SHA-256 of its contents, which is not computed where the hub cache names the file by it.
fn hashed(path: &Path, progress: &Progress) -> Result<Value> {
    progress.say(&format!("hashing {}", path.display()));
    let digest = match blob(path) {
        Some(digest) => digest,
        None => sha256(path, &mut |_| Ok(()))?.1,
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(json!({"file": name, "sha256": digest}))
}

/// A part of the initial set, written into the folder; its path.
///
/// # Errors
/// If it cannot be read or written.
pub(super) fn part_of_initial(folder: &Folder, args: &RunArgs, pack: &Pack) -> Result<Option<PathBuf>> {
    let Some(size) = args.initial_size else { return args.run.initial().map_err(Into::into) };
    let mut task = pack.task(args.data.modality())?;
    if let Some(initial) = args.run.initial()? {
        task.initial = initial;
    }
    let texts = task.initial_texts()?;
    let all: Vec<&str> = texts.iter().map(|t| &**t).collect();
    if all.len() < size as usize {
        bail!("--initial-size {size} is more than the {} texts of {}", all.len(), task.initial.display());
    }
    let text: String = draw(&all, size as usize, args.run.seed).iter().map(|t| format!("{t}\n")).collect();
    let path = folder.file("initial.txt");
    folder.write("initial.txt", &text)?;
    // As a path, so that no set of this name is meant.
    Ok(Some(std::fs::canonicalize(&path).unwrap_or(path)))
}
