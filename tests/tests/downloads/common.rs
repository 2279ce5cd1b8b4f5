//! What the tests of downloads share.

use mils_models::download::{Hub, Remote, Watch};
use mils_tests::hub_server::HubServer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The repository of the tests.
pub(crate) const REPO: &str = "org/name";

/// How long a server may be silent where a test is about that.
pub(crate) const STALL: Duration = Duration::from_millis(700);

pub(crate) fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A hub that is soon asked again, but not for being slow: the machine may be busy.
pub(crate) fn hub(server: &HubServer, dir: &TempDir) -> Hub {
    Hub::new(&server.endpoint(), dir.path())
        .unwrap()
        .attempts(4, Duration::from_millis(10))
        .stall(Duration::from_secs(20))
}

pub(crate) fn remote(file: &str) -> Remote {
    Remote::new(REPO, "main", file)
}

/// Bytes without a pattern.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(length as u64).fill_bytes(&mut bytes);
    bytes
}

/// Where the part of contents lies.
pub(crate) fn part(dir: &Path, etag: &str) -> std::path::PathBuf {
    dir.join("models--org--name/blobs").join(format!("{etag}.incomplete"))
}

/// Writes down what it is told.
#[derive(Default)]
pub(crate) struct Log {
    told: Mutex<Vec<(&'static str, String, u64)>>,
    pub cancel: AtomicBool,
}

impl Log {
    fn tell(&self, what: &'static str, of: &str, bytes: u64) {
        self.told.lock().unwrap().push((what, of.to_owned(), bytes));
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|(w, ..)| *w == what).count()
    }

    /// Bytes of a file that were there or came since it was last begun.
    pub(crate) fn total(&self, file: &str) -> u64 {
        let told = self.told.lock().unwrap();
        let of = told.iter().filter(|(_, of, _)| of == file);
        of.fold(0, |sum, (what, _, bytes)| match *what {
            "began" => *bytes,
            "got" => sum + bytes,
            _ => sum,
        })
    }

    pub(crate) fn notes(&self) -> String {
        let told = self.told.lock().unwrap();
        let notes = told.iter().filter(|(what, ..)| *what == "note");
        notes.map(|(_, text, _)| text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Watch for Log {
    fn began(&self, file: &Remote, _: Option<u64>, have: u64) {
        self.tell("began", &file.file, have);
    }

    fn got(&self, file: &Remote, bytes: u64) {
        self.tell("got", &file.file, bytes);
    }

    fn note(&self, text: &str) {
        self.tell("note", text, 0);
    }

    fn done(&self, file: &Remote) {
        self.tell("done", &file.file, 0);
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}
