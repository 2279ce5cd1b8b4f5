//! A pack: what its file says, and where what it names is.

use crate::drawing::{EditFiles, GenerateFiles};
use crate::settings::{PromptFile, within};
use crate::source::{ScorerFiles, Source, SourceFile};
use crate::store::Store;
use crate::{Amount, LoopChanges, LoopSettings, Modality, PackError, PromptChanges, Prompts, find, find_bank, sets};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The generator's file and how to run it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorFiles {
    /// A GGUF file, relative to the pack's root.
    pub path: Option<PathBuf>,
    /// Where it is from, in place of the path.
    pub source: Option<Source>,
    /// Tokens of prompt and answer.
    #[serde(default = "default_context")]
    pub context: u32,
    /// Answers sampled side by side; where it does not say, as many as suit the model and the machine.
    #[serde(default)]
    pub sequences: Option<usize>,
    /// Texts asked for in each answer.
    #[serde(default = "default_lines")]
    pub lines: usize,
}

fn default_context() -> u32 {
    4096
}

fn default_lines() -> usize {
    7
}

/// What describing one modality takes, beside the generator. Paths are relative to the pack's root.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalityFiles {
    /// The encoder's checkpoint. Videos without one are shown to the encoder of pictures.
    #[serde(default)]
    pub scorer: Option<ScorerFiles>,
    /// The texts to start from, one a line: a file, or the name of a set that [`crate::find_bank`] finds.
    pub initial: PathBuf,
    /// What differs from the pack's prompts.
    #[serde(default)]
    pub prompt: PromptChanges,
    /// What differs from the pack's settings.
    #[serde(default, rename = "loop")]
    pub settings: LoopChanges,
}

/// How things of one modality are described: the pack's files and settings with the modality's in their place.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Which.
    pub modality: Modality,
    /// The encoder's checkpoint folder.
    pub scorer: PathBuf,
    /// The initial set's file.
    pub initial: PathBuf,
    /// The prompts.
    pub prompt: Prompts,
    /// Settings.
    pub settings: LoopSettings,
}

/// A pack: the contents of its file, and where that and its models are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// Licence of the models.
    #[serde(default)]
    pub licence: String,
    /// What a machine must have of main memory to run it, in bytes; see [`Pack::memory`].
    #[serde(default)]
    memory: Option<u64>,
    /// Whether it may be taken where none is named.
    #[serde(default = "yes")]
    pub automatic: bool,
    /// Where the files are, relative to the pack's file.
    #[serde(default)]
    pub root: PathBuf,
    /// The language model.
    pub generator: GeneratorFiles,
    /// What describing pictures takes.
    #[serde(default)]
    pub image: Option<ModalityFiles>,
    /// What describing videos takes. Without it, or without a scorer in it, the encoder of pictures is shown some of their
    /// frames.
    #[serde(default)]
    pub video: Option<ModalityFiles>,
    /// What describing sounds takes.
    #[serde(default)]
    pub sound: Option<ModalityFiles>,
    /// What making pictures takes, beside what describing them does; see [`Pack::drawing`].
    #[serde(default)]
    pub generate: Option<GenerateFiles>,
    /// What editing pictures takes; see [`Pack::editing`].
    #[serde(default)]
    pub edit: Option<EditFiles>,
    /// Settings.
    #[serde(default, rename = "loop")]
    pub settings: LoopSettings,
    /// A file of prompts that several packs share, relative to the pack's file; the pack's own come first.
    #[serde(default)]
    prompts: Option<PathBuf>,
    /// Prompts.
    #[serde(default)]
    pub prompt: Prompts,
    /// The pack's file.
    #[serde(skip)]
    file: PathBuf,
    /// How it was asked for.
    #[serde(skip)]
    given: String,
    #[serde(skip)]
    found: Found,
}

fn yes() -> bool {
    true
}

/// Where a pack's models are, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Found {
    generator: Option<PathBuf>,
    /// By the section that names them.
    scorers: BTreeMap<Modality, PathBuf>,
    /// What the worker that draws is given, by argument, where all of it is there.
    worker: Option<BTreeMap<String, PathBuf>>,
    /// What is still to be downloaded, for each modality …
    missing: BTreeMap<Modality, Amount>,
    /// … and for all.
    missing_in_all: Option<Amount>,
}

impl Pack {
    /// Finds a pack by name, or by path: a folder with a `pack.toml`, or a TOML file. Something of it is installed, and
    /// what it names by path is there.
    ///
    /// # Errors
    /// If there is no such pack, its file is damaged, nothing of it was downloaded ([`PackError::NotInstalled`]), or
    /// something that it names is missing.
    pub fn find(name: &str) -> Result<Self, PackError> {
        Self::find_in(name, &find::search_path())
    }

    pub(crate) fn find_in(name: &str, folders: &[PathBuf]) -> Result<Self, PackError> {
        let pack = Self::open_in(name, folders)?;
        pack.check()?;
        Ok(pack)
    }

    /// As [`Pack::find`], whether anything that it names is there or not.
    ///
    /// # Errors
    /// If there is no such pack, or its file is damaged.
    pub fn open(name: &str) -> Result<Self, PackError> {
        Self::open_in(name, &find::search_path())
    }

    pub(crate) fn open_in(name: &str, folders: &[PathBuf]) -> Result<Self, PackError> {
        let mut pack = Self::parse(&find::file(name, folders)?)?;
        name.clone_into(&mut pack.given);
        // Where nothing is to be downloaded, it does not matter whether the hub's settings make sense.
        let store = if pack.has_sources() { Some(Store::from_env()?) } else { None };
        pack.look(store.as_ref());
        Ok(pack)
    }

    /// Reads a pack's file, with what is to be downloaded in this store. Nothing is checked to be there.
    ///
    /// # Errors
    /// If the file cannot be read, or makes no sense.
    pub fn read(file: &Path, store: &Store) -> Result<Self, PackError> {
        let mut pack = Self::parse(file)?;
        pack.look(Some(store));
        Ok(pack)
    }

    fn parse(file: &Path) -> Result<Self, PackError> {
        let mut pack: Self = read_toml(file, "no such pack file; a pack folder holds a pack.toml")?;
        file.clone_into(&mut pack.file);
        pack.share_prompts()?;
        pack.given = file.display().to_string();
        pack.check_settings().map_err(|problem| PackError::File { path: file.to_owned(), problem })?;
        Ok(pack)
    }

    /// Prompts of a file are taken where the pack has none of its own.
    fn share_prompts(&mut self) -> Result<(), PackError> {
        let Some(path) = self.prompts.as_ref().map(|path| self.folder().join(path)) else { return Ok(()) };
        let PromptFile { prompt, image, video, sound, generate, blend, edit } =
            read_toml(&path, "no such file of prompts")?;
        let own = std::mem::take(&mut self.prompt);
        let drawing = self.generate.get_or_insert_default();
        drawing.prompt = std::mem::take(&mut drawing.prompt).or(generate);
        drawing.blend = std::mem::take(&mut drawing.blend).or(blend);
        let editing = self.edit.get_or_insert_default();
        editing.prompt = std::mem::take(&mut editing.prompt).or(edit);
        for (files, shared) in [(&mut self.image, image), (&mut self.video, video), (&mut self.sound, sound)] {
            if let Some(files) = files {
                files.prompt = std::mem::take(&mut files.prompt).or(shared);
            }
        }
        self.prompt = Prompts {
            system: if own.system.is_empty() { prompt.system } else { own.system },
            user: if own.user.is_empty() { prompt.user } else { own.user },
        };
        Ok(())
    }

    /// Numbers that make no sense are found before anything is loaded.
    fn check_settings(&self) -> Result<(), String> {
        let LoopSettings { temperature, top_p, .. } = self.settings;
        let GeneratorFiles { context, sequences, lines, path, source } = &self.generator;
        self.settings.check("loop")?;
        within("generator.context", *context as usize, 64, 1 << 20)?;
        within("generator.sequences", sequences.unwrap_or(1), 1, 255)?;
        within("generator.lines", *lines, 1, 1000)?;
        if path.is_some() == source.is_some() {
            return Err("`generator` has either a `path` or a `source`".into());
        }
        if source.as_ref().is_some_and(|source| source.files.len() != 1) {
            return Err("`generator.source` has one `file`".into());
        }
        if !(0.0..=10.0).contains(&temperature) {
            return Err(format!("`loop.temperature` is {temperature}; expected 0 to 10"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("`loop.top_p` is {top_p}; expected more than 0 and at most 1"));
        }
        if self.sections().count() == 0 {
            return Err("describes nothing; add a section [image], [video] or [sound]".into());
        }
        if let Some((modality, _)) = self.sections().find(|(modality, _)| self.scorer_of(*modality).is_none()) {
            return Err(format!("`{modality}.scorer` is missing"));
        }
        if self.prompt.user.is_empty() {
            return Err("`prompt.user` is missing".into());
        }
        self.check_drawing()?;
        self.sections()
            .try_for_each(|(modality, files)| self.settings.with(&files.settings).check(&format!("{modality}.loop")))
    }

    /// Looks where the models are: once more, after something was downloaded or removed.
    pub fn look_again(&mut self, store: &Store) {
        self.look(Some(store));
    }

    fn look(&mut self, store: Option<&Store>) {
        let mut found = Found::default();
        let generator = &self.generator;
        found.generator = match (&generator.path, &generator.source) {
            (Some(path), _) => Some(self.under_root(path)),
            (None, Some(source)) => store.and_then(|store| store.single(source)),
            (None, None) => None,
        };
        for (modality, _) in self.sections() {
            let folder = match self.scorer_of(modality) {
                Some(ScorerFiles::Folder(folder)) => Some(self.under_root(folder)),
                Some(ScorerFiles::Sources(sources)) => store.and_then(|store| store.folder(sources)),
                None => None,
            };
            found.scorers.extend(folder.map(|folder| (modality, folder)));
        }
        let given = |(name, source): (&str, &Source)| Some((name.to_owned(), store?.single(source)?));
        found.worker = self.worker_files().map(given).collect();
        if let Some(store) = store {
            let amount = |files: Vec<(&Source, &SourceFile)>| files.iter().map(|(_, file)| file.amount()).sum();
            let of = |modality| (modality, amount(self.missing(&[modality], store)));
            found.missing = self.sections().map(|(modality, _)| of(modality)).collect();
            found.missing_in_all = Some(amount(self.missing(&self.modalities(), store)));
        }
        self.found = found;
    }

    fn has_sources(&self) -> bool {
        !self.sources(&Modality::ALL).is_empty()
    }

    fn check(&self) -> Result<(), PackError> {
        if self.installed().is_empty() {
            return Err(self.not_installed(None));
        }
        let by_path = |(modality, _): (Modality, &ModalityFiles)| match self.scorer_of(modality)? {
            ScorerFiles::Folder(folder) => Some(self.under_root(folder)),
            ScorerFiles::Sources(_) => None,
        };
        let scorers = self.sections().filter_map(by_path).map(|path| (path, true, "the scorer's folder"));
        let generator = self.generator.path.iter().map(|p| (self.under_root(p), false, "the generator's GGUF file"));
        let initial = self.sections().map(|(_, f)| (self.initial(&f.initial), false, "the initial set"));
        for (path, folder, what) in scorers.chain(generator).chain(initial) {
            let there = if folder { path.is_dir() } else { path.is_file() };
            if !there {
                return Err(PackError::Incomplete { name: self.name.clone(), path, what });
            }
        }
        Ok(())
    }

    fn not_installed(&self, of: Option<Modality>) -> PackError {
        let section = of.and_then(|modality| self.section_for(modality)).map(|(section, _)| section);
        let missing = match section {
            Some(section) => self.found.missing.get(&section).copied(),
            None => self.found.missing_in_all,
        };
        let mut command = self.get_command();
        if let Some(section) = section {
            command += &format!(" --modality {section}");
        }
        PackError::NotInstalled { pack: self.name.clone(), of, command, amount: missing.unwrap_or(Amount::NONE) }
    }

    /// What downloads it, for people.
    pub fn get_command(&self) -> String {
        let quote = if self.given.contains([' ', '\'', '"', '$', '`', '\\']) { "'" } else { "" };
        format!("mils models get {quote}{}{quote}", self.given)
    }

    /// The sections that there are, in the order of [`Modality::ALL`].
    fn sections(&self) -> impl Iterator<Item = (Modality, &ModalityFiles)> {
        let all = [&self.image, &self.video, &self.sound];
        Modality::ALL.into_iter().zip(all).filter_map(|(modality, files)| Some((modality, files.as_ref()?)))
    }

    /// The section that says how things of a modality are described: its own, or for videos that of pictures.
    fn section_for(&self, modality: Modality) -> Option<(Modality, &ModalityFiles)> {
        let of = |wanted| self.sections().find(|(section, _)| *section == wanted);
        of(modality).or_else(|| of(Modality::Image).filter(|_| modality == Modality::Video))
    }

    /// The encoder of a section.
    fn scorer_of(&self, section: Modality) -> Option<&ScorerFiles> {
        let of = |wanted| self.sections().find(|(section, _)| *section == wanted)?.1.scorer.as_ref();
        of(section).or_else(|| of(Modality::Image).filter(|_| section == Modality::Video))
    }

    /// What the pack describes by sections of their own, in the order of [`Modality::ALL`].
    pub fn modalities(&self) -> Vec<Modality> {
        self.sections().map(|(modality, _)| modality).collect()
    }

    /// Those of them whose models are there.
    pub fn installed(&self) -> Vec<Modality> {
        let there = |modality: &Modality| self.found.generator.is_some() && self.found.scorers.contains_key(modality);
        self.modalities().into_iter().filter(there).collect()
    }

    /// Whether things of a modality can be described.
    pub fn describes(&self, modality: Modality) -> bool {
        self.section_for(modality).is_some_and(|(section, _)| self.installed().contains(&section))
    }

    /// What the models of some modalities are made of, each source once: the generator's first.
    pub fn sources(&self, modalities: &[Modality]) -> Vec<&Source> {
        let scorers = self.scorers(modalities).into_iter().flatten();
        let all = self.generator.source.iter().chain(scorers).chain(self.worker_sources(modalities));
        all.fold(Vec::new(), |mut once, source| {
            if !once.contains(&source) {
                once.push(source);
            }
            once
        })
    }

    /// What draws is wanted with pictures alone.
    fn worker_sources(&self, modalities: &[Modality]) -> impl Iterator<Item = &Source> {
        let wanted = modalities.contains(&Modality::Image);
        self.worker_files().map(|(_, source)| source).filter(move |_| wanted)
    }

    /// The files that its worker draws with, by argument, if they are there.
    pub(crate) fn worker_paths(&self) -> Option<&BTreeMap<String, PathBuf>> {
        self.found.worker.as_ref()
    }

    /// The sources of the scorers of some modalities, each scorer once.
    pub fn scorers(&self, modalities: &[Modality]) -> Vec<&[Source]> {
        let sections = self.sections().filter(|(modality, _)| modalities.contains(modality));
        let all = sections.filter_map(|(modality, _)| match self.scorer_of(modality)? {
            ScorerFiles::Folder(_) => None,
            ScorerFiles::Sources(sources) => Some(&sources[..]),
        });
        all.fold(Vec::new(), |mut once, sources| {
            if !once.contains(&sources) {
                once.push(sources);
            }
            once
        })
    }

    /// The files of some modalities that are still to be downloaded.
    pub fn missing<'a>(&'a self, modalities: &[Modality], store: &Store) -> Vec<(&'a Source, &'a SourceFile)> {
        let generator = self.generator.source.as_ref().map(std::slice::from_ref);
        let generator = generator.filter(|source| store.single(&source[0]).is_none());
        let files = generator.into_iter().flat_map(|source| source[0].files.iter().map(|file| (&source[0], file)));
        let scorers = self.scorers(modalities).into_iter().flat_map(|sources| store.missing(sources));
        let worker = self.worker_sources(modalities).filter(|source| store.single(source).is_none());
        let worker = worker.flat_map(|source| source.files.iter().map(move |file| (source, file)));
        files.chain(scorers).chain(worker).fold(Vec::new(), |mut once, (source, file)| {
            if !once.iter().any(|&(s, f): &(&Source, &SourceFile)| s.origin == source.origin && f.file == file.file) {
                once.push((source, file));
            }
            once
        })
    }

    /// How much the models of some modalities are to download, whether they are there or not.
    pub fn amount(&self, modalities: &[Modality]) -> Amount {
        self.sources(modalities).into_iter().map(Source::amount).sum()
    }

    /// What of it is still to be downloaded, of all modalities.
    pub fn still_missing(&self) -> Amount {
        self.found.missing_in_all.unwrap_or(Amount::NONE)
    }

    /// What a machine must have of main memory to run it, in bytes: as the pack says, or one and a half times the models'
    /// files that are there.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or_else(|| {
            let scorer = self.found.scorers.values().map(|folder| bytes_in(folder)).max().unwrap_or_default();
            let generator = self.found.generator.as_deref().map(bytes_in).unwrap_or_default();
            scorer.saturating_add(generator).saturating_mul(3) / 2
        })
    }

    /// The pack's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How it was asked for: its name, or a path.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// How things are described of which the models are there, in the order of [`Modality::ALL`].
    pub fn tasks(&self) -> Vec<Task> {
        self.sections().filter_map(|(modality, files)| self.resolve(modality, modality, files).ok()).collect()
    }

    /// How things of a modality are described.
    ///
    /// # Errors
    /// [`PackError::Modality`] if the pack has nothing for them, [`PackError::NotInstalled`] if it was not downloaded.
    pub fn task(&self, modality: Modality) -> Result<Task, PackError> {
        let (section, files) = self.section_or_error(modality)?;
        self.resolve(modality, section, files)
    }

    /// The encoder's checkpoint folder of a modality, whether there is a generator or not.
    ///
    /// # Errors
    /// As [`Pack::task`], and if a folder that it names is not there.
    pub fn scorer(&self, modality: Modality) -> Result<PathBuf, PackError> {
        let (section, _) = self.section_or_error(modality)?;
        let folder = self.found.scorers.get(&section).cloned().ok_or_else(|| self.not_installed(Some(modality)))?;
        match self.scorer_of(section) {
            Some(ScorerFiles::Folder(_)) if !folder.is_dir() => {
                let name = self.name.clone();
                Err(PackError::Incomplete { name, path: folder, what: "the scorer's folder" })
            }
            _ => Ok(folder),
        }
    }

    /// What the encoder of a modality is called, where it is not by its folder.
    pub fn scorer_name(&self, modality: Modality) -> Option<String> {
        match self.scorer_of(self.section_for(modality)?.0)? {
            ScorerFiles::Folder(_) => None,
            ScorerFiles::Sources(sources) => sources.first()?.place().rsplit('/').next().map(str::to_owned),
        }
    }

    fn section_or_error(&self, modality: Modality) -> Result<(Modality, &ModalityFiles), PackError> {
        self.section_for(modality).ok_or_else(|| {
            let has: Vec<_> = self.modalities().iter().map(|modality| format!("{modality}s")).collect();
            PackError::Modality { pack: self.name.clone(), modality, has: has.join(" and ") }
        })
    }

    fn resolve(&self, modality: Modality, section: Modality, files: &ModalityFiles) -> Result<Task, PackError> {
        let scorer = self.found.scorers.get(&section).filter(|_| self.found.generator.is_some()).cloned();
        Ok(Task {
            modality,
            scorer: scorer.ok_or_else(|| self.not_installed(Some(modality)))?,
            initial: self.initial(&files.initial),
            prompt: self.prompt.with(&files.prompt),
            settings: self.settings.with(&files.settings),
        })
    }

    /// A set's file: the pack's own comes before one of that name.
    pub(crate) fn initial(&self, path: &Path) -> PathBuf {
        let own = self.under_root(path);
        let named = || find_bank(path.to_str()?).ok();
        if sets::is_name(path) && !own.is_file() { named().unwrap_or(own) } else { own }
    }

    fn under_root(&self, path: &Path) -> PathBuf {
        self.folder().join(&self.root).join(path)
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The GGUF file.
    ///
    /// # Errors
    /// [`PackError::NotInstalled`] if it was not downloaded.
    pub fn generator_path(&self) -> Result<PathBuf, PackError> {
        self.found.generator.clone().ok_or_else(|| self.not_installed(None))
    }
}

/// Reads a TOML file; `absent` is what is said where there is none.
///
/// # Errors
/// [`PackError::File`], with the line that is wrong.
pub fn read_toml<T: DeserializeOwned>(file: &Path, absent: &str) -> Result<T, PackError> {
    let wrong = |problem: String| PackError::File { path: file.to_owned(), problem };
    // Reading a pipe would wait for its writer, and a device may have no end.
    if std::fs::metadata(file).is_ok_and(|m| !m.is_file()) {
        return Err(wrong("is not a file".into()));
    }
    let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => wrong(absent.to_owned()),
        _ => wrong(e.to_string()),
    })?;
    toml::from_str(&text).map_err(|e| {
        // Counted in bytes: a span need not end at a character.
        let before = |end: usize| text.bytes().take(end).filter(|&b| b == b'\n').count();
        let line = e.span().map(|s| before(s.start) + 1);
        let place = line.map(|l| format!("line {l}: ")).unwrap_or_default();
        wrong(format!("{place}{}", e.message().split_whitespace().collect::<Vec<_>>().join(" ")))
    })
}

/// Bytes of a file, or of the files in a folder.
fn bytes_in(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|p| p.is_file()).map(|p| size(&p)).sum(),
        Err(_) => size(path),
    }
}

impl Task {
    /// The initial set: one text a line, blank lines left out.
    ///
    /// # Errors
    /// If the file cannot be read as UTF-8 or holds no text.
    pub fn initial_texts(&self) -> Result<Vec<String>, PackError> {
        read_texts(&self.initial)
    }
}

/// The texts of a set's file: one a line, blank lines left out.
///
/// # Errors
/// If the file cannot be read as UTF-8 or holds no text.
pub fn read_texts(path: &Path) -> Result<Vec<String>, PackError> {
    let fail = |problem: String| PackError::File { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    // In the loop's normal form (single spaces), so that its texts are found in the embeddings of these.
    let normal = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let texts: Vec<String> = text.lines().map(normal).filter(|l| !l.is_empty()).collect();
    if texts.is_empty() { Err(fail("holds no texts; put one on each line".into())) } else { Ok(texts) }
}

#[cfg(test)]
pub(crate) mod tests;
