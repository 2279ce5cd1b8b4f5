//! Files of model hub repositories, fetched into the hub cache that is shared with Python's `huggingface_hub`.

mod error;

pub use error::DownloadError;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// Ask the hub what a branch is at now, and forget what it was at before.
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
    /// A file is begun; `have` of its `total` bytes were there already.
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

/// The hub, and the cache of what was fetched from it.
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// By the environment, as Python has it.
    ///
    /// # Errors
    /// If a variable makes no sense, or there is no folder for the cache.
    pub fn from_env() -> Result<Self, DownloadError> {
        let cache = crate::hub_cache().ok_or(DownloadError::NoCache)?;
        Self::new("https://huggingface.co", &cache)
    }

    /// A hub of this address, with a cache of its own.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(endpoint: &str, cache: &Path) -> Result<Self, DownloadError> {
        Ok(Self { endpoint: endpoint.to_owned(), cache: cache.to_owned(), token: None, offline: false })
    }

    /// Sent to the hub, and to no other host.
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

    /// The cache's folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether the network is left alone.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Where a file is in the cache, if it is there as a whole. Nothing is asked of the network.
    pub fn cached(&self, _file: &Remote) -> Option<PathBuf> {
        None
    }

    /// Fetches files, several at a time, and says where they are, in their order. What is in the cache is not fetched
    /// again, and what was fetched before an error stays.
    ///
    /// # Errors
    /// If not all files are there in the end; the error says what to do.
    pub fn get(
        &self,
        _files: &[Remote],
        _options: &GetOptions,
        _watch: &dyn Watch,
    ) -> Result<Vec<PathBuf>, DownloadError> {
        Err(DownloadError::Cancelled)
    }

    /// Hashes a file in the cache, and compares it with all that is known of it.
    ///
    /// # Errors
    /// If it is not there, or damaged.
    pub fn verify(&self, _file: &Remote, _watch: &dyn Watch) -> Result<Verified, DownloadError> {
        Err(DownloadError::Cancelled)
    }

    /// Removes a file from the cache, and says how many bytes that freed. What another snapshot uses stays.
    ///
    /// # Errors
    /// If it cannot be removed. A file that is not there is none.
    pub fn remove(&self, _file: &Remote) -> Result<u64, DownloadError> {
        Err(DownloadError::Cancelled)
    }

    /// The files of a repository.
    ///
    /// # Errors
    /// As [`Hub::get`].
    pub fn files(&self, _repo: &str, _revision: &str) -> Result<Vec<RemoteFile>, DownloadError> {
        let _ = &self.endpoint;
        let _ = &self.token;
        Err(DownloadError::Cancelled)
    }
}
