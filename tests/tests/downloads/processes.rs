//! Processes that are killed at any moment, and several that want the same file. This test binary is the process: it is
//! run again for the one test that downloads if it is told to.

use crate::common::{REPO, cache, noise, part, remote};
use mils_models::download::{GetOptions, Hub, Remote, Watch};
use mils_tests::hub_server::{Fault, HubServer, Kind, sha256};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TOLD: &str = "MILS_TEST_DOWNLOAD";
const SIZE: usize = 600_000;

/// What a process does that is started by [`start`].
#[test]
fn a_process_downloads_if_it_is_told_to() {
    if std::env::var_os(TOLD).is_none() {
        return;
    }
    let files = [remote("config.json"), remote("model.bin")];
    Hub::from_env().unwrap().get(&files, &GetOptions::default(), &Aloud).unwrap();
}

/// Says at once what there is to say.
struct Aloud;

impl Watch for Aloud {
    fn began(&self, _: &Remote, _: Option<u64>, _: u64) {}
    fn got(&self, _: &Remote, _: u64) {}
    fn note(&self, text: &str) {
        println!("{text}");
    }
    fn done(&self, _: &Remote) {}
    fn cancelled(&self) -> bool {
        false
    }
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

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes of the large file that the server has sent.
fn sent(server: &HubServer) -> usize {
    server.seen().iter().filter(|seen| seen.path.starts_with("/cdn/")).map(|seen| seen.sent).sum()
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
    // So that processes are killed in its midst.
    server.fail("GET", "/cdn/", 99, Fault::Slow(10_000, Duration::from_millis(5)));
    let hub_cache = home.path().join("hub");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    loop {
        let goal = sent(&server) + random.random_range(0..120_000);
        let mut child = start(&server, home.path());
        let ended = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if sent(&server) >= goal {
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended {
            finish(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        hold(&hub_cache, &small, &large);
        assert!(kills < 100, "it gets nowhere");
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
    let go_on = Arc::new(AtomicBool::new(false));
    server.fail("GET", "/cdn/", 1, Fault::Held(200_000, Arc::clone(&go_on)));
    let first = start(&server, home.path());
    while !server.seen().iter().any(|seen| seen.path.starts_with("/cdn/")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut second = start(&server, home.path());
    let mut told = BufReader::new(second.stdout.take().unwrap()).lines().map_while(Result::ok);
    let waits = |line: &String| line.contains("waiting for another process that downloads model.bin");
    assert!(told.any(|line| waits(&line)), "it does not wait");
    go_on.store(true, Ordering::SeqCst);
    finish(first);
    // A process that nobody listens to any more would fail.
    told.for_each(drop);
    finish(second);
    hold(&home.path().join("hub"), &small, &large);
    assert_eq!(sent(&server), SIZE);
    assert!(!part(&home.path().join("hub"), &sha256(&large)).exists());
}
