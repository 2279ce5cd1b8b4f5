//! Files of model hub repositories, fetched into the hub cache that is shared with Python's `huggingface_hub`.
//!
//! A file is asked for by repository, revision and path ([`Remote`]). [`Hub::get`] fetches what is not there, several
//! files at a time:
//!
//! - All files of a repository at one revision are taken of one commit. A branch is taken at the commit that it was at
//!   first: that, and the SHA-256 of every file, are recorded in `mils-lock.json` beside the repository's files, and what
//!   is fetched later must agree ([`GetOptions::update`] moves on).
//! - Before a file has its name it is whole, and has the hash that the hub, the record and the caller say. What is there
//!   when a process is killed, a connection breaks or a server stalls is taken up.
//! - The disk's free space is checked before anything is fetched.
//! - A file is fetched by one process at a time; others wait for it.
//! - The token goes to the hub alone, and no name that a server says leads out of the cache.
//!
//! The variables `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_TOKEN_PATH` and
//! `HF_HUB_DOWNLOAD_TIMEOUT` mean what they mean in Python ([`Hub::from_env`]).
//!
//! ```
//! use mils_models::download::{GetOptions, Hub, Remote, Unwatched};
//!
//! let cache = tempfile::tempdir().unwrap();
//! let hub = Hub::new("https://huggingface.co", cache.path()).unwrap().offline(true);
//! let file = Remote::new("org/name", "main", "config.json");
//! assert_eq!(hub.cached(&file), None);
//! let error = hub.get(&[file], &GetOptions::default(), &Unwatched).unwrap_err();
//! assert!(error.to_string().contains("HF_HUB_OFFLINE"));
//! ```
//!
//! It is written on `ureq`, since the hub's own crate (hf-hub 1.0) takes up nothing that broke off, compares no
//! hash with what it fetched, does not look at the disk, and brings an asynchronous runtime.
//!
//! References: `huggingface_hub`'s guide "Understand caching" and its `file_download.py`.

mod cache;
mod environment;
mod error;
mod fetch;
mod get;
pub(crate) mod hash;
mod keep;
mod line;
mod names;
mod part;
mod record;
mod tree;

pub use cache::Lock;
pub use error::DownloadError;
pub use hash::{hexadecimal, sha256};

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A file of a repository on the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// `ORG/NAME`.
    pub repo: String,
    /// A commit, a tag or a branch.
    pub revision: String,
    /// The file's path in the repository, with `/`.
    pub file: String,
    /// Its bytes, where they are known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Its SHA-256 in hexadecimal, where it is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A file that a repository has, as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemoteFile {
    /// Its path in the repository, with `/`.
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal; the hub knows that of large files only.
    pub sha256: Option<String>,
}

/// How files are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetOptions {
    /// Files that are fetched at a time.
    pub parallel: usize,
    /// Ask the hub what a branch or tag is at now, and forget what it was at before.
    pub update: bool,
}

impl Default for GetOptions {
    /// Four files at a time, and what was fetched before stays.
    fn default() -> Self {
        Self { parallel: 4, update: false }
    }
}

/// What a file in the cache was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// What it agrees with.
    pub against: Against,
}

/// What a file's hash was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Against {
    /// [`Remote::sha256`].
    Given,
    /// The record that was made when it was fetched.
    Record,
    /// The hash that it is named by in the cache.
    Name,
    /// There is nothing to compare it with.
    Nothing,
}

/// What follows a download. Called from several threads.
pub trait Watch: Sync {
    /// A file is begun; `have` of its `total` bytes were there already. Told again where it is begun anew.
    fn began(&self, file: &Remote, total: Option<u64>, have: u64);
    /// So many bytes more of it are there.
    fn got(&self, file: &Remote, bytes: u64);
    /// Something worth a line.
    fn note(&self, text: &str);
    /// The file is in the cache, and verified.
    fn done(&self, file: &Remote);
    /// Whether to stop; what was fetched stays.
    fn cancelled(&self) -> bool;
}

/// Follows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn began(&self, _: &Remote, _: Option<u64>, _: u64) {}
    fn got(&self, _: &Remote, _: u64) {}
    fn note(&self, _: &str) {}
    fn done(&self, _: &Remote) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// How much room a folder's disk has, in bytes.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The hub, and the cache of what was fetched from it.
#[derive(Clone)]
pub struct Hub {
    endpoint: Url,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    attempts: usize,
    pause: Duration,
    stall: Duration,
    free_space: FreeSpace,
}

impl Hub {
    /// By the environment, as Python has it.
    ///
    /// # Errors
    /// If a variable makes no sense, or there is no folder for the cache.
    pub fn from_env() -> Result<Self, DownloadError> {
        let (home, cache) = (std::env::home_dir(), crate::hub_cache());
        environment::hub(&|name| std::env::var_os(name), home.as_deref(), cache.as_deref())
    }

    /// A hub of this address, with its cache in this folder, which is made when it is needed.
    ///
    /// # Errors
    /// If the address is none of `http` or `https`.
    pub fn new(endpoint: &str, cache: &Path) -> Result<Self, DownloadError> {
        let url = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let endpoint = url.ok_or_else(|| DownloadError::Setting {
            setting: "the hub's address".into(),
            problem: format!("is `{}`; expected one as https://huggingface.co", names::one_line(endpoint)),
        })?;
        Ok(Self {
            endpoint,
            cache: cache.to_owned(),
            token: None,
            offline: false,
            attempts: 5,
            pause: Duration::from_secs(1),
            stall: Duration::from_secs(15),
            free_space: Arc::new(|folder| fs4::available_space(folder)),
        })
    }

    /// Sent to the hub, and to no other host. Never shown.
    #[must_use]
    pub fn token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(str::to_owned);
        self
    }

    /// Whether the network is left alone.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// How long a server may be silent before it is asked again.
    #[must_use]
    pub fn stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// How often something is attempted without getting further, and the first pause in between. Each further one is twice
    /// as long; what a server asks for comes first.
    #[must_use]
    pub fn attempts(mut self, attempts: usize, pause: Duration) -> Self {
        (self.attempts, self.pause) = (attempts.max(1), pause);
        self
    }

    /// How much room there is, where the file system does not know: a quota, or a test.
    #[must_use]
    pub fn free_space(mut self, free_space: FreeSpace) -> Self {
        self.free_space = free_space;
        self
    }

    /// The cache's folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether the network is left alone.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Where a file is in the cache, if it is there as a whole. Nothing is asked of the network, and nothing is hashed: a
    /// file in the cache has its name since it was verified.
    pub fn cached(&self, file: &Remote) -> Option<PathBuf> {
        let located = keep::locate(self, file).ok()??;
        located.is_meant.then_some(located.found.path)
    }

    /// The files of a repository at a revision that are in the cache, and where, by their names.
    pub fn cached_files(&self, repo: &str, revision: &str) -> Vec<(Remote, PathBuf)> {
        keep::cached_files(self, repo, revision)
    }

    /// Fetches files, several at a time, and says where they are, in their order. What is in the cache is not fetched
    /// again, and what was fetched before an error stays. What others put into the cache is hashed once.
    ///
    /// # Errors
    /// If not all files are there in the end; the error says what to do.
    pub fn get(
        &self,
        files: &[Remote],
        options: &GetOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<PathBuf>, DownloadError> {
        get::get(self, files, options, watch)
    }

    /// Hashes a file in the cache, and compares it with all that is known of it.
    ///
    /// # Errors
    /// If it is not there, or damaged.
    pub fn verify(&self, file: &Remote, watch: &dyn Watch) -> Result<Verified, DownloadError> {
        keep::verify(self, file, watch)
    }

    /// Removes a file from the cache, with what is recorded of it, and says how many bytes that freed. Contents that
    /// another snapshot uses stay.
    ///
    /// # Errors
    /// If it cannot be removed. That it is not there is no error.
    pub fn remove(&self, file: &Remote) -> Result<u64, DownloadError> {
        keep::remove(self, file)
    }

    /// The files of a repository, in the hub's order.
    ///
    /// # Errors
    /// As [`Hub::get`], and if a file is called by what cannot be a path.
    pub fn files(&self, repo: &str, revision: &str) -> Result<Vec<RemoteFile>, DownloadError> {
        tree::files(self, repo, revision)
    }

    /// # Errors
    /// If there is no room for so many bytes more.
    fn check_space(&self, needed: u64) -> Result<(), DownloadError> {
        check_space_by(&*self.free_space, &self.cache, needed)
    }
}

/// Whether there is room for so many bytes more in a folder, which may be made later; asked before the work.
///
/// # Errors
/// [`DownloadError::Space`] if there is not. A disk that does not say is tried.
pub fn check_space(folder: &Path, needed: u64) -> Result<(), DownloadError> {
    check_space_by(&|folder| fs4::available_space(folder), folder, needed)
}

fn check_space_by(
    free_space: &dyn Fn(&Path) -> io::Result<u64>,
    folder: &Path,
    needed: u64,
) -> Result<(), DownloadError> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    match free_space(there) {
        Ok(free) if free < needed => Err(DownloadError::Space { needed, free, folder: folder.to_owned() }),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, cache, offline, .. } = self;
        let mut hub = f.debug_struct("Hub");
        hub.field("endpoint", &endpoint.as_str())
            .field("cache", cache)
            .field("offline", offline)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// A file of which no more is known.
    pub fn new(repo: &str, revision: &str, file: &str) -> Self {
        Self { repo: repo.into(), revision: revision.into(), file: file.into(), size: None, sha256: None }
    }

    /// Whether it can be asked for: names stay in their folders, and a hash is one.
    ///
    /// # Errors
    /// What cannot be so.
    pub fn check(&self) -> Result<(), DownloadError> {
        names::repository(&self.repo)?;
        names::revision(&self.revision)?;
        names::file(&self.file)?;
        match self.sha256.as_ref().filter(|sha256| !names::is_sha256(sha256)) {
            None => Ok(()),
            Some(other) => {
                let what = "SHA-256 (64 hexadecimal digits in lower case)";
                Err(DownloadError::Name { name: names::one_line(other), what })
            }
        }
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        0.0..1e6 => format!("{:.1} kB", bytes / 1e3),
        1e6..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}
