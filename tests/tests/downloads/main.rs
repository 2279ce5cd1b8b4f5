//! Downloads from a hub on this machine, which answers as the hub does and fails as networks and servers do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;
mod faults;
mod keeping;
mod processes;
mod refusals;

use common::{Log, REPO, cache, hub, noise, remote};
use mils_models::download::{GetOptions, Remote};
use mils_tests::hub_server::{Fault, HubServer, Kind, git_hash, sha256};
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
fn the_cache_is_laid_out_as_python_has_it() {
    let (server, dir) = (HubServer::start(), cache());
    let weights = noise(300_000);
    let files = [("config.json", &b"{}\n"[..], Kind::Small), ("onnx/sub/model.bin", &weights[..], Kind::Large)];
    let commit = server.commit(REPO, &files);
    let hub = hub(&server, &dir);
    let wanted = [remote("config.json"), remote("onnx/sub/model.bin")];
    assert_eq!(hub.cached(&wanted[0]), None);
    let log = Log::default();
    let paths = hub.get(&wanted, &GetOptions::default(), &log).unwrap();

    let model = dir.path().join("models--org--name");
    let snapshot = model.join("snapshots").join(&commit);
    assert_eq!(paths, [snapshot.join("config.json"), snapshot.join("onnx/sub/model.bin")]);
    assert_eq!(fs::read(&paths[1]).unwrap(), weights);
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), commit);
    let (small, large) = (git_hash(b"{}\n"), sha256(&weights));
    let mut blobs: Vec<_> = names(&model.join("blobs"));
    blobs.sort();
    let mut expected = vec![small.clone(), large.clone()];
    expected.sort();
    assert_eq!(blobs, expected, "and no parts");
    #[cfg(unix)]
    {
        assert_eq!(fs::read_link(&paths[0]).unwrap(), Path::new("../../blobs").join(&small));
        assert_eq!(fs::read_link(&paths[1]).unwrap(), Path::new("../../../../blobs").join(&large));
    }
    assert!(dir.path().join(format!(".locks/models--org--name/{large}.lock")).is_file());
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(model.join("mils-lock.json")).unwrap()).unwrap();
    assert_eq!(record["repo"], REPO);
    assert_eq!(record["files"][1]["file"], "onnx/sub/model.bin");
    assert_eq!(record["files"][1]["sha256"], large);
    assert_eq!(record["files"][1]["commit"], commit);
    assert_eq!(record["files"][1]["size"], 300_000);

    // Progress adds up, and what is there is not asked for again.
    assert_eq!(log.total("config.json"), 3);
    assert_eq!(log.total("onnx/sub/model.bin"), 300_000);
    assert_eq!(log.count("done"), 2);
    server.forget();
    assert_eq!(hub.get(&wanted, &GetOptions::default(), &Log::default()).unwrap(), paths);
    assert_eq!(hub.cached(&wanted[1]).as_ref(), Some(&paths[1]));
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_branch_is_taken_at_the_commit_that_it_was_at_first() {
    let (server, dir) = (HubServer::start(), cache());
    let first = server.commit(REPO, &[("a", b"first a", Kind::Small), ("b", b"first b", Kind::Large)]);
    let hub = hub(&server, &dir);
    hub.get(&[remote("a")], &GetOptions::default(), &Log::default()).unwrap();
    let second = server.commit(REPO, &[("a", b"second a", Kind::Small), ("b", b"second b", Kind::Large)]);
    let both = [remote("a"), remote("b")];
    let paths = hub.get(&both, &GetOptions::default(), &Log::default()).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!((read(&paths[0]), read(&paths[1])), ("first a".into(), "first b".into()));
    assert!(paths.iter().all(|path| path.parent().unwrap().ends_with(&first)));

    let update = GetOptions { update: true, ..GetOptions::default() };
    let paths = hub.get(&both, &update, &Log::default()).unwrap();
    assert_eq!((read(&paths[0]), read(&paths[1])), ("second a".into(), "second b".into()));
    assert_eq!(read(&dir.path().join("models--org--name/refs/main")), second);
    assert_eq!(hub.cached(&both[0]).as_ref(), Some(&paths[0]));
    // By its commit the first is still there.
    let old = Remote { revision: first.clone(), ..remote("a") };
    assert!(hub.cached(&old).unwrap().parent().unwrap().ends_with(&first));
    // Of a commit no more is asked.
    server.forget();
    hub.get(&[old], &update, &Log::default()).unwrap();
    assert!(server.seen().is_empty());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit("org/new-name", &[("weights", &noise(1000), Kind::Large), ("small", b"x", Kind::Small)]);
    server.rename(REPO, "org/new-name");
    server.gate("org/new-name", "hf_secret");
    let hub = hub(&server, &dir).token(Some("hf_secret"));
    hub.get(&[remote("weights"), remote("small")], &GetOptions::default(), &Log::default()).unwrap();
    let (elsewhere, here): (Vec<_>, Vec<_>) =
        server.seen().into_iter().partition(|seen| seen.host.starts_with("localhost"));
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|seen| seen.token.is_none()), "{elsewhere:?}");
    // A redirect to another name of the same hub keeps it.
    assert!(here.iter().any(|seen| seen.path.contains("new-name")));
    assert!(here.iter().all(|seen| seen.token.as_deref() == Some("Bearer hf_secret")), "{here:?}");
}

#[test]
fn several_files_come_at_a_time() {
    let (server, dir) = (HubServer::start(), cache());
    let contents: Vec<Vec<u8>> = (0..3).map(|i| noise(6000 + i)).collect();
    let names = ["a", "b", "c"];
    let files: Vec<_> = names.iter().zip(&contents).map(|(name, bytes)| (*name, &bytes[..], Kind::Small)).collect();
    server.commit(REPO, &files);
    server.fail("GET", "/resolve/", 3, Fault::Slow(1000, Duration::from_millis(100)));
    let wanted = names.map(remote);
    let paths = hub(&server, &dir).get(&wanted, &GetOptions::default(), &Log::default()).unwrap();
    assert!(server.most_at_a_time() > 1);
    for (path, bytes) in paths.iter().zip(&contents) {
        assert_eq!(&fs::read(path).unwrap(), bytes);
    }
}

#[test]
fn the_files_of_a_repository_are_listed_over_all_pages() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("config.json", b"{}", Kind::Small), ("model.bin", b"weights", Kind::Large)]);
    let next = format!("<{}/api/models/org/name/tree/main?cursor=x>; rel=\"next\"", server.endpoint());
    server.fail("GET", "recursive=true", 1, Fault::Header("Link", next));
    let listed = hub(&server, &dir).files(REPO, "main").unwrap();
    let told: Vec<_> = listed.iter().map(|f| (f.file.as_str(), f.size, f.sha256.is_some())).collect();
    let page = [("config.json", 2, false), ("model.bin", 7, true)];
    assert_eq!(told, [page, page].concat());
    assert_eq!(listed[1].sha256, Some(sha256(b"weights")));
    let error = hub(&server, &dir).files(REPO, "v9").unwrap_err().to_string();
    assert!(error.contains("no revision `v9`"), "{error}");
}

#[test]
fn equal_contents_are_fetched_once() {
    let (server, dir) = (HubServer::start(), cache());
    let bytes = noise(50_000);
    server.commit(REPO, &[("a.bin", &bytes, Kind::Large), ("b.bin", &bytes, Kind::Large)]);
    let wanted = [remote("a.bin"), remote("b.bin"), remote("a.bin")];
    let paths = hub(&server, &dir).get(&wanted, &GetOptions::default(), &Log::default()).unwrap();
    assert_eq!(paths[0], paths[2]);
    assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
    let sent: usize = server.seen().iter().filter(|s| s.host.starts_with("localhost")).map(|seen| seen.sent).sum();
    assert_eq!(sent, 50_000);
}
