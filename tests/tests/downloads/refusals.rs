//! What a hub refuses, what makes no sense, and what is not asked for.

use crate::common::{Log, REPO, cache, hub, noise, remote};
use mils_models::download::{DownloadError, GetOptions, Hub, Remote};
use mils_tests::hub_server::{Fault, HubServer, Kind, sha256};
use std::path::Path;

fn get(hub: &Hub, file: &Remote) -> DownloadError {
    let error = hub.get(std::slice::from_ref(file), &GetOptions::default(), &Log::default()).unwrap_err();
    assert!(!error.to_string().contains('\n') && !error.to_string().contains("hf_"), "{error}");
    error
}

/// Whether a folder has no files in it, but for locks.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .all(|entry| entry.file_name() == ".locks" || entry.file_type().unwrap().is_dir() && is_empty(&entry.path()))
}

#[test]
fn refusals_say_what_to_do() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("a", b"x", Kind::Small)]);
    server.commit("org/gated", &[("a", b"x", Kind::Small)]);
    server.gate("org/gated", "hf_right");
    let of = |repo: &str, revision: &str, file: &str| Remote::new(repo, revision, file);
    let anonymous = hub(&server, &dir);
    let other = anonymous.clone().token(Some("hf_other"));
    for (hub, file, says) in [
        (&anonymous, of("org/gated", "main", "a"), "accept its conditions at http://127.0.0.1"),
        (&anonymous, of("org/gated", "main", "a"), "set HF_TOKEN"),
        (&other, of("org/gated", "main", "a"), "the account of your token has no access"),
        (&anonymous, of("org/none", "main", "a"), "no repository org/none, or it is private; check its name; if it is"),
        (&other, of("org/none", "main", "a"), "check its name, and that the account of your token"),
        (&anonymous, of(REPO, "v2", "a"), "org/name has no revision `v2`"),
        (&anonymous, of(REPO, "main", "b"), "org/name has no file b at the revision `main`"),
    ] {
        let error = get(hub, &file).to_string();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
    assert!(is_empty(dir.path()));
    // None of them is asked twice.
    assert_eq!(server.seen().len(), 7);
    let right = anonymous.token(Some("hf_right"));
    right.get(&[of("org/gated", "main", "a")], &GetOptions::default(), &Log::default()).unwrap();
}

#[test]
fn other_refusals_say_what_the_server_says() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("a", b"x", Kind::Small)]);
    let hub = hub(&server, &dir);
    let message = || vec![("X-Error-Message", "Access to this resource is disabled.".to_owned())];
    for (fault, says) in [
        (Fault::Status(403, message()), "refuses (403): Access to this resource is disabled."),
        (Fault::Status(400, vec![]), "refuses (400)"),
        (Fault::Status(401, vec![]), "or it is private"),
        (Fault::Status(404, vec![]), "has no file a"),
        (Fault::Status(302, vec![]), "redirects to no address"),
        (Fault::Status(302, vec![("Location", "file:///etc/passwd".into())]), "redirects to no address"),
    ] {
        server.fail("HEAD", "/resolve/", 1, fault);
        let error = get(&hub, &remote("a")).to_string();
        assert!(error.contains(says), "{says:?} is not in {error}");
        server.forget();
    }
    server.fail("HEAD", "/resolve/", 99, Fault::Status(302, vec![("Location", "/org/name/resolve/x/y".into())]));
    assert!(get(&hub, &remote("a")).to_string().contains("redirects without end"));
    assert!(server.seen().len() < 20);
    server.forget();
    server.fail("HEAD", "/resolve/", 1, Fault::Status(401, vec![("X-Error-Message", "Invalid credentials".into())]));
    let error = get(&hub.token(Some("hf_old")), &remote("a")).to_string();
    assert!(error.contains("the token (HF_TOKEN") && error.contains("Invalid credentials"), "{error}");
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("a", b"x", Kind::Small), ("large", &noise(1000), Kind::Large)]);
    let hub = hub(&server, &dir);
    let header = |name, value: &str| Fault::Header(name, value.to_owned());
    for (file, faults, says) in [
        // What a server says becomes part of a path.
        ("large", vec![header("X-Linked-Etag", "\"../../../evil\""), Fault::Without("ETag")], "says no hash"),
        ("a", vec![header("ETag", "\"../../evil\"")], "says no hash of a"),
        ("a", vec![header("X-Repo-Commit", "../../../evil")], "does not say which commit `main` is"),
        ("a", vec![Fault::Without("X-Repo-Commit")], "does not say which commit `main` is"),
        ("a", vec![Fault::Without("ETag")], "says no hash of a"),
        ("a", vec![header("ETag", "\"0123-2\"")], "says no hash that a can be verified with"),
    ] {
        for fault in faults {
            server.fail("HEAD", "", 9, fault);
        }
        let error = get(&hub, &remote(file));
        assert!(matches!(error, DownloadError::Answer { .. }), "{error}");
        assert!(error.to_string().contains(says), "{says:?} is not in {error}");
        assert!(is_empty(dir.path()));
        server.forget();
    }
    // With another tag, the pack's hash is enough.
    server.fail("HEAD", "", 9, header("ETag", "\"0123-2\""));
    server.fail("GET", "", 9, header("ETag", "\"0123-2\""));
    let given = Remote { sha256: Some(sha256(b"x")), ..remote("a") };
    hub.get(&[given], &GetOptions::default(), &Log::default()).unwrap();
    // Names that lead out of the cache are not asked for, and not taken from a listing.
    for (repo, revision, file) in [("../x", "main", "a"), (REPO, "../x", "a"), (REPO, "main", "../../x")] {
        assert!(matches!(get(&hub, &Remote::new(repo, revision, file)), DownloadError::Name { .. }));
    }
    server.commit(REPO, &[("../../evil", b"x", Kind::Small)]);
    assert!(matches!(hub.files(REPO, "main"), Err(DownloadError::Name { .. })));
    server.fail("GET", "/api/", 1, Fault::Status(200, vec![]));
    let error = hub.files(REPO, "main").unwrap_err().to_string();
    assert!(error.contains("does not answer as a hub does"), "{error}");
}

#[test]
fn files_that_are_not_the_packs_are_not_fetched() {
    let (server, dir) = (HubServer::start(), cache());
    let bytes = noise(1000);
    server.commit(REPO, &[("large", &bytes, Kind::Large), ("small", b"x", Kind::Small)]);
    let hub = hub(&server, &dir);
    let other = Some("0".repeat(64));
    for file in [
        Remote { sha256: other.clone(), ..remote("large") },
        Remote { size: Some(999), ..remote("large") },
        Remote { size: Some(2), ..remote("small") },
    ] {
        let error = get(&hub, &file);
        assert!(matches!(error, DownloadError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("whoever made the pack"), "{error}");
    }
    assert!(server.seen().iter().all(|seen| seen.method == "HEAD"));
    // Of a small file the hub does not know it: it is found out when it is there.
    let error = get(&hub, &Remote { sha256: other, ..remote("small") });
    assert!(matches!(error, DownloadError::Changed { .. }), "{error}");
    assert!(is_empty(dir.path()));
    let error = get(&hub, &Remote { sha256: Some("abc".into()), ..remote("small") });
    assert!(error.to_string().contains("is no SHA-256"), "{error}");
    let right = Remote { sha256: Some(sha256(&bytes)), size: Some(1000), ..remote("large") };
    hub.get(&[right], &GetOptions::default(), &Log::default()).unwrap();
}

#[test]
fn offline_there_is_what_is_there() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("a", b"x", Kind::Small), ("b", b"y", Kind::Small)]);
    let hub = hub(&server, &dir);
    let paths = hub.get(&[remote("a")], &GetOptions::default(), &Log::default()).unwrap();
    server.forget();
    let offline = hub.offline(true);
    assert_eq!(offline.get(&[remote("a")], &GetOptions::default(), &Log::default()).unwrap(), paths);
    let error = get(&offline, &remote("b"));
    assert!(matches!(&error, DownloadError::Offline { file, .. } if file == "b"), "{error}");
    assert!(matches!(offline.files(REPO, "main"), Err(DownloadError::Offline { .. })));
    assert!(server.seen().is_empty());
}
