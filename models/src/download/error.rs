//! Why a file cannot be had.

use super::size;
use std::io;
use std::path::PathBuf;

/// Why a file cannot be had. Every message is one line, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is no folder for the cache.
    #[error("there is no home folder for the hub cache; set HF_HUB_CACHE to a folder")]
    NoCache,
    /// The hub's address, a token or another setting cannot be used.
    #[error("{setting} {problem}")]
    Setting {
        /// Which.
        setting: String,
        /// What is wrong, and what to do. Never a token.
        problem: String,
    },
    /// A repository, a revision or a file cannot be called that.
    #[error("`{name}` is no {what}")]
    Name {
        /// What it is called.
        name: String,
        /// What it should be the name of, for people.
        what: &'static str,
    },
    /// The file is not in the cache, and the network is left alone.
    #[error(
        "{file} of {repo} is not in the hub cache, and nothing is downloaded while offline; unset HF_HUB_OFFLINE, or \
         fetch it where there is a network and copy {} here",
        cache.display()
    )]
    Offline {
        /// `ORG/NAME`.
        repo: String,
        /// What is missing.
        file: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The file is not in the cache.
    #[error("{file} of {repo} is not in the hub cache; download it first")]
    NotCached {
        /// `ORG/NAME`.
        repo: String,
        /// What is missing.
        file: String,
    },
    /// The repository's owners ask for something first.
    #[error("{repo} is gated: {}", gated(page, *token))]
    Gated {
        /// `ORG/NAME`.
        repo: String,
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// There is no such repository, or it is private.
    #[error("the hub has no repository {repo}, or it is private; {}", private(*token))]
    NoRepository {
        /// `ORG/NAME`.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The repository has no such revision.
    #[error("{repo} has no revision `{revision}`; name a branch, a tag or a commit that it has")]
    NoRevision {
        /// `ORG/NAME`.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no file {file} at the revision `{revision}`; see its page for the names of its files")]
    NoFile {
        /// `ORG/NAME`.
        repo: String,
        /// Where it was looked for.
        revision: String,
        /// What was asked for.
        file: String,
    },
    /// The network or a server failed too often.
    #[error("{host} {problem}; what was fetched stays, so run the same command again")]
    Network {
        /// What was asked.
        host: String,
        /// What went wrong.
        problem: String,
    },
    /// A server refuses.
    #[error("{host} refuses ({status}): {said}")]
    Refused {
        /// What was asked.
        host: String,
        /// The status of its answer.
        status: u16,
        /// What it says.
        said: String,
    },
    /// A server's answer makes no sense.
    #[error("{host} {problem}; if HF_ENDPOINT names a mirror, try without it")]
    Answer {
        /// What was asked.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub has another file than is expected.
    #[error("{file} of {repo} is not what is expected: its {what} is {found} on the hub, and was {expected} {}", expectation(*recorded))]
    Changed {
        /// `ORG/NAME`.
        repo: String,
        /// Which.
        file: String,
        /// Whether it was fetched before and was something else then; else the caller gave what it should be.
        recorded: bool,
        /// What differs.
        what: &'static str,
        /// As the hub has it.
        found: String,
        /// As it should be.
        expected: String,
    },
    /// Bytes do not have the hash that they should have.
    #[error("{} is damaged: its {what} is {found}, expected {expected}; {remedy}", path.display())]
    Damaged {
        /// What is damaged.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What was found.
        found: String,
        /// What it should be.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The disk is too small.
    #[error(
        "{} more would be needed in {}, and {} are free; free some, or choose a folder on another disk (HF_HUB_CACHE for \
         downloads, MILS_HOME for what is made of them)",
        size(*needed), folder.display(), size(*free)
    )]
    Space {
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// A file of the cache cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Disk {
        /// What failed, as a verb.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record of what was fetched cannot be understood.
    #[error("{}: {problem}; it holds what was fetched before, so look at it, or remove it to begin anew", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another process has the file.
    #[error("{file} of {repo} is being downloaded by another process; wait for it, or stop it")]
    Busy {
        /// `ORG/NAME`.
        repo: String,
        /// Which.
        file: String,
    },
    /// [`super::Watch::cancelled`] said so.
    #[error("cancelled; what was fetched stays")]
    Cancelled,
}

impl DownloadError {
    /// For `map_err`, of what is done with a path.
    pub(super) fn disk(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { what, path, source }
    }
}

fn gated(page: &str, token: bool) -> String {
    if token {
        format!(
            "the account of your token has no access; ask for it at {page}, and see that the token may read gated repositories"
        )
    } else {
        format!(
            "accept its conditions at {page}, then set HF_TOKEN to a token of your account (or run `hf auth login`)"
        )
    }
}

fn expectation(recorded: bool) -> &'static str {
    if recorded {
        "when it was fetched before (mils-lock.json); to take what the hub has now, remove the file from the cache first"
    } else {
        "for whoever made the pack; see whether there is a newer pack, and do not use the file until you know why"
    }
}

fn private(token: bool) -> &'static str {
    if token {
        "check its name, and that the account of your token may read it"
    } else {
        "check its name; if it is private, set HF_TOKEN to a token that may read it (or run `hf auth login`)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_on_one_line() {
        let repo = || "org/name".to_owned();
        let page = || "https://huggingface.co/org/name".to_owned();
        for (error, says) in [
            (DownloadError::Gated { repo: repo(), page: page(), token: false }, "set HF_TOKEN"),
            (DownloadError::Gated { repo: repo(), page: page(), token: true }, "ask for it at https://"),
            (DownloadError::NoRepository { repo: repo(), token: false }, "set HF_TOKEN"),
            (DownloadError::NoRepository { repo: repo(), token: true }, "the account of your token"),
            (DownloadError::Space { needed: 5_000_000_000, free: 7_000, folder: "c".into() }, "5.00 GB more"),
        ] {
            let error = error.to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
