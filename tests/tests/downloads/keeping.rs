//! What is kept: the record of what was fetched, verifying, removing, and what others put into the cache.

use crate::common::{Log, REPO, cache, hub, noise, remote};
use mils_models::download::{Against, DownloadError, GetOptions, Remote};
use mils_tests::hub_server::{HubServer, Kind, git_hash, sha256};
use std::fs;
use std::path::Path;

#[test]
fn what_is_fetched_later_must_agree_with_what_was_fetched_first() {
    for kind in [Kind::Small, Kind::Large] {
        let (server, dir) = (HubServer::start(), cache());
        server.commit(REPO, &[("a", b"first", kind)]);
        let hub = hub(&server, &dir);
        let get = || hub.get(&[remote("a")], &GetOptions::default(), &Log::default());
        get().unwrap();
        // Somebody clears the cache, and the hub has something else at the same commit.
        let model = dir.path().join("models--org--name");
        for folder in ["blobs", "snapshots"] {
            fs::remove_dir_all(model.join(folder)).unwrap();
        }
        server.rewrite(REPO, "a", b"other");
        let error = get().unwrap_err();
        assert!(matches!(error, DownloadError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("mils-lock.json") && error.to_string().contains("remove"), "{error}");
        assert!(!model.join("snapshots").exists());
        // The same is taken, and after it is removed another as well.
        server.rewrite(REPO, "a", b"first");
        get().unwrap();
        server.rewrite(REPO, "a", b"other");
        hub.remove(&remote("a")).unwrap();
        assert_eq!(fs::read(&get().unwrap()[0]).unwrap(), b"other");
    }
}

#[test]
fn verifying_reads_what_is_there() {
    let (server, dir) = (HubServer::start(), cache());
    let bytes = noise(100_000);
    server.commit(REPO, &[("small", b"x\n", Kind::Small), ("large", &bytes, Kind::Large)]);
    let hub = hub(&server, &dir);
    let missing = hub.verify(&remote("large"), &Log::default());
    assert!(matches!(missing, Err(DownloadError::NotCached { .. })));
    let paths = hub.get(&[remote("small"), remote("large")], &GetOptions::default(), &Log::default()).unwrap();
    let log = Log::default();
    let verified = hub.verify(&remote("large"), &log).unwrap();
    assert_eq!((&verified.path, verified.size, &verified.sha256), (&paths[1], 100_000, &sha256(&bytes)));
    assert_eq!((verified.against, log.total("large")), (Against::Record, 100_000));
    let given = Remote { sha256: Some(sha256(&bytes)), ..remote("large") };
    assert_eq!(hub.verify(&given, &Log::default()).unwrap().against, Against::Given);
    fs::remove_file(dir.path().join("models--org--name/mils-lock.json")).unwrap();
    assert_eq!(hub.verify(&remote("small"), &Log::default()).unwrap().against, Against::Name);

    let mut damaged = bytes;
    damaged[77_777] ^= 4;
    fs::write(&paths[1], &damaged).unwrap();
    let error = hub.verify(&remote("large"), &Log::default()).unwrap_err();
    assert!(error.to_string().contains("is damaged: its SHA-256") && error.to_string().contains("again"), "{error}");
    fs::write(&paths[1], &damaged[..500]).unwrap();
    let sized = Remote { size: Some(100_000), ..remote("large") };
    assert_eq!(hub.cached(&sized), None);
    let error = hub.verify(&sized, &Log::default()).unwrap_err().to_string();
    assert!(error.contains("its size is 500, expected 100000"), "{error}");
}

#[test]
fn removing_frees_what_nobody_else_uses() {
    let (server, dir) = (HubServer::start(), cache());
    let (shared, own) = (noise(5000), noise(3000));
    let first = server.commit(REPO, &[("shared", &shared, Kind::Large), ("own", &own, Kind::Small)]);
    let hub = hub(&server, &dir);
    let old = |file: &str| Remote { revision: first.clone(), ..remote(file) };
    hub.get(&[old("shared"), old("own")], &GetOptions::default(), &Log::default()).unwrap();
    server.commit(REPO, &[("own", b"new", Kind::Small)]);
    hub.get(&[remote("shared"), remote("own")], &GetOptions::default(), &Log::default()).unwrap();

    let model = dir.path().join("models--org--name");
    assert_eq!(hub.remove(&remote("none")).unwrap(), 0);
    assert_eq!(hub.remove(&remote("shared")).unwrap(), 0, "the first commit has it too");
    assert_eq!(hub.cached(&remote("shared")), None);
    assert!(hub.cached(&old("shared")).is_some());
    assert_eq!(hub.remove(&remote("own")).unwrap(), 3);
    assert!(!model.join("refs").exists(), "a reference to nothing is none");
    assert_eq!(hub.remove(&old("own")).unwrap(), 3000);
    // A part of something else goes with the last file.
    fs::write(model.join("blobs/abc.incomplete"), "12345").unwrap();
    assert_eq!(hub.remove(&old("shared")).unwrap(), 5005);
    assert!(!model.exists());
    assert_eq!(hub.remove(&old("shared")).unwrap(), 0);
}

/// A cache as Python leaves it, with one file.
fn pythons(dir: &Path, etag: &str, bytes: &[u8]) {
    let (commit, model) = ("c".repeat(40), dir.join("models--org--name"));
    for folder in ["blobs", "refs", &format!("snapshots/{commit}")] {
        fs::create_dir_all(model.join(folder)).unwrap();
    }
    fs::write(model.join("refs/main"), &commit).unwrap();
    fs::write(model.join("blobs").join(etag), bytes).unwrap();
    let pointer = model.join("snapshots").join(commit).join("a");
    let _ = fs::remove_file(&pointer);
    #[cfg(unix)]
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), pointer).unwrap();
    #[cfg(not(unix))]
    fs::copy(model.join("blobs").join(etag), pointer).unwrap();
}

#[test]
fn what_python_fetched_is_used_and_hashed_once() {
    let (server, dir) = (HubServer::start(), cache());
    pythons(dir.path(), &git_hash(b"contents"), b"contents");
    let hub = hub(&server, &dir);
    let cached = hub.cached(&remote("a")).unwrap();
    let log = Log::default();
    assert_eq!(hub.get(&[remote("a")], &GetOptions::default(), &log).unwrap(), [cached]);
    assert_eq!((log.count("began"), log.count("done")), (1, 1));
    let log = Log::default();
    hub.get(&[remote("a")], &GetOptions::default(), &log).unwrap();
    assert_eq!(log.count("began"), 0);
    assert!(server.seen().is_empty());
}

#[cfg(unix)]
#[test]
fn what_others_left_damaged_is_fetched_again() {
    let (server, dir) = (HubServer::start(), cache());
    let commit = server.commit(REPO, &[("a", b"contents", Kind::Large)]);
    pythons(dir.path(), &sha256(b"contents"), b"c0ntents");
    let model = dir.path().join("models--org--name");
    fs::rename(model.join("snapshots").join("c".repeat(40)), model.join("snapshots").join(&commit)).unwrap();
    fs::write(model.join("refs/main"), &commit).unwrap();
    let hub = hub(&server, &dir);
    let error = hub.clone().offline(true).get(&[remote("a")], &GetOptions::default(), &Log::default()).unwrap_err();
    assert!(matches!(error, DownloadError::Damaged { .. }) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    let log = Log::default();
    let paths = hub.get(&[remote("a")], &GetOptions::default(), &log).unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), b"contents");
    assert!(log.notes().contains("is damaged; fetching it again"), "{}", log.notes());
}

#[cfg(unix)]
#[test]
fn contents_in_a_store_that_repositories_share_are_left_there() {
    let (server, dir) = (HubServer::start(), cache());
    let store = dir.path().join("blobs/ab/abcdef");
    fs::create_dir_all(store.parent().unwrap()).unwrap();
    fs::write(&store, "contents").unwrap();
    let etag = sha256(b"contents");
    pythons(dir.path(), &etag, b"contents");
    let blob = dir.path().join("models--org--name/blobs").join(&etag);
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("../../blobs/ab/abcdef", &blob).unwrap();
    let hub = hub(&server, &dir);
    let given = Remote { sha256: Some(etag), ..remote("a") };
    hub.get(std::slice::from_ref(&given), &GetOptions::default(), &Log::default()).unwrap();
    assert_eq!(hub.remove(&given).unwrap(), 0);
    assert!(store.is_file() && fs::symlink_metadata(&blob).is_err());
}

#[cfg(unix)]
#[test]
fn a_cache_for_reading_only_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let (server, dir) = (HubServer::start(), cache());
    pythons(dir.path(), &git_hash(b"contents"), b"contents");
    let model = dir.path().join("models--org--name");
    let allow = |mode| {
        for folder in [dir.path(), &model] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    allow(0o555);
    let got = hub(&server, &dir).get(&[remote("a")], &GetOptions::default(), &Log::default());
    // The administrator may write anywhere; then it is as any other cache.
    allow(0o755);
    assert_eq!(fs::read(&got.unwrap()[0]).unwrap(), b"contents");
}
