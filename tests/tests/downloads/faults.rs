//! Networks and servers that fail, and fail again.

use crate::common::{Log, REPO, STALL, cache, hub, noise, part, remote};
use mils_models::download::{DownloadError, GetOptions, check_space};
use mils_tests::hub_server::{Fault, HubServer, Kind, Seen, sha256};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SIZE: usize = 200_000;

/// A hub with one large file, and one download of it.
struct Scene {
    server: HubServer,
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    log: Log,
    stall: Duration,
}

impl Scene {
    fn new() -> Self {
        let (server, dir, bytes) = (HubServer::start(), cache(), noise(SIZE));
        server.commit(REPO, &[("model.bin", &bytes, Kind::Large)]);
        Self { server, dir, bytes, log: Log::default(), stall: Duration::from_secs(20) }
    }

    fn with(faults: Vec<Fault>) -> Self {
        let scene = Self::new();
        for fault in faults {
            scene.server.fail("GET", "/cdn/", 1, fault);
        }
        scene
    }

    fn get(&self) -> Result<Vec<u8>, DownloadError> {
        let hub = hub(&self.server, &self.dir).stall(self.stall);
        let paths = hub.get(&[remote("model.bin")], &GetOptions::default(), &self.log)?;
        Ok(fs::read(&paths[0]).unwrap())
    }

    /// The requests for contents.
    fn asked(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|seen| seen.path.starts_with("/cdn/")).collect()
    }

    /// Where each request for contents began.
    fn began(&self) -> Vec<Option<usize>> {
        self.asked().iter().map(|seen| seen.from).collect()
    }

    /// Nothing has the file's name that is not the file.
    fn nothing_is_published(&self) {
        let model = self.dir.path().join("models--org--name");
        assert!(!model.join("blobs").join(sha256(&self.bytes)).exists());
        assert!(!model.join("snapshots").exists());
        assert_eq!(hub(&self.server, &self.dir).cached(&remote("model.bin")), None);
    }
}

#[test]
fn what_broke_off_is_taken_up_where_it_was() {
    let mut scene = Scene::with(vec![Fault::Cut(70_000), Fault::Stall(50_000), Fault::Cut(0)]);
    scene.stall = STALL;
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert_eq!(scene.began(), [None, Some(70_000), Some(120_000), Some(120_000)]);
    let sent: usize = scene.asked().iter().map(|seen| seen.sent).sum();
    assert_eq!(sent, SIZE, "nothing is sent twice");
    assert_eq!(scene.log.total("model.bin"), SIZE as u64);
}

#[test]
fn a_server_that_says_nothing_more_is_left() {
    let mut scene = Scene::with(vec![Fault::Stall(1000); 9]);
    scene.stall = STALL;
    let began = Instant::now();
    let error = scene.get().unwrap_err();
    assert!(matches!(error, DownloadError::Network { .. }), "{error}");
    assert!(error.to_string().contains("sent nothing more for 0.7 s"), "{error}");
    assert!(began.elapsed() < 20 * STALL, "{:?}", began.elapsed());
    scene.nothing_is_published();
    // What there is stays, and is taken up.
    let there = fs::metadata(part(scene.dir.path(), &sha256(&scene.bytes))).unwrap().len();
    assert_eq!(there, 4000);
    scene.server.forget();
    scene.stall = Duration::from_secs(20);
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert_eq!(scene.began(), [Some(4000)]);
}

#[test]
fn attempts_are_counted_anew_when_it_gets_further() {
    // More than the attempts that there are, each of which gets somewhere.
    let scene = Scene::new();
    scene.server.fail("GET", "/cdn/", 2, Fault::Cut(70_000));
    scene.server.fail("HEAD", "/resolve/", 3, Fault::Status(503, vec![]));
    scene.server.fail("GET", "/resolve/", 3, Fault::Status(500, vec![]));
    assert_eq!(scene.get().unwrap(), scene.bytes);
}

#[test]
fn servers_that_fail_are_asked_again_when_they_say() {
    let scene = Scene::new();
    let busy = |seconds: &str| Fault::Status(429, vec![("Retry-After", seconds.to_owned())]);
    scene.server.fail("HEAD", "/resolve/", 1, busy("1"));
    scene.server.fail("GET", "/cdn/", 1, Fault::Status(503, vec![("Retry-After", "0".into())]));
    let began = Instant::now();
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert!(began.elapsed() >= Duration::from_secs(1));
    // One that asks for an hour is not waited for.
    let scene = Scene::new();
    scene.server.fail("HEAD", "/resolve/", 9, busy("3600"));
    let error = scene.get().unwrap_err().to_string();
    assert!(error.contains("fails (429)"), "{error}");
    assert_eq!(scene.server.seen().len(), 1);
}

#[test]
fn a_server_that_goes_on_failing_is_said() {
    let scene = Scene::new();
    scene.server.fail("HEAD", "/resolve/", 9, Fault::Status(502, vec![]));
    let error = scene.get().unwrap_err();
    assert!(error.to_string().contains("127.0.0.1") && error.to_string().contains("fails (502)"), "{error}");
    assert_eq!(scene.server.seen().len(), 4);
}

#[test]
fn bytes_of_another_hash_never_get_the_files_name() {
    // Once: they are fetched again.
    let scene = Scene::with(vec![Fault::Flip]);
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert!(scene.log.notes().contains("model.bin came damaged"), "{}", scene.log.notes());
    // Always: that is said, and they are thrown away.
    let scene = Scene::with(vec![Fault::Flip; 9]);
    let error = scene.get().unwrap_err();
    assert!(matches!(error, DownloadError::Damaged { what: "SHA-256", .. }), "{error}");
    assert_eq!(scene.asked().len(), 2);
    scene.nothing_is_published();
    assert!(!part(scene.dir.path(), &sha256(&scene.bytes)).exists());
}

#[test]
fn small_files_are_verified_by_their_git_hash() {
    let (server, dir) = (HubServer::start(), cache());
    server.commit(REPO, &[("config.json", b"{\"a\": 1}", Kind::Small)]);
    server.fail("GET", "config.json", 9, Fault::Flip);
    let error = hub(&server, &dir).get(&[remote("config.json")], &GetOptions::default(), &Log::default());
    assert!(matches!(error, Err(DownloadError::Damaged { what: "git hash", .. })), "{error:?}");
}

#[test]
fn a_part_of_something_else_is_thrown_away() {
    let scene = Scene::new();
    let path = part(scene.dir.path(), &sha256(&scene.bytes));
    for (rubbish, requests) in [(noise(1234), 2), (noise(SIZE + 1), 1), (noise(SIZE - 1), 2)] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, rubbish).unwrap();
        assert_eq!(scene.get().unwrap(), scene.bytes);
        assert_eq!(scene.began().len(), requests);
        assert_eq!(*scene.began().last().unwrap(), None);
        hub(&scene.server, &scene.dir).remove(&remote("model.bin")).unwrap();
        scene.server.forget();
    }
    // One that was whole when its process was killed needs no request.
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &scene.bytes).unwrap();
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert!(scene.began().is_empty());
}

#[test]
fn servers_that_know_no_ranges_begin_anew() {
    let elsewhere = Fault::Header("Content-Range", format!("bytes 0-{}/{SIZE}", SIZE - 1));
    let longer = Fault::Header("Content-Range", format!("bytes 70000-{SIZE}/{}", SIZE + 1));
    let other = Fault::Header("ETag", "\"another-1\"".into());
    let refused = Fault::Status(416, vec![]);
    for (fault, began) in [
        (Fault::Whole, vec![None, Some(70_000)]),
        (refused, vec![None, Some(70_000), None]),
        (elsewhere, vec![None, Some(70_000), None]),
        (longer, vec![None, Some(70_000), None]),
        (other, vec![None, Some(70_000), None]),
    ] {
        let scene = Scene::with(vec![Fault::Cut(70_000), fault.clone()]);
        assert_eq!(scene.get().unwrap(), scene.bytes, "{fault:?}");
        assert_eq!(scene.began(), began, "{fault:?}");
        assert_eq!(scene.log.total("model.bin"), SIZE as u64);
    }
    // One that ignores them and never gets through is left in the end.
    let scene = Scene::new();
    scene.server.fail("GET", "/cdn/", 99, Fault::Whole);
    scene.server.fail("GET", "/cdn/", 99, Fault::Cut(70_000));
    assert!(matches!(scene.get(), Err(DownloadError::Network { .. })));
    assert!(scene.asked().len() < 9, "{:?}", scene.began());
}

#[test]
fn no_more_is_taken_than_was_announced() {
    let scene = Scene::with(vec![Fault::Longer(100_000)]);
    let error = scene.get().unwrap_err();
    assert!(matches!(error, DownloadError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("more of model.bin than the 200000 bytes"), "{error}");
    scene.nothing_is_published();
    // Where a length is said, nothing is read.
    let scene = Scene::new();
    scene.server.fail("HEAD", "/resolve/", 9, Fault::Header("X-Linked-Size", "150000".into()));
    let error = scene.get().unwrap_err().to_string();
    assert!(error.contains("has 200000 bytes of model.bin where 150000 are missing"), "{error}");
    scene.nothing_is_published();
}

#[test]
fn a_file_that_changes_on_the_way_is_begun_anew() {
    let scene = Scene::with(vec![Fault::Cut(70_000)]);
    scene.server.fail("GET", "/cdn/", 9, Fault::Cut(0));
    assert!(scene.get().is_err());
    let changed = noise(SIZE + 7);
    scene.server.rewrite(REPO, "model.bin", &changed);
    scene.server.forget();
    // The hub says what the file is in the answer to HEAD, and something else when it is asked for it.
    let tag = Fault::Header("X-Linked-Etag", format!("\"{}\"", sha256(&scene.bytes)));
    scene.server.fail("HEAD", "/resolve/", 2, tag);
    scene.server.fail("HEAD", "/resolve/", 2, Fault::Header("X-Linked-Size", SIZE.to_string()));
    assert_eq!(scene.get().unwrap(), changed);
    assert!(scene.log.notes().contains("model.bin has changed"), "{}", scene.log.notes());
    assert!(!part(scene.dir.path(), &sha256(&scene.bytes)).exists());
}

#[test]
fn cancelling_ends_a_request_that_waits_and_what_came_stays() {
    let scene = Scene::with(vec![Fault::Stall(30_000)]);
    let hub = hub(&scene.server, &scene.dir);
    let began = Instant::now();
    let got = std::thread::scope(|scope| {
        let got = scope.spawn(|| hub.get(&[remote("model.bin")], &GetOptions::default(), &scene.log));
        while scene.log.total("model.bin") < 30_000 && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        scene.log.cancel.store(true, Ordering::SeqCst);
        got.join().unwrap()
    });
    assert!(matches!(got, Err(DownloadError::Cancelled)), "{got:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    scene.nothing_is_published();
    scene.log.cancel.store(false, Ordering::SeqCst);
    assert_eq!(scene.get().unwrap(), scene.bytes);
    assert_eq!(scene.began(), [None, Some(30_000)]);
}

#[test]
fn the_disk_is_looked_at_before_anything_is_fetched() {
    let scene = Scene::new();
    let with = |free: u64| {
        let hub = hub(&scene.server, &scene.dir).free_space(std::sync::Arc::new(move |_| Ok(free)));
        hub.get(&[remote("model.bin")], &GetOptions::default(), &scene.log)
    };
    let error = with(SIZE as u64 - 1).unwrap_err();
    assert!(matches!(error, DownloadError::Space { needed: 200_000, free: 199_999, .. }), "{error}");
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
    assert!(scene.asked().is_empty());
    // The disk itself is asked where nobody else says it, also for a folder that is not there yet.
    let more_than_any = check_space(&scene.dir.path().join("later"), u64::MAX);
    assert!(matches!(more_than_any, Err(DownloadError::Space { needed: u64::MAX, .. })), "{more_than_any:?}");
    check_space(scene.dir.path(), 1).unwrap();
    // What is there needs no room again.
    scene.server.fail("GET", "/cdn/", 9, Fault::Cut(0));
    let path = part(scene.dir.path(), &sha256(&scene.bytes));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &scene.bytes[..150_000]).unwrap();
    assert!(matches!(with(50_000), Err(DownloadError::Network { .. })));
    scene.server.forget();
    with(50_000).unwrap();
}

#[test]
fn a_hub_that_is_not_there_is_said_at_once() {
    let dir = cache();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = mils_models::download::Hub::new(&format!("http://{nobody}"), dir.path()).unwrap();
    let began = Instant::now();
    let error = hub.get(&[remote("a")], &GetOptions::default(), &Log::default()).unwrap_err().to_string();
    assert!(error.contains("is the network up?"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8));
}
