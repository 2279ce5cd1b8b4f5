//! Folders into a file, killed and taken up again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, media, mils, run, samples};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_http::{Response, Server};

/// A folder of pictures, one of them damaged, a video, and what is neither.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    for (i, sample) in samples().iter().enumerate() {
        let to = if i % 2 == 0 { dir.path().to_owned() } else { dir.path().join("more") };
        fs::copy(sample, to.join(sample.file_name().unwrap())).unwrap();
    }
    fs::copy(media().join("videos/animated.gif"), dir.path().join("more/film.gif")).unwrap();
    let picture = fs::read(&samples()[0]).unwrap();
    fs::write(dir.path().join("damaged.png"), &picture[..picture.len() / 2]).unwrap();
    fs::write(dir.path().join("notes.txt"), "no picture").unwrap();
    dir
}

/// Three calls at a time: of more connections that stay open, the test server leaves some waiting.
const SETTINGS: [&str; 10] =
    ["--backend", "cpu", "--steps", "6", "--propose", "8", "--in-flight", "2", "--sequences", "3"];

/// A language model that always says the same to the same, in whatever company it is asked: llama.cpp's floats depend on
/// that in their last bits. It takes its time.
fn serve() -> String {
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

/// Results by file, without what depends on the clock.
fn results(path: &Path) -> BTreeMap<String, (Option<String>, Option<String>, u64)> {
    let text = fs::read_to_string(path).unwrap();
    let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |v: &Value| {
        let word = |key: &str| v[key].as_str().map(str::to_owned);
        (word("file").unwrap(), (word("caption"), word("error"), v["steps"].as_u64().unwrap_or_default()))
    };
    let by_file: BTreeMap<_, _> = all.iter().map(of).collect();
    assert_eq!(by_file.len(), all.len(), "each file once: {text}");
    by_file
}

fn spawn(folder: &Path, generator: &str, out: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    command.args(["caption", "--pack", "demo"]).arg(folder).args(["-r", "--quiet"]).args(SETTINGS).arg("-o").arg(out);
    command.args(["--generator", generator, "--generator-model", "same"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_what_an_undisturbed_one_has() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let (whole, killed) = (place.path().join("whole.jsonl"), place.path().join("killed.jsonl"));
    let generator = serve();
    let begin = Instant::now();
    assert_eq!(spawn(dir.path(), &generator, &whole).wait().unwrap().code(), Some(1), "one file is damaged");
    let undisturbed = begin.elapsed();
    let expected = results(&whole);
    assert_eq!(expected.len(), samples().len() + 2);
    let failed: Vec<_> = expected.iter().filter(|(_, r)| r.1.is_some()).map(|(file, _)| file).collect();
    assert!(failed.len() == 1 && failed[0].ends_with("damaged.png"), "{expected:?}");
    let (mut kills, mut taken_up) = (0, 0);
    let steps = place.path().join("killed.jsonl.steps");
    for attempt in 0_u32.. {
        assert!(attempt < 100, "it comes no further");
        let mut child = spawn(dir.path(), &generator, &killed);
        // At another moment each time: while models are loaded, texts written, or results put down.
        std::thread::sleep(undisturbed * (5 + attempt * 37 % 70) / 100);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        taken_up += usize::from(fs::read_to_string(&steps).unwrap_or_default().lines().count() > 1);
    }
    eprintln!("killed {kills} times, {taken_up} times with steps to take up");
    assert!(kills >= 2 && taken_up >= 1, "{kills} {taken_up}");
    assert_eq!(results(&killed), expected);
}

#[test]
fn a_file_that_was_begun_is_taken_up_at_its_last_step() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.jsonl");
    let steps = place.path().join("out.jsonl.steps");
    let caption = |count: &str| {
        let mut command = mils();
        command.arg("caption").arg(&samples()[1]).args(["--backend", "cpu", "--propose", "16", "--steps", count]);
        command.arg("-o").arg(&out).args(["--trace"]).arg(place.path().join("trace.jsonl"));
        command
    };
    // Killed when there are two steps.
    let mut child = Command::new(env!("CARGO_BIN_EXE_mils"))
        .args(["caption", "--pack", "demo"])
        .arg(&samples()[1])
        .args(["--backend", "cpu", "--propose", "16", "--steps", "200", "--quiet", "-o"])
        .arg(&out)
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(&steps).unwrap_or_default().lines().count();
    while lines() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = fs::read_to_string(&steps).unwrap();
    let (code, _, stderr) = run(&mut caption("200"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("0 of 1 files are done, and 1 begun"), "{stderr}");
    assert!(!steps.exists(), "nothing is left to take up");
    // The run says the kept steps' texts again, word for word, and its result counts them.
    let trace = fs::read_to_string(place.path().join("trace.jsonl")).unwrap();
    let scored: Vec<Value> = trace.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for line in kept.lines().skip(1).filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
        let said = scored.iter().filter(|r| r["type"] == "scored" && r["step"] == line["step"]);
        let said: Vec<&Value> = said.map(|r| &r["text"]).collect();
        assert_eq!(said, line["texts"].as_array().unwrap().iter().collect::<Vec<_>>());
    }
    // It is done: nothing happens any more, but with --overwrite.
    let before = fs::read_to_string(&out).unwrap();
    let (code, _, stderr) = run(&mut caption("200"));
    assert!(code == 0 && stderr.contains("1 of 1 files are done"), "{stderr}");
    assert_eq!(fs::read_to_string(&out).unwrap(), before);
    let (code, _, stderr) = run(caption("1").arg("--overwrite"));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(results(&out).values().next().unwrap().2, 1);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_done() {
    let dir = folder();
    let out = dir.path().join("notes.txt");
    fails(mils().arg("caption").arg(dir.path()).arg("-o").arg(&out), 1, &["notes.txt, line 1, is no result"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "no picture");
    let picture = dir.path().join("damaged.png");
    fails(mils().arg("caption").arg(dir.path()).arg("-o").arg(&picture), 1, &["--output would overwrite the file"]);
    let empty = tempfile::tempdir().unwrap();
    fails(mils().arg("caption").arg(empty.path()), 1, &["no pictures, videos or sounds in what was named"]);
    fails(mils().args(["caption", "no/*.png"]), 1, &["no file fits no/*.png"]);
    assert_eq!(run(mils().arg("caption").arg(&picture).args(["--shard", "3/2"])).0, 2);
    assert_eq!(run(mils().arg("caption").arg(&picture).arg("--overwrite")).0, 2);
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, folder().path().read_dir().unwrap().count(), "nothing is left behind");
}

#[test]
fn paths_come_from_standard_input_and_shares_are_disjoint() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let all: String = samples().iter().map(|s| format!("{}\n", s.display())).collect();
    let mut found = Vec::new();
    for share in ["1/2", "2/2"] {
        let out = place.path().join("out.jsonl");
        let mut command = mils();
        command.args(["caption", "-", "--backend", "cpu", "--steps", "0", "--overwrite", "--shard", share, "-o"]);
        let output = command.arg(&out).write_stdin(all.clone()).output().unwrap();
        // A share may be empty where files are few.
        if output.status.success() {
            found.extend(results(&out).into_keys());
        }
    }
    found.sort();
    assert_eq!(found, samples().iter().map(|s| s.display().to_string()).collect::<Vec<_>>());
    let mut command = mils();
    command.arg("caption").arg(dir.path()).args(["--backend", "cpu", "--steps", "0", "--format", "json"]);
    let (_, stdout, _) = run(&mut command);
    // Flat: three of five samples, and the damaged one.
    assert_eq!(stdout.lines().count(), samples().len().div_ceil(2) + 1, "{stdout}");
}
