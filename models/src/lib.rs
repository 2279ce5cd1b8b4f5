//! Model packs: which scorers, which generator, which prompts and settings belong together, and where they are.
//!
//! A pack is a TOML file with the files it names beside it (or under its `root`). [`Pack::find`] takes a name or a
//! path, reads the file and checks that everything it names is there. The bundled pack `demo` is in this package.
//!
//! [`Model::find`] finds an encoder's checkpoint alone: a folder, a pack's scorer, or a model in the hub cache.
//!
//! [`download`] fetches files into that cache; nothing else here asks the network. This crate reads no model.
//!
//! ```
//! let demo = mils_models::Pack::find("demo").unwrap();
//! assert_eq!(demo.name, "demo");
//! let images = demo.task(mils_models::Modality::Image).unwrap();
//! assert!(images.scorer.join("config.json").exists());
//! let error = mils_models::Pack::find("no-such-pack").unwrap_err();
//! assert!(error.to_string().contains("demo"));
//! ```

pub mod banks;
pub mod download;
mod hub;

pub use hub::{Model, ModelError, hub_cache};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Settings of the loop that suit the pack's models.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopSettings {
    /// Most steps.
    pub steps: usize,
    /// Texts that go back to the generator.
    pub keep: usize,
    /// Texts that are asked for in a step.
    pub propose: usize,
    /// How often a step may ask, for what repeats and unusable texts leave short.
    pub asks: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Nucleus sampling.
    pub top_p: f32,
    /// Scores are shown as 0 to this.
    pub label_scale: u32,
    /// Steps without change after which a run ends; 0: never.
    pub patience: usize,
}

impl Default for LoopSettings {
    /// The paper's image captioning; what repeats leave short is asked for once more.
    fn default() -> Self {
        Self { steps: 10, keep: 50, propose: 50, asks: 2, temperature: 0.5, top_p: 0.9, label_scale: 100, patience: 3 }
    }
}

impl LoopSettings {
    /// `section` is where the numbers are from.
    fn check(&self, section: &str) -> Result<(), String> {
        let Self { steps, keep, propose, asks, label_scale, .. } = *self;
        let check = |name: &str, value, least, most| within(&format!("{section}.{name}"), value, least, most);
        check("steps", steps, 0, 10_000)?;
        check("keep", keep, 1, 10_000)?;
        check("propose", propose, 1, 100_000)?;
        check("asks", asks, 1, 100)?;
        check("label_scale", label_scale as usize, 1, 10_000)
    }
}

fn within(name: &str, value: usize, least: usize, most: usize) -> Result<(), String> {
    let fits = (least..=most).contains(&value);
    if fits { Ok(()) } else { Err(format!("`{name}` is {value}; expected {least} to {most}")) }
}

/// The generator's file and how to run it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorFiles {
    /// A GGUF file.
    pub path: PathBuf,
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

/// What sort of thing is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// One picture.
    Image,
    /// Moving pictures.
    Video,
    /// A recording.
    Sound,
}

impl Modality {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Image, Self::Video, Self::Sound];

    /// As packs and flags call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Sound => "sound",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What describing one modality takes, beside the generator. Paths are relative to the pack's root.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModalityFiles {
    /// The encoder's checkpoint folder.
    pub scorer: PathBuf,
    /// The texts to start from, one a line.
    pub initial: PathBuf,
    /// What differs from the pack's prompts.
    #[serde(default)]
    pub prompt: PromptChanges,
    /// What differs from the pack's settings.
    #[serde(default, rename = "loop")]
    pub settings: LoopChanges,
}

/// Prompts of a modality that take the place of the pack's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptChanges {
    /// See [`Prompts::system`].
    pub system: Option<String>,
    /// See [`Prompts::user`].
    pub user: Option<String>,
}

/// Settings of a modality that take the place of the pack's. How the generator is sampled is the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopChanges {
    /// See [`LoopSettings::steps`].
    pub steps: Option<usize>,
    /// See [`LoopSettings::keep`].
    pub keep: Option<usize>,
    /// See [`LoopSettings::propose`].
    pub propose: Option<usize>,
    /// See [`LoopSettings::asks`].
    pub asks: Option<usize>,
    /// See [`LoopSettings::patience`].
    pub patience: Option<usize>,
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

/// The prompt templates (Jinja); see `mils_optim::prompt`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// The system message.
    #[serde(default)]
    pub system: String,
    /// The user message.
    pub user: String,
}

/// A pack: the contents of its file, and where that is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
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
    /// Where the files are, relative to the pack's file.
    #[serde(default)]
    pub root: PathBuf,
    /// The language model.
    pub generator: GeneratorFiles,
    /// What describing pictures takes.
    #[serde(default)]
    pub image: Option<ModalityFiles>,
    /// What describing videos takes. Without it they are described as pictures are: the encoder of pictures is shown
    /// some of their frames.
    #[serde(default)]
    pub video: Option<ModalityFiles>,
    /// What describing sounds takes.
    #[serde(default)]
    pub sound: Option<ModalityFiles>,
    /// Settings.
    #[serde(default, rename = "loop")]
    pub settings: LoopSettings,
    /// Prompts.
    pub prompt: Prompts,
    /// The folder of the pack's file.
    #[serde(skip)]
    folder: PathBuf,
}

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// No such pack.
    #[error("there is no pack `{name}`; those that can be named: {known}; a folder with a pack.toml can be given too")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// The pack's file cannot be read.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// It has nothing that hears or sees such things.
    #[error(
        "the pack `{pack}` has no scorer for this: it is a {modality}, and the pack describes {has}; take another pack \
         or add a [{modality}] section to its file"
    )]
    Modality {
        /// The pack.
        pack: String,
        /// What it lacks.
        modality: Modality,
        /// What it has, for people.
        has: String,
    },
    /// A file that the pack names is not there.
    #[error("pack `{name}` is incomplete: {} is missing ({what})", path.display())]
    Incomplete {
        /// The pack.
        name: String,
        /// What is missing.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

impl Pack {
    /// Finds a pack by name, or by path: a folder with a `pack.toml`, or a TOML file. Everything that it names is
    /// checked to be there.
    ///
    /// # Errors
    /// If there is no such pack, its file is damaged, or something that it names is missing.
    pub fn find(name: &str) -> Result<Self, PackError> {
        Self::find_in(name, &search_path())
    }

    fn find_in(name: &str, folders: &[PathBuf]) -> Result<Self, PackError> {
        let given = Path::new(name);
        // A bare word is a name first: a folder called `demo` where somebody works must not hide the pack.
        let is_path = name.contains(['/', '\\']) || name.ends_with(".toml");
        let by_name = || folders.iter().flat_map(|dir| candidates(dir, name)).find(|p| p.is_file());
        let as_folder = || given.is_dir().then(|| given.join("pack.toml"));
        let file = if is_path { as_folder().or_else(|| Some(given.to_owned())) } else { by_name().or_else(as_folder) };
        let file = file.ok_or_else(|| {
            let known = known_in(folders).join(", ");
            PackError::Unknown {
                name: name.to_owned(),
                known: if known.is_empty() { "none".to_owned() } else { known },
            }
        })?;
        Self::read(&file)
    }

    /// Reads a pack's file and checks that everything it names is there.
    ///
    /// # Errors
    /// As [`Pack::find`].
    pub fn read(file: &Path) -> Result<Self, PackError> {
        let wrong = |problem: String| PackError::File { path: file.to_owned(), problem };
        // Reading a pipe would wait for its writer, and a device may have no end.
        if std::fs::metadata(file).is_ok_and(|m| !m.is_file()) {
            return Err(wrong("is not a file; name a pack file, or the folder of a pack.toml".into()));
        }
        let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => wrong("no such pack file; a pack folder holds a pack.toml".into()),
            _ => wrong(e.to_string()),
        })?;
        let mut pack: Self = toml::from_str(&text).map_err(|e| {
            // Counted in bytes: a span need not end at a character.
            let before = |end: usize| text.bytes().take(end).filter(|&b| b == b'\n').count();
            let line = e.span().map(|s| before(s.start) + 1);
            let place = line.map(|l| format!("line {l}: ")).unwrap_or_default();
            wrong(format!("{place}{}", e.message().split_whitespace().collect::<Vec<_>>().join(" ")))
        })?;
        pack.folder = file.parent().map(Path::to_owned).unwrap_or_default();
        pack.check_settings().map_err(wrong)?;
        pack.check()?;
        Ok(pack)
    }

    /// Numbers that make no sense are found before anything is loaded.
    fn check_settings(&self) -> Result<(), String> {
        let LoopSettings { temperature, top_p, .. } = self.settings;
        let GeneratorFiles { context, sequences, lines, path: _ } = self.generator;
        self.settings.check("loop")?;
        within("generator.context", context as usize, 64, 1 << 20)?;
        within("generator.sequences", sequences.unwrap_or(1), 1, 255)?;
        within("generator.lines", lines, 1, 1000)?;
        if !(0.0..=10.0).contains(&temperature) {
            return Err(format!("`loop.temperature` is {temperature}; expected 0 to 10"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("`loop.top_p` is {top_p}; expected more than 0 and at most 1"));
        }
        let tasks = self.tasks();
        if tasks.is_empty() {
            return Err("describes nothing; add a section [image], [video] or [sound]".into());
        }
        tasks.iter().try_for_each(|task| task.settings.check(&format!("{}.loop", task.modality)))
    }

    fn check(&self) -> Result<(), PackError> {
        let mut parts: Vec<_> =
            self.tasks().into_iter().map(|task| (task.scorer, true, "the scorer's folder")).collect();
        parts.push((self.generator_path(), false, "the generator's GGUF file"));
        parts.extend(self.tasks().into_iter().map(|task| (task.initial, false, "the initial set")));
        for (path, folder, what) in parts {
            let there = if folder { path.is_dir() } else { path.is_file() };
            if !there {
                return Err(PackError::Incomplete { name: self.name.clone(), path, what });
            }
        }
        Ok(())
    }

    fn section(&self, modality: Modality) -> Option<&ModalityFiles> {
        match modality {
            Modality::Image => self.image.as_ref(),
            Modality::Video => self.video.as_ref(),
            Modality::Sound => self.sound.as_ref(),
        }
    }

    /// What the pack describes by sections of their own, in the order of [`Modality::ALL`].
    pub fn tasks(&self) -> Vec<Task> {
        let sections = Modality::ALL.into_iter().filter_map(|m| Some((m, self.section(m)?)));
        sections.map(|(modality, files)| self.resolve(modality, files)).collect()
    }

    /// How things of a modality are described.
    ///
    /// # Errors
    /// [`PackError::Modality`] if the pack has nothing for them.
    pub fn task(&self, modality: Modality) -> Result<Task, PackError> {
        let instead = self.image.as_ref().filter(|_| modality == Modality::Video);
        let files = self.section(modality).or(instead).ok_or_else(|| {
            let has: Vec<_> = self.tasks().iter().map(|task| format!("{}s", task.modality)).collect();
            PackError::Modality { pack: self.name.clone(), modality, has: has.join(" and ") }
        })?;
        Ok(self.resolve(modality, files))
    }

    fn resolve(&self, modality: Modality, files: &ModalityFiles) -> Task {
        let LoopChanges { steps, keep, propose, asks, patience } = files.settings;
        let pack = &self.settings;
        let settings = LoopSettings {
            steps: steps.unwrap_or(pack.steps),
            keep: keep.unwrap_or(pack.keep),
            propose: propose.unwrap_or(pack.propose),
            asks: asks.unwrap_or(pack.asks),
            patience: patience.unwrap_or(pack.patience),
            ..pack.clone()
        };
        let PromptChanges { system, user } = &files.prompt;
        let prompt = Prompts {
            system: system.as_ref().unwrap_or(&self.prompt.system).clone(),
            user: user.as_ref().unwrap_or(&self.prompt.user).clone(),
        };
        let (scorer, initial) = (self.under_root(&files.scorer), self.under_root(&files.initial));
        Task { modality, scorer, initial, prompt, settings }
    }

    fn under_root(&self, path: &Path) -> PathBuf {
        self.folder.join(&self.root).join(path)
    }

    /// The GGUF file.
    pub fn generator_path(&self) -> PathBuf {
        self.under_root(&self.generator.path)
    }
}

impl Task {
    /// The initial set: one text a line, blank lines left out.
    ///
    /// # Errors
    /// If the file cannot be read as UTF-8 or holds no text.
    pub fn initial_texts(&self) -> Result<Vec<String>, PackError> {
        let path = &self.initial;
        let text = std::fs::read_to_string(path)
            .map_err(|e| PackError::File { path: path.clone(), problem: e.to_string() })?;
        // In the loop's normal form (single spaces), so that its texts are found in the embeddings of these.
        let normal = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let texts: Vec<String> = text.lines().map(normal).filter(|l| !l.is_empty()).collect();
        if texts.is_empty() {
            let problem = "holds no texts; put one on each line".into();
            return Err(PackError::File { path: path.clone(), problem });
        }
        Ok(texts)
    }
}

/// Where packs are looked for, in order: the folders in `MILS_PACKS`, the user's data folder, beside an installed
/// program, and the source tree that this was built from.
pub fn search_path() -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> = Vec::new();
    if let Some(own) = std::env::var_os("MILS_PACKS") {
        path.extend(std::env::split_paths(&own).filter(|p| !p.as_os_str().is_empty()));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::home_dir()?;
        Some(if cfg!(windows) { home.join("AppData/Local") } else { home.join(".local/share") })
    });
    path.extend(data.map(|d| d.join("mils/packs")));
    if let Ok(program) = std::env::current_exe() {
        path.extend(program.parent().and_then(Path::parent).map(|d| d.join("share/mils/packs")));
    }
    path.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("packs"));
    path
}

fn candidates(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(format!("{name}.toml")), folder.join(name).join("pack.toml")]
}

/// Names of the packs that [`Pack::find`] finds by name, complete or not.
pub fn known() -> Vec<String> {
    known_in(&search_path())
}

fn known_in(folders: &[PathBuf]) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            // A folder's name is taken whole: `llama-3.2` has no extension.
            let name = if path.join("pack.toml").is_file() {
                path.file_name()
            } else {
                path.file_stem().filter(|_| path.is_file() && path.extension().is_some_and(|e| e == "toml"))
            };
            names.extend(name.map(|n| n.to_string_lossy().into_owned()));
        }
    }
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    pub(crate) const GOOD: &str = "name = 'x'\n[generator]\npath = 'g.gguf'\n[image]\nscorer = 'clip'\ninitial = 'i.txt'\n[prompt]\nsystem = 's'\nuser = 'u'\n";

    #[test]
    fn a_folder_with_a_pack_file_is_a_pack() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let find = || Pack::find(at.to_str().unwrap());
        assert!(find().unwrap_err().to_string().contains("no such pack file"));
        fs::write(at.join("pack.toml"), GOOD).unwrap();
        assert!(find().unwrap_err().to_string().contains("clip is missing"));
        fs::create_dir(at.join("clip")).unwrap();
        fs::write(at.join("g.gguf"), "").unwrap();
        fs::write(at.join("i.txt"), "\n a cat \n\na dog").unwrap();
        let pack = find().unwrap();
        assert_eq!(pack.settings, LoopSettings::default());
        let task = pack.task(Modality::Image).unwrap();
        assert_eq!(task.initial_texts().unwrap(), ["a cat", "a dog"]);
        fs::write(at.join("i.txt"), "\n").unwrap();
        assert!(task.initial_texts().is_err());
    }

    #[test]
    fn a_modality_has_the_packs_settings_but_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        for folder in ["clip", "clap"] {
            fs::create_dir(at.join(folder)).unwrap();
        }
        for file in ["g.gguf", "i.txt", "s.txt"] {
            fs::write(at.join(file), "").unwrap();
        }
        let sound = "[sound]\nscorer = 'clap'\ninitial = 's.txt'\nprompt = { system = 'hear' }\nloop = { keep = 10 }\n";
        fs::write(at.join("pack.toml"), format!("{GOOD}{sound}[loop]\nkeep = 7\nsteps = 3\n")).unwrap();
        let pack = Pack::find(at.to_str().unwrap()).unwrap();
        let task = pack.task(Modality::Sound).unwrap();
        assert_eq!((task.settings.keep, task.settings.steps), (10, 3));
        assert_eq!(task.prompt, Prompts { system: "hear".into(), user: "u".into() });
        assert!(task.scorer.ends_with("clap") && task.initial.ends_with("s.txt"));
        // Videos are shown to the encoder of pictures.
        let task = pack.task(Modality::Video).unwrap();
        assert_eq!((task.modality, task.settings.keep, &task.prompt.system[..]), (Modality::Video, 7, "s"));
        assert!(task.scorer.ends_with("clip"));
        fs::write(at.join("pack.toml"), GOOD).unwrap();
        let error = Pack::find(at.to_str().unwrap()).unwrap().task(Modality::Sound).unwrap_err().to_string();
        assert!(error.contains("describes images;") && error.contains("[sound]"), "{error}");
    }

    #[test]
    fn packs_are_found_by_name_and_the_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned(), dir.path().join("nowhere")];
        let unknown = |folders: &[PathBuf]| Pack::find_in("no-such-pack", folders).unwrap_err().to_string();
        assert!(unknown(&folders).contains("can be named: none;"), "{}", unknown(&folders));
        assert!(unknown(&[]).contains("can be named: none;"));
        fs::create_dir(dir.path().join("llama-3.2")).unwrap();
        fs::write(dir.path().join("llama-3.2/pack.toml"), GOOD).unwrap();
        fs::write(dir.path().join("other.toml"), GOOD).unwrap();
        fs::create_dir(dir.path().join("no-pack")).unwrap();
        assert!(unknown(&folders).contains("can be named: llama-3.2, other;"), "{}", unknown(&folders));
        for name in known_in(&folders) {
            let error = Pack::find_in(&name, &folders).unwrap_err();
            assert!(matches!(error, PackError::Incomplete { .. }), "found, but its files are missing: {error}");
        }
    }

    #[test]
    fn mistakes_in_the_file_are_named_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pack.toml");
        for (text, says) in [
            (GOOD.replace("user", "usr"), "line 9: unknown field `usr`"),
            (GOOD.replace("[image]", "[picture]"), "unknown field `picture`"),
            (GOOD.replace("[image]\nscorer = 'clip'\ninitial = 'i.txt'\n", ""), "add a section [image]"),
            (format!("{GOOD}[image.loop]\nkeep = 0\n"), "`image.loop.keep` is 0"),
            (format!("{GOOD}[loop]\nkeep = 0\n"), "`loop.keep` is 0"),
            (format!("{GOOD}[loop]\nsteps = 'many'\n"), "line 11"),
            ("name = ".to_owned(), "line 1"),
            (String::new(), "missing field"),
        ] {
            fs::write(&file, &text).unwrap();
            let error = Pack::read(&file).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
