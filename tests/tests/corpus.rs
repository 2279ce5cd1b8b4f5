//! What fuzzing has kept of each target, replayed: files that once led to code that no earlier one led to, and those that
//! once failed. None may panic, hang or take much memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

// The targets' own code; their workspace needs libFuzzer, which this does not.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn what_fuzzing_has_kept_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    std::thread::scope(|scope| {
        for (name, run) in targets::TARGETS {
            let folder = corpus.join(name);
            scope.spawn(move || {
                let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
                files.sort();
                assert!(files.len() >= 20, "{}: {} files", folder.display(), files.len());
                for file in files {
                    let bytes = fs::read(&file).unwrap();
                    if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                        panic!("{} fails", file.display());
                    }
                }
            });
        }
    });
}
