//! Where models' files are: in the hub cache, and what is made of them in a folder of ours.
//!
//! ```text
//! HOME/models/ORG--NAME/KEY/     a checkpoint folder that was put together: converted weights, and what belongs to them
//! HOME/models/ORG--NAME/KEY/mils.json    what it was made of
//! HOME/files/NAME                what the user fetched, of what is not on the hub
//! ```
//!
//! HOME is `MILS_HOME`, or `mils` in the user's cache folder. A folder there is whole, or not there.

use crate::download::hash::hexadecimal;
use crate::download::{DownloadError, Hub, Remote};
use crate::source::{Origin, Source, SourceFile};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// The name of what says what a folder was made of.
const MANIFEST: &str = "mils.json";

/// Where models' files are.
#[derive(Clone)]
pub struct Store {
    hub: Hub,
    home: PathBuf,
}

/// What a checkpoint folder of [`Store::home`] was made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Manifest {
    /// The layout's version: 1.
    pub version: u32,
    /// Its files.
    pub parts: Vec<Part>,
}

/// A file of a folder that was put together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Part {
    /// Its name in the folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The repository, or the address, that it is from.
    pub from: String,
    /// The repository's revision.
    pub revision: Option<String>,
    /// The file there; other than its name where it was converted.
    pub file: String,
}

impl Manifest {
    /// Of what a folder was made, if it is one that was put together.
    ///
    /// # Errors
    /// If its manifest cannot be understood.
    pub fn read(folder: &Path) -> Result<Option<Self>, DownloadError> {
        let path = folder.join(MANIFEST);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let manifest: Self = serde_json::from_str(&text).map_err(|e| bad(&path, e.to_string()))?;
        // Names become paths.
        match manifest.parts.iter().find(|part| !crate::hub::is_part(&part.name)) {
            _ if manifest.version != 1 => Err(bad(&path, format!("has version {}, expected 1", manifest.version))),
            Some(part) => Err(bad(&path, format!("names `{}`, which is no file's name", part.name))),
            None => Ok(Some(manifest)),
        }
    }

    /// Writes it into the folder.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DownloadError> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(self).map_err(|e| bad(&path, e.to_string()))?;
        fs::write(&path, text + "\n").map_err(|source| DownloadError::Disk { what: "write", path, source })
    }
}

fn bad(path: &Path, problem: String) -> DownloadError {
    DownloadError::Record { path: path.to_owned(), problem }
}

impl Store {
    /// By the environment.
    ///
    /// # Errors
    /// As [`Hub::from_env`].
    pub fn from_env() -> Result<Self, DownloadError> {
        Ok(Self { hub: Hub::from_env()?, home: home().ok_or(DownloadError::NoCache)? })
    }

    /// Of this hub, with this folder.
    pub fn new(hub: Hub, home: &Path) -> Self {
        Self { hub, home: home.to_owned() }
    }

    /// The hub and its cache.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The folder of ours.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where the user puts a file that is not on the hub.
    pub fn own_file(&self, file: &SourceFile) -> PathBuf {
        self.home.join("files").join(file.file.rsplit('/').next().unwrap_or_default())
    }

    /// A file of a source, if it is there.
    pub fn file(&self, source: &Source, file: &SourceFile) -> Option<PathBuf> {
        match source.remote(file) {
            Some(remote) => self.hub.cached(&remote),
            None => Some(self.own_file(file)).filter(|path| {
                let size = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|m| m.len());
                size.is_some_and(|size| file.size.is_none_or(|given| given == size))
            }),
        }
    }

    /// The only file of a source, as a generator is one.
    pub fn single(&self, source: &Source) -> Option<PathBuf> {
        self.file(source, source.files.first()?)
    }

    /// The checkpoint folder of these sources, if it is there.
    pub fn folder(&self, sources: &[Source]) -> Option<PathBuf> {
        if let Some(made) = self.made(sources) {
            return Some(made).filter(|folder| folder.join(MANIFEST).is_file());
        }
        let mut folders =
            sources.iter().flat_map(|s| s.files.iter().map(|file| Some(self.file(s, file)?.parent()?.to_owned())));
        // All of one commit lie in one folder.
        let first = folders.next()??;
        folders.all(|folder| folder.as_ref() == Some(&first)).then_some(first)
    }

    /// The files of these sources that are not there, but for those of which a folder was made.
    pub fn missing<'a>(&self, sources: &'a [Source]) -> Vec<(&'a Source, &'a SourceFile)> {
        if self.folder(sources).is_some() {
            return Vec::new();
        }
        let all = sources.iter().flat_map(|source| source.files.iter().map(move |file| (source, file)));
        all.filter(|(source, file)| self.file(source, file).is_none()).collect()
    }

    /// Where the checkpoint folder of these sources is put together; `None` where the hub cache has one as it is: all
    /// files are of one repository and one folder of it, and none is converted.
    pub fn made(&self, sources: &[Source]) -> Option<PathBuf> {
        let mut files = sources.iter().flat_map(|source| &source.files);
        let folder = |file: &SourceFile| file.file.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let first = files.clone().next()?;
        let on_the_hub = matches!(sources, [Source { origin: Origin::Hub { .. }, .. }]);
        if on_the_hub && files.all(|file| file.convert.is_none() && folder(file) == folder(first)) {
            return None;
        }
        Some(self.home.join("models").join(shelf(sources[0].place())).join(key(sources)))
    }

    /// The folder that was made of a repository alone, at this revision.
    pub fn converted(&self, repo: &str, revision: &str) -> Option<PathBuf> {
        converted(&self.home, repo, revision)
    }
}

/// The folder of what is made of a repository, or of a file elsewhere.
fn shelf(place: &str) -> String {
    match place.rsplit_once("://") {
        Some((_, address)) => address.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-"),
        None => place.replace('/', "--"),
    }
}

/// What tells these sources from others of the same repository.
fn key(sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    for source in sources {
        let revision = match &source.origin {
            Origin::Hub { revision, .. } => revision,
            Origin::Elsewhere { .. } => "",
        };
        for file in &source.files {
            let convert = file.convert.as_ref();
            let (prefix, skips) = convert.map_or(("", false), |c| (&c.prefix, c.skip_objects));
            let sha256 = file.sha256.as_deref().unwrap_or_default();
            let line = format!(
                "{}\n{revision}\n{}\n{}\n{prefix}\n{skips}\n{sha256}\n",
                source.place(),
                file.file,
                file.name()
            );
            hash.update(line);
        }
    }
    hexadecimal(&hash.finalize()[..8])
}

/// The folder that was made of a repository alone, at this revision.
pub(crate) fn converted(home: &Path, repo: &str, revision: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(home.join("models").join(shelf(repo))).ok()?;
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    all.sort_unstable();
    all.into_iter().find(|folder| {
        let manifest = Manifest::read(folder).ok().flatten();
        let same = |part: &Part| part.from == repo && part.revision.as_deref() == Some(revision);
        manifest.is_some_and(|manifest| manifest.parts.iter().all(same))
    })
}

/// `MILS_HOME`, or where the system has such things; `None` where there is no home either.
pub fn home() -> Option<PathBuf> {
    home_by(|name| std::env::var_os(name).map(PathBuf::from), std::env::home_dir().as_deref(), std::env::consts::OS)
}

fn home_by(variable: impl Fn(&str) -> Option<PathBuf>, home: Option<&Path>, system: &str) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    let caches = || match system {
        "windows" => set("LOCALAPPDATA"),
        "macos" => home.map(|home| home.join("Library/Caches")),
        _ => set("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache"))),
    };
    set("MILS_HOME").or_else(|| Some(caches()?.join("mils")))
}

/// A file of the hub by its ID: `ORG/NAME`, `ORG/NAME@REVISION`, `ORG/NAME/FILE`, `ORG/NAME@REVISION/FILE`; `None` if it
/// is none. A revision has no slashes here.
pub fn parse_id(id: &str) -> Option<(String, String, Option<String>)> {
    let (org, rest) = id.split_once('/')?;
    let (name, file) = rest.split_once('/').map_or((rest, None), |(name, file)| (name, Some(file.to_owned())));
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (repo, revision) = (format!("{org}/{name}"), revision.to_owned());
    Remote::new(&repo, &revision, file.as_deref().unwrap_or("config.json")).check().ok()?;
    Some((repo, revision, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A source of files of one repository.
    fn source(repo: &str, files: &[&str]) -> Source {
        let files = files.iter().map(|file| SourceFile::new(file)).collect();
        let origin = Origin::Hub { repo: repo.into(), revision: COMMIT.into() };
        Source { origin, files, licence: String::new(), terms: None }
    }

    fn store(dir: &Path) -> Store {
        Store::new(Hub::new("https://huggingface.co", &dir.join("hub")).unwrap(), &dir.join("home"))
    }

    fn put(dir: &Path, repo: &str, file: &str) -> PathBuf {
        let path = dir
            .join("hub")
            .join(format!("models--{}", repo.replace('/', "--")))
            .join("snapshots")
            .join(COMMIT)
            .join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{}").unwrap();
        path
    }

    #[test]
    fn a_checkpoint_of_one_repository_is_used_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let sources = [source("org/name", &["config.json", "model.safetensors"])];
        let config = put(dir.path(), "org/name", "config.json");
        assert_eq!(store.made(&sources), None);
        assert_eq!(store.folder(&sources), None);
        let missing: Vec<&str> = store.missing(&sources).iter().map(|(_, file)| file.file.as_str()).collect();
        assert_eq!(missing, ["model.safetensors"]);
        put(dir.path(), "org/name", "model.safetensors");
        assert_eq!(store.folder(&sources).as_deref(), config.parent());
        assert!(store.missing(&sources).is_empty());
    }

    #[test]
    fn what_is_converted_or_of_several_places_has_a_folder_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut converted = source("org/name", &["config.json", "model.bin"]);
        converted.files[1].convert = Some(super::super::source::Conversion::default());
        let two = [converted.clone(), source("org/other", &["tokenizer.json"])];
        let folder = store.made(&two).unwrap();
        assert!(folder.starts_with(dir.path().join("home/models/org--name")));
        assert_ne!(store.made(std::slice::from_ref(&converted)), Some(folder.clone()));
        assert_eq!(store.missing(&two).len(), 3);
        // It counts once it says what it was made of, and what it was made of is not needed any more.
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(store.folder(&two), None);
        let part = |from: &str, name: &str| Part {
            name: name.into(),
            size: 2,
            sha256: "0".repeat(64),
            from: from.into(),
            revision: Some(COMMIT.into()),
            file: name.into(),
        };
        let manifest = Manifest { version: 1, parts: vec![part("org/name", "a"), part("org/other", "b")] };
        manifest.write(&folder).unwrap();
        assert_eq!(store.folder(&two), Some(folder.clone()));
        assert!(store.missing(&two).is_empty());
        assert_eq!(Manifest::read(&folder).unwrap(), Some(manifest));
        // That of a repository alone is found by its name.
        assert_eq!(super::converted(store.home(), "org/name", COMMIT), None);
        Manifest { version: 1, parts: vec![part("org/name", "a")] }.write(&folder).unwrap();
        assert_eq!(super::converted(store.home(), "org/name", COMMIT), Some(folder.clone()));
        assert_eq!(super::converted(store.home(), "org/name", "main"), None);
        for text in [
            "{",
            r#"{"version":2,"parts":[]}"#,
            r#"{"version":1,"parts":[{"name":"../a","size":1,"sha256":"","from":"","revision":null,"file":""}]}"#,
        ] {
            fs::write(folder.join(MANIFEST), text).unwrap();
            let error = Manifest::read(&folder).unwrap_err().to_string();
            assert!(error.contains(MANIFEST) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_not_on_the_hub_is_where_the_user_puts_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut own = source("org/name", &["model.pth"]);
        own.origin = Origin::Elsewhere { url: "https://example.com/a/model.pth".into() };
        own.files[0].size = Some(2);
        let sources = [own];
        assert!(store.made(&sources).unwrap().starts_with(dir.path().join("home/models/example.com-a-model.pth")));
        assert_eq!(store.missing(&sources).len(), 1);
        let path = store.own_file(&sources[0].files[0]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Half a file is none.
        fs::write(&path, "{").unwrap();
        assert_eq!(store.missing(&sources).len(), 1);
        fs::write(&path, "{}").unwrap();
        assert!(store.missing(&sources).is_empty());
    }

    #[test]
    fn ids_are_taken_apart_and_lead_nowhere_else() {
        let id = |repo: &str, revision: &str, file: Option<&str>| {
            Some((repo.into(), revision.into(), file.map(String::from)))
        };
        assert_eq!(parse_id("org/name"), id("org/name", "main", None));
        assert_eq!(parse_id("org/name@v1"), id("org/name", "v1", None));
        assert_eq!(parse_id("org/name@v1/a/b.json"), id("org/name", "v1", Some("a/b.json")));
        for bad in ["name", "org/", "../name", "org/name@", "org/name/../../x", "org/na me", "/etc/passwd"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_folder_is_where_caches_are() {
        let by = |set: &[(&str, &str)], system: &str| {
            let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
            home_by(variable, Some(Path::new("me")), system)
        };
        assert_eq!(by(&[("MILS_HOME", "a"), ("XDG_CACHE_HOME", "c")], "linux"), Some("a".into()));
        assert_eq!(by(&[("MILS_HOME", ""), ("XDG_CACHE_HOME", "c")], "linux"), Some("c/mils".into()));
        assert_eq!(by(&[], "linux"), Some("me/.cache/mils".into()));
        assert_eq!(by(&[], "macos"), Some("me/Library/Caches/mils".into()));
        assert_eq!(by(&[("LOCALAPPDATA", "l")], "windows"), Some("l/mils".into()));
    }
}
