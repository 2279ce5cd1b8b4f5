//! What fuzzing has kept of each target, replayed: files that once led to code that no earlier one led to, and those that
//! once failed. None may panic, hang or take much memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

// The targets' own code; their workspace needs libFuzzer, which this does not.
#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "public in their own crate")]
mod targets;

use std::fs::File;
use std::io::Read;
use std::path::Path;

#[test]
fn what_fuzzing_has_kept_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    std::thread::scope(|scope| {
        for (name, run) in targets::TARGETS {
            let archive = corpus.join(format!("{name}.zip"));
            scope.spawn(move || {
                let mut inputs = zip::ZipArchive::new(File::open(&archive).unwrap()).unwrap();
                assert!(inputs.len() >= 20, "{}: {} inputs", archive.display(), inputs.len());
                for i in 0..inputs.len() {
                    let mut input = inputs.by_index(i).unwrap();
                    let (name, mut bytes) = (input.name().to_owned(), Vec::new());
                    input.read_to_end(&mut bytes).unwrap();
                    if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                        panic!("{name} of {} fails", archive.display());
                    }
                }
            });
        }
    });
}
