//! Processes that are killed at any moment, and several that want the same file. This test binary is the process: it is
//! run again for the one test that downloads if it is told to.

use crate::common::{Log, REPO, cache, noise, part, remote};
use mils_models::download::{GetOptions, Hub};
use mils_tests::hub_server::{Fault, HubServer, Kind, sha256};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TOLD: &str = "MILS_TEST_DOWNLOAD";
const SIZE: usize = 600_000;

/// What a process does that is started by [`start`].
#[test]
fn a_process_downloads_if_it_is_told_to() {
    if std::env::var_os(TOLD).is_none() {
        return;
    }
    let log = Log::default();
    let files = [remote("config.json"), remote("model.bin")];
    Hub::from_env().unwrap().get(&files, &GetOptions::default(), &log).unwrap();
    println!("notes: {}", log.notes());
}

fn start(server: &HubServer, home: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::a_process_downloads_if_it_is_told_to", "--nocapture"])
        .env(TOLD, "1")
        .env("HF_ENDPOINT", server.endpoint())
        .env("HF_HOME", home)
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("TRANSFORMERS_OFFLINE")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Nothing in the cache has a name that it should not have yet.
fn hold(cache: &Path, small: &[u8], large: &[u8]) {
    let model = cache.join("models--org--name");
    let whole = |path: &Path, bytes: &[u8]| match fs::read(path) {
        Ok(there) => assert!(there == bytes, "{} is not whole", path.display()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    };
    whole(&model.join("blobs").join(sha256(large)), large);
    for commit in fs::read_dir(model.join("snapshots")).into_iter().flatten().flatten() {
        whole(&commit.path().join("config.json"), small);
        whole(&commit.path().join("model.bin"), large);
    }
    if let Ok(there) = fs::read(part(cache, &sha256(large))) {
        assert!(large.starts_with(&there), "the part is no beginning");
    }
    if let Ok(record) = fs::read(model.join("mils-lock.json")) {
        serde_json::from_slice::<serde_json::Value>(&record).unwrap();
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_and_leaves_nothing_wrong() {
    let (server, home) = (HubServer::start(), cache());
    let (small, large) = (noise(2000), noise(SIZE));
    server.commit(REPO, &[("config.json", &small, Kind::Small), ("model.bin", &large, Kind::Large)]);
    // The whole takes 300 ms and some, so that most processes are killed in its midst.
    server.fail("GET", "/cdn/", 99, Fault::Slow(10_000, Duration::from_millis(5)));
    let hub_cache = home.path().join("hub");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    loop {
        let mut child = start(&server, home.path());
        std::thread::sleep(Duration::from_millis(random.random_range(5..160)));
        let ended = child.try_wait().unwrap().is_some();
        if ended {
            finish(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        hold(&hub_cache, &small, &large);
        assert!(kills < 200, "it gets nowhere");
    }
    assert!(kills >= 2, "nothing was killed");
    finish(start(&server, home.path()));
    hold(&hub_cache, &small, &large);
    let hub = Hub::new(&server.endpoint(), &hub_cache).unwrap().offline(true);
    let path = hub.cached(&remote("model.bin")).unwrap();
    assert!(fs::read(path).unwrap() == large);
    assert!(!part(&hub_cache, &sha256(&large)).exists());
    // What came was not asked for again: later requests begin where the part ended.
    let cdn: Vec<_> = server.seen().into_iter().filter(|seen| seen.path.starts_with("/cdn/")).collect();
    let begun: Vec<usize> = cdn.iter().map(|seen| seen.from.unwrap_or(0)).collect();
    assert!(begun.is_sorted() && *begun.last().unwrap() > 0, "{begun:?}");
}

#[test]
fn two_processes_fetch_a_file_once() {
    let (server, home) = (HubServer::start(), cache());
    let (small, large) = (noise(2000), noise(SIZE));
    server.commit(REPO, &[("config.json", &small, Kind::Small), ("model.bin", &large, Kind::Large)]);
    // Long enough for the other to come, and to tell that it waits.
    server.fail("GET", "/cdn/", 1, Fault::Slow(10_000, Duration::from_millis(35)));
    let both = [start(&server, home.path()), start(&server, home.path())];
    let told: String = both.into_iter().map(finish).collect();
    assert_eq!(told.matches("waiting for another process that downloads model.bin").count(), 1, "{told}");
    hold(&home.path().join("hub"), &small, &large);
    let sent: usize = server.seen().iter().filter(|s| s.path.starts_with("/cdn/")).map(|seen| seen.sent).sum();
    assert_eq!(sent, SIZE);
    assert!(!part(&home.path().join("hub"), &sha256(&large)).exists());
}
