//! What the tests of the command share: how it is run, and on what.
#![allow(dead_code, reason = "each file of tests uses a part")]

use assert_cmd::Command;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiny_http::{Response, Server};

/// The command, apart from what the user has set.
pub(crate) fn mils() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    // Where a test names none, and whatever is installed.
    command.env("NO_COLOR", "1").env("MILS_PACK", "demo").env("MILS_CACHE", "off");
    for variable in ["MILS_PACKS", "MILS_BANKS", "MILS_CACHE_SIZE", "WGPU_ADAPTER_NAME", "WGPU_BACKEND"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// The tiny checkpoints and the pictures that the reference has seen.
pub(crate) fn conformance() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance")
}

/// The samples, in order.
pub(crate) fn samples() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(demo().join("samples")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "png"));
    all.sort();
    assert!(all.len() >= 3);
    all
}

/// A copy of the demo pack that can be damaged.
pub(crate) fn pack() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&demo().join("pack"), dir.path());
    let definition = fs::read_to_string(demo().join("../packs/demo.toml")).unwrap();
    fs::write(dir.path().join("pack.toml"), definition.replace("../demo/pack", ".")).unwrap();
    dir
}

/// Copies what is in a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Files of every container.
pub(crate) fn media() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/media")
}

/// Runs and returns exit code, stdout and stderr.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// An error is one line that begins with the program's name, nothing is on stdout, and nobody panicked.
pub(crate) fn fails(command: &mut Command, code: i32, says: &[&str]) {
    let (found, stdout, stderr) = run(command);
    assert_eq!(found, code, "{stderr}");
    assert_eq!(stdout, "");
    let own: Vec<&str> = stderr.lines().filter(|l| l.starts_with("mils: ")).collect();
    assert_eq!(own.len(), 1, "{stderr}");
    for part in says {
        assert!(own[0].contains(part), "{part:?} is not in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A language model that always says the same to the same, in whatever company it is asked: llama.cpp's floats depend on
/// that in their last bits. It takes its time.
pub(crate) fn serve() -> String {
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    for _ in 0..4 {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let mut asked = String::new();
                // Whoever asked may have been killed.
                if request.as_reader().read_to_string(&mut asked).is_err() {
                    continue;
                }
                let number = asked.bytes().fold(7_u64, |n, b| n.wrapping_mul(31).wrapping_add(u64::from(b)));
                let pick = |words: &[&str], by: u64| words[(number / by % words.len() as u64) as usize].to_owned();
                let size = pick(&["small", "big"], 1);
                let colour = pick(&["red", "yellow", "purple", "white", "pink", "blue"], 2);
                let noun = pick(&["umbrella", "castle", "clock", "cat", "turtle", "plane", "chair", "penguin"], 12);
                let place = pick(&["on the grass", "on the sand", "at night", "in the sky"], 96);
                std::thread::sleep(Duration::from_millis(10));
                let content = format!("1. a {size} {colour} {noun}, {place}");
                let answer = json!({"choices": [{"message": {"content": content}}]});
                let _ = request.respond(Response::from_string(answer.to_string()));
            }
        });
    }
    url
}
