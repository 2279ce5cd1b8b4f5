//! The files that a repository has.

use super::line::{Asked, Line};
use super::{DownloadError, Hub, RemoteFile, names};
use serde::Deserialize;

/// Most pages of a listing; the hub has a thousand files on each.
const MOST_PAGES: usize = 1000;

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: Option<String>,
    size: Option<u64>,
}

/// See [`Hub::files`].
pub(super) fn files(hub: &Hub, repo: &str, revision: &str) -> Result<Vec<RemoteFile>, DownloadError> {
    names::repository(repo)?;
    names::revision(revision)?;
    if hub.offline {
        let (repo, file) = (repo.to_owned(), "the list of files".to_owned());
        return Err(DownloadError::Offline { repo, file, cache: hub.cache.clone() });
    }
    let line = Line::new(hub);
    let asked = Asked { repo, revision, file: "its list of files" };
    let parts = ["api", "models"].into_iter().chain(repo.split('/')).chain(["tree", revision]);
    let mut url = line.url(parts);
    url.set_query(Some("recursive=true"));
    let mut all = Vec::new();
    for _ in 0..MOST_PAGES {
        let (items, next): (Vec<Item>, _) = line.tried(&|| false, &|_| (), &mut || line.json(&url, &asked))?;
        for item in items.into_iter().filter(|item| item.kind == "file") {
            // It is likely to become a path.
            names::file(&item.path)?;
            let (oid, size) = item.lfs.map(|lfs| (lfs.oid, lfs.size)).unwrap_or_default();
            let sha256 = oid.filter(|oid| names::is_sha256(oid));
            all.push(RemoteFile { file: item.path, size: size.unwrap_or(item.size), sha256 });
        }
        match next {
            Some(next) => url = next,
            None => return Ok(all),
        }
    }
    let problem = format!("lists the files of {repo} without end");
    Err(DownloadError::Answer { host: hub.endpoint.to_string(), problem })
}
