//! Checkpoint folders by name: a folder, a pack, or an ID in the hub cache that is shared with Python.
//!
//! The cache is `huggingface_hub`'s: `models--ORG--NAME/refs/main` holds the hash of a commit, and
//! `models--ORG--NAME/snapshots/HASH` its files. It is only read here; [`crate::download`] writes it.

use crate::store::{self, converted};
use crate::{Modality, Pack, PackError};
use std::path::{Path, PathBuf};

/// A checkpoint folder, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The ID as it was given, the pack's and the folder's name, or the folder's name.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
}

/// Why a model was not found. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Nothing goes by this name.
    #[error("there is no model `{name}`: no such folder, and no such pack (there is: {packs}); {CHOICES}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The packs that can be named, for people.
        packs: String,
    },
    /// It reads as a path, and is no folder.
    #[error("{name} is {what}; {CHOICES}")]
    NoFolder {
        /// What was asked for.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// It reads as an ID that cannot be one.
    #[error("`{name}` is neither a folder nor an ID of the hub (ORG/NAME or ORG/NAME@REVISION)")]
    NoId {
        /// What was asked for.
        name: String,
    },
    /// The cache does not have it.
    #[error(
        "{name} is neither a folder nor in the hub cache: {} is missing{others}; fetch it with `mils models get {name}`, \
         or name a checkpoint folder",
        missing.display()
    )]
    NotCached {
        /// What was asked for.
        name: String,
        /// What was looked for.
        missing: PathBuf,
        /// The revisions that are there, for people.
        others: String,
    },
    /// The cache has it, as nothing but a pickle.
    #[error(
        "{name} has its weights as {file} alone, which is a program; `mils models get {name}` makes safetensors of it \
         without running it"
    )]
    Unconverted {
        /// What was asked for.
        name: String,
        /// The weights.
        file: &'static str,
    },
    /// The pack cannot be used.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// What a checkpoint folder has one of.
const CONFIGURATIONS: [&str; 2] = ["config.json", "open_clip_config.json"];

/// What weights are called that are no safetensors.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "open_clip_pytorch_model.bin"];

/// What a model can be named by.
const CHOICES: &str = "name a checkpoint folder, a pack, or an ID in the hub cache (ORG/NAME)";

/// Where models are looked for.
struct Places {
    /// The hub cache.
    cache: Option<PathBuf>,
    /// See [`store::home`].
    home: Option<PathBuf>,
}

impl Model {
    /// Finds a model by what it is called, in this order: a folder (of a checkpoint, or of a pack, whose scorer of the
    /// modality it is then; so is that of a pack's file); a pack's name; `ORG/NAME` or `ORG/NAME@REVISION` in the hub cache. Nothing is downloaded.
    ///
    /// # Errors
    /// If nothing goes by this name; the error says where it was looked for.
    pub fn find(name: &str, modality: Modality) -> Result<Self, ModelError> {
        let places = Places { cache: hub_cache(), home: store::home() };
        Self::find_in(name, modality, &crate::search_path(), &places)
    }

    fn find_in(name: &str, modality: Modality, packs: &[PathBuf], places: &Places) -> Result<Self, ModelError> {
        let given = Path::new(name);
        let bare = !name.contains('/') && !is_path(name);
        // A pack's folder, or its file, which other commands take too.
        let inside = given.join("pack.toml");
        let is_toml = given.extension().is_some_and(|e| e == "toml") && given.is_file();
        if is_toml || inside.is_file() {
            let file = if is_toml { given } else { &inside };
            return Ok(Self::scorer(&Pack::open_in(&file.to_string_lossy(), packs)?, modality)?);
        }
        // A folder that only happens to be called as a pack is must not hide it.
        if given.is_dir() && (!bare || CONFIGURATIONS.iter().any(|file| given.join(file).exists())) {
            return Ok(Self::folder(given));
        }
        let no_folder = |what| Err(ModelError::NoFolder { name: name.to_owned(), what });
        match (bare, is_path(name)) {
            _ if given.exists() && !given.is_dir() => no_folder("no folder"),
            (_, true) => no_folder("not there"),
            (false, _) => Self::cached(name, places),
            (true, _) => match Pack::open_in(name, packs) {
                Ok(pack) => Ok(Self::scorer(&pack, modality)?),
                Err(PackError::Unknown { .. } | PackError::File { .. }) if given.is_dir() => Ok(Self::folder(given)),
                Err(PackError::Unknown { name, known }) => Err(ModelError::Unknown { name, packs: known }),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn folder(folder: &Path) -> Self {
        // A folder given as `.` has no name of its own.
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        Self { name: file_name(&whole), folder: folder.to_owned() }
    }

    fn scorer(pack: &Pack, modality: Modality) -> Result<Self, PackError> {
        let folder = pack.scorer(modality)?;
        // A folder of the hub cache is called by a hash.
        let name = pack.scorer_name(modality).unwrap_or_else(|| Self::folder(&folder).name);
        Ok(Self { name: format!("{}/{name}", pack.name), folder })
    }

    fn cached(name: &str, places: &Places) -> Result<Self, ModelError> {
        let no_id = || ModelError::NoId { name: name.to_owned() };
        let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
        let (org, repository) =
            id.split_once('/').filter(|(org, name)| is_part(org) && is_part(name)).ok_or_else(no_id)?;
        // A revision is a branch, a tag or a commit; all may have slashes, as `refs/pr/1` has.
        if !revision.split('/').all(is_part) {
            return Err(no_id());
        }
        let found = |folder| Ok(Self { name: name.to_owned(), folder });
        let not_cached =
            |missing: PathBuf, others: String| ModelError::NotCached { name: name.to_owned(), missing, others };
        let ours = places.home.as_deref().and_then(|home| converted(home, id, revision));
        let Some(cache) = &places.cache else {
            return Err(not_cached("~/.cache/huggingface/hub".into(), String::new()));
        };
        let model = cache.join(format!("models--{org}--{repository}"));
        let reference = model.join("refs").join(revision);
        let commit = std::fs::read_to_string(&reference).unwrap_or_default();
        let commit = Some(commit.trim()).filter(|c| is_part(c)).unwrap_or(revision);
        let folder = model.join("snapshots").join(commit);
        if has_safetensors(&folder) {
            return found(folder);
        }
        // What was made of it counts for it, also where what it was made of is gone.
        if let Some(folder) = ours {
            return found(folder);
        }
        if let Some(file) = PICKLES.into_iter().find(|file| folder.join(file).exists()) {
            return Err(ModelError::Unconverted { name: name.to_owned(), file });
        }
        if folder.is_dir() {
            return found(folder);
        }
        if !model.is_dir() {
            return Err(not_cached(model, String::new()));
        }
        let missing = if reference.is_file() { folder } else { reference };
        Err(not_cached(missing, others(&model, id)))
    }
}

fn has_safetensors(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|path| path.extension().is_some_and(|e| e == "safetensors"))
}

/// What can be written after the ID instead, as a part of a sentence.
fn others(model: &Path, id: &str) -> String {
    let names = |folder: &str| {
        let entries = std::fs::read_dir(model.join(folder)).into_iter().flatten().flatten();
        entries.map(|e| e.path())
    };
    // Of a reference only if it leads somewhere; of the commits all.
    let leads = |path: &PathBuf| {
        let commit = std::fs::read_to_string(path).unwrap_or_default();
        is_part(commit.trim()) && model.join("snapshots").join(commit.trim()).is_dir()
    };
    let mut all: Vec<String> = names("refs").filter(leads).chain(names("snapshots")).map(|p| file_name(&p)).collect();
    all.sort_unstable();
    if all.is_empty() { String::new() } else { format!(" (of {id} there is: {})", all.join(", ")) }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What nobody would take for an ID.
fn is_path(name: &str) -> bool {
    name.starts_with(['/', '.', '~', '\\']) || name.contains('\\') || Path::new(name).is_absolute()
}

/// Part of an ID, or of a revision: as the hub allows it, and never one that leads out of a folder.
pub(crate) fn is_part(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    !text.is_empty() && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

/// The cache's folder, as `huggingface_hub` finds it; `None` where there is no home either.
pub fn hub_cache() -> Option<PathBuf> {
    hub_cache_by(|name| std::env::var_os(name).map(PathBuf::from), std::env::home_dir().as_deref())
}

fn hub_cache_by(variable: impl Fn(&str) -> Option<PathBuf>, home: Option<&Path>) -> Option<PathBuf> {
    of_python("HF_HUB_CACHE", "hub", variable, home)
}

/// Where `huggingface_hub` has what it calls `name`: in the variable `own`, or in its folder by the others.
pub(crate) fn of_python(
    own: &str,
    name: &str,
    variable: impl Fn(&str) -> Option<PathBuf>,
    home: Option<&Path>,
) -> Option<PathBuf> {
    let variable = |name: &str| variable(name).filter(|v| !v.as_os_str().is_empty());
    // Python lets these begin with `~`, also where no shell has seen it.
    let expanded = |path: PathBuf| match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    };
    variable(own)
        .or_else(|| variable("HF_HOME").map(|home| home.join(name)))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join(name)))
        .map(expanded)
        .or_else(|| Some(home?.join(".cache/huggingface").join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with one model: `main` and the tag `v1` at one commit, `gone` at one that is not there.
    fn cache() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models--org--clip-vit.b_32");
        fs::create_dir_all(model.join("snapshots").join(COMMIT)).unwrap();
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        for (reference, commit) in [("main", COMMIT), ("v1", COMMIT), ("refs/pr/1", COMMIT), ("gone", "fedcba")] {
            fs::write(model.join("refs").join(reference), format!("{commit}\n")).unwrap();
        }
        fs::write(model.join("refs/damaged"), "../../..").unwrap();
        dir
    }

    fn find(name: &str, cache: &Path) -> Result<Model, ModelError> {
        let places = Places { cache: Some(cache.to_owned()), home: Some(cache.join("home")) };
        Model::find_in(name, Modality::Image, &[], &places)
    }

    #[test]
    fn ids_are_found_in_the_cache_at_their_revision() {
        let dir = cache();
        for revision in ["", "@main", "@v1", "@refs/pr/1", &format!("@{COMMIT}")] {
            let name = format!("org/clip-vit.b_32{revision}");
            let model = find(&name, dir.path()).unwrap();
            assert_eq!(model.name, name);
            assert!(model.folder.ends_with(Path::new("snapshots").join(COMMIT)) && model.folder.is_dir());
        }
    }

    #[test]
    fn what_is_not_in_the_cache_is_said_with_its_place() {
        let dir = cache();
        for (name, says) in [
            ("org/other", "models--org--other is missing"),
            ("org/clip-vit.b_32@v2", "v2 is missing"),
            ("org/clip-vit.b_32@v2", &format!("there is: {COMMIT}, main, v1")),
            ("org/clip-vit.b_32@gone", "fedcba is missing"),
            ("org/clip-vit.b_32@damaged", "damaged is missing"),
        ] {
            let error = find(name, dir.path()).unwrap_err().to_string();
            assert!(error.contains(name) || error.contains("damaged"), "{error}");
            assert!(error.contains("mils models get org/") && error.contains("checkpoint folder"), "{error}");
            assert!(error.replace('\\', "/").contains(says) && !error.contains('\n'), "{says:?} is not in {error}");
        }
        let nowhere = Places { cache: None, home: None };
        let error = Model::find_in("org/name", Modality::Image, &[], &nowhere).unwrap_err();
        assert!(error.to_string().contains("huggingface/hub is missing"), "{error}");
    }

    #[test]
    fn names_do_not_lead_out_of_the_cache() {
        let dir = cache();
        for name in ["org/..", "../org", "a/b/c", "org/", "org/name@", "org/name@../..", "org/name@/etc", "org/na me"] {
            let error = find(name, dir.path()).unwrap_err();
            assert!(matches!(error, ModelError::NoId { .. } | ModelError::NoFolder { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_folder_comes_first_then_a_pack() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("my-clip");
        fs::create_dir(&folder).unwrap();
        let model = find(folder.to_str().unwrap(), dir.path()).unwrap();
        assert_eq!(model, Model { name: "my-clip".into(), folder: folder.clone() });
        fs::write(dir.path().join("file"), "").unwrap();
        for (name, says) in [("file", "is no folder"), ("none", "not there")] {
            let error = find(dir.path().join(name).to_str().unwrap(), dir.path()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }

        let demo = Model::find("demo", Modality::Image).unwrap();
        assert_eq!(demo.name, "demo/clip");
        assert!(demo.folder.join("config.json").is_file());
        let error = Model::find("no-such-model", Modality::Image).unwrap_err().to_string();
        assert!(error.contains("no such pack") && error.contains("demo") && error.contains("ORG/NAME"), "{error}");
    }

    #[test]
    fn a_packs_folder_stands_for_its_scorer() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        fs::write(at.join("pack.toml"), crate::pack::tests::GOOD).unwrap();
        assert!(matches!(find(at.to_str().unwrap(), at), Err(ModelError::Pack(PackError::Incomplete { .. }))));
        fs::create_dir(at.join("clip")).unwrap();
        fs::write(at.join("g.gguf"), "").unwrap();
        fs::write(at.join("i.txt"), "a").unwrap();
        for given in [at.to_owned(), at.join("pack.toml")] {
            let model = find(given.to_str().unwrap(), at).unwrap();
            assert_eq!((model.name.as_str(), model.folder), ("x/clip", at.join("clip")));
        }
    }

    #[test]
    fn what_is_a_pickle_alone_is_used_once_it_was_converted() {
        use crate::store::{Manifest, Part};
        let dir = cache();
        let repository = dir.path().join("models--org--clip-vit.b_32");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs::write(snapshot.join("pytorch_model.bin"), "").unwrap();
        let find = || find("org/clip-vit.b_32", dir.path());
        let error = find().unwrap_err().to_string();
        assert!(error.contains("`mils models get org/clip-vit.b_32` makes safetensors"), "{error}");
        let made = dir.path().join("home/models/org--clip-vit.b_32/0");
        fs::create_dir_all(&made).unwrap();
        let part = Part {
            name: "model.safetensors".into(),
            size: 0,
            sha256: "0".repeat(64),
            from: "org/clip-vit.b_32".into(),
            revision: Some("main".into()),
            file: "pytorch_model.bin".into(),
        };
        Manifest { version: 1, parts: vec![part] }.write(&made).unwrap();
        assert_eq!(find().unwrap().folder, made);
        // Where there are both, nothing need be converted.
        fs::write(snapshot.join("model.safetensors"), "").unwrap();
        assert_eq!(find().unwrap().folder, snapshot);
        fs::remove_dir_all(repository).unwrap();
        assert_eq!(find().unwrap().folder, made);
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let all = [("HF_HUB_CACHE", "a"), ("HF_HOME", "~/b"), ("XDG_CACHE_HOME", "c")];
        let by = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
            hub_cache_by(variable, Some(Path::new("me"))).unwrap()
        };
        assert_eq!(by(&all), Path::new("a"));
        assert_eq!(by(&all[1..]), Path::new("me/b/hub"));
        assert_eq!(by(&all[2..]), Path::new("c/huggingface/hub"));
        assert_eq!(by(&[("HF_HOME", "")]), Path::new("me/.cache/huggingface/hub"));
        assert_eq!(hub_cache_by(|_| None, None), None);
    }
}
