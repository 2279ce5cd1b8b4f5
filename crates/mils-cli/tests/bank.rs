//! Initial sets: built by a language model, imported, named, and their embeddings kept.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{demo, fails, mils, run, samples};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tiny_http::{Response, Server};

/// A language model that says of each subject what it is asked for, of which some is of no use; it counts its calls, and
/// refuses those after so many.
fn serve(calls: usize, pause: Duration) -> (String, Arc<AtomicUsize>) {
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    let called = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (server, called) = (Arc::clone(&server), Arc::clone(&called));
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let mut asked = String::new();
                // Whoever asked may have been killed.
                if request.as_reader().read_to_string(&mut asked).is_err() {
                    continue;
                }
                let asked: Value = serde_json::from_str(&asked).unwrap();
                let user = asked["messages"][1]["content"].as_str().unwrap();
                let label = user.rsplit_once(": ").unwrap().1;
                let many = user.contains("Write 4 ");
                std::thread::sleep(pause);
                let said = format!(
                    "Sure! Here they are:\n1. a {label} in the rain\n2. A {label} in the rain!\n3. two of {label}, on a hill\n\
                     4. the same for all"
                );
                let (status, body) = if called.fetch_add(1, Ordering::SeqCst) >= calls || !many {
                    (400, json!({"error": {"message": "no more"}}))
                } else {
                    (200, json!({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}))
                };
                let _ = request.respond(Response::from_string(body.to_string()).with_status_code(status));
            }
        });
    }
    (url, called)
}

fn labels(dir: &Path, count: usize) -> std::path::PathBuf {
    let path = dir.join("labels.txt");
    let all: String = (0..count).map(|i| format!("thing{i}\n")).collect();
    fs::write(&path, format!("# things\n{all}\nthing0\n")).unwrap();
    path
}

/// The arguments of a build. Four calls at a time: of more connections that stay open, the test server leaves some waiting.
fn build(url: &str, labels: &Path, out: &Path) -> Vec<String> {
    let mut all: Vec<String> = ["bank", "build", "--modality", "image", "--per-label", "4", "--generator-model", "m"]
        .map(str::to_owned)
        .to_vec();
    let paths = [labels.display().to_string(), out.display().to_string()];
    all.extend(["--sequences".into(), "3".into(), "--generator".into(), url.into(), "--labels".into()]);
    all.extend([paths[0].clone(), "-o".into(), paths[1].clone()]);
    all
}

#[test]
fn a_set_is_built_about_labels_and_everything_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (labels, out) = (labels(dir.path(), 10), dir.path().join("set.txt"));
    let (url, called) = serve(usize::MAX, Duration::ZERO);
    let (code, stdout, stderr) = run(mils().args(build(&url, &labels, &out)).args(["--format", "json"]));
    assert_eq!(code, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let count = |key: &str| result[key].as_u64().unwrap();
    // Of four texts about each label one differs in case alone, and one is the same for all.
    assert_eq!((count("labels"), count("texts"), count("duplicates")), (10, 21, 19), "{stdout}");
    assert_eq!((&result["unusable"]["chatter"], count("labels_without_texts")), (&10.into(), 0), "{stdout}");
    assert_eq!((called.load(Ordering::SeqCst), &result["generator"]), (10, &"m".into()));
    let text = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (21, "a thing0 in the rain", "two of thing0, on a hill"));
    assert!(lines.contains(&"a thing9 in the rain") && lines.contains(&"the same for all"));
    assert!(!dir.path().join("set.txt.steps").exists(), "nothing is left to take up");
    fails(mils().args(build(&url, &labels, &out)), 1, &["is there already", "--overwrite"]);
    assert_eq!(run(mils().args(build(&url, &labels, &out)).args(["--overwrite", "--quiet"])).0, 0);
    let (code, stdout, _) = run(mils().args(build(&url, &labels, &dir.path().join("other.txt"))));
    assert!(
        code == 0 && stdout.contains("21 texts, 19 were there already") && stdout.contains("10 chatter"),
        "{stdout}"
    );
}

#[test]
fn a_build_that_fails_or_is_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (labels, out) = (labels(dir.path(), 40), dir.path().join("set.txt"));
    let steps = dir.path().join("set.txt.steps");
    let kept = || fs::read_to_string(&steps).unwrap_or_default().lines().count().saturating_sub(1);
    let (bad, _) = serve(12, Duration::ZERO);
    fails(mils().args(build(&bad, &labels, &out)), 1, &["the same command goes on", "no more", &bad]);
    let before = kept();
    assert!((1..=12).contains(&before) && !out.exists(), "{before} labels are kept");
    // What it is asked of is a part of what must be the same.
    let (url, called) = serve(usize::MAX, Duration::from_millis(20));
    fails(mils().args(build(&url, &labels, &out)), 1, &["of other settings", &bad, "--overwrite"]);
    let text = fs::read_to_string(&steps).unwrap().replace(&bad, &url);
    fs::write(&steps, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mils"))
        .args(build(&url, &labels, &out))
        .env("MILS_PACK", "demo")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while kept() < before + 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = kept();
    // Calls of the one that was killed may still be waiting to be answered, and counted.
    let mut asked = usize::MAX;
    while std::mem::replace(&mut asked, called.load(Ordering::SeqCst)) != asked {
        std::thread::sleep(Duration::from_millis(300));
    }
    let (code, _, stderr) = run(mils().args(build(&url, &labels, &out)));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(&format!("{before} of 40 labels are done")), "{stderr}");
    assert!(called.load(Ordering::SeqCst) - asked <= 40 - before, "what was kept is not asked again");
    let undisturbed = dir.path().join("whole.txt");
    assert_eq!(run(mils().args(build(&url, &labels, &undisturbed))).0, 0);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&undisturbed).unwrap());
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let (labels, out) = (labels(dir.path(), 500), dir.path().join("set.txt"));
    let steps = dir.path().join("set.txt.steps");
    let (url, _) = serve(usize::MAX, Duration::from_millis(20));
    let mut child = Command::new(env!("CARGO_BIN_EXE_mils"))
        .args(build(&url, &labels, &out))
        .env("MILS_PACK", "demo")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while fs::read_to_string(&steps).unwrap_or_default().lines().count() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("of 500 labels; the same command goes on"), "{stderr}");
    assert!(!out.exists() && fs::read_to_string(&steps).unwrap().ends_with('\n'));
}

/// The tiny model knows its own world alone; what it says is not the point, but that all of it is counted.
#[test]
fn the_packs_own_language_model_writes_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("labels.txt"), dir.path().join("set.txt"));
    fs::write(&file, "cat\nclock\numbrella\n").unwrap();
    let mut command = mils();
    command.args(["bank", "build", "--modality", "image", "--backend", "cpu", "--per-label", "6", "--format", "json"]);
    let (code, stdout, stderr) = run(command.arg("--labels").arg(&file).arg("-o").arg(&out));
    assert_eq!(code, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let count = |key: &str| result[key].as_u64().unwrap();
    let texts = fs::read_to_string(&out).unwrap().lines().count() as u64;
    assert!(count("texts") == texts && texts > 3 && count("generated_tokens") > texts, "{stdout}");
    let unusable: u64 = result["unusable"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    let all = texts + count("duplicates") + count("too_long") + count("empty") + unusable;
    // One line was asked for in each answer; talk may stand beside it.
    assert!(all >= 18, "{stdout}");
}

#[test]
fn caption_files_become_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let coco =
        write("coco.json", r#"{"annotations": [{"caption": " A  dog. "}, {"caption": "a dog"}, {"caption": ""}]}"#);
    let table = write("clotho.csv", "file_name,caption_1,caption_2\nx.wav,rain falls,A Dog\n");
    let long = write("long.txt", &format!("{}\na cat\n", "word ".repeat(60)));
    let out = dir.path().join("set.txt");
    let import = || {
        let mut command = mils();
        command.args(["bank", "import", "-o"]).arg(&out);
        command
    };
    let (code, stdout, stderr) = run(import().args([&coco, &table, &long]).args(["--format", "json"]));
    assert_eq!(code, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let counts: Vec<u64> =
        ["read", "texts", "duplicates", "too_long", "empty"].map(|key| result[key].as_u64().unwrap()).to_vec();
    assert_eq!(counts, [7, 3, 2, 1, 1], "{stdout}");
    let kinds: Vec<&Value> = result["files"].as_array().unwrap().iter().map(|file| &file["kind"]).collect();
    assert_eq!(kinds, ["json", "csv", "text"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "A dog.\nrain falls\na cat\n");
    let (_, stdout, _) = run(import().args([&coco, &table, &long]).args(["--limit", "2"]));
    assert!(stdout.contains("2 texts, 1 were there already"), "{stdout}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "A dog.\nrain falls\n");

    // A choice by a seed, the same for the same.
    let many = write("many.txt", &(0..100).map(|i| format!("text number {i}\n")).collect::<String>());
    let chosen = |seed: &str| {
        let mut command = mils();
        let (code, stdout, stderr) =
            run(command.args(["bank", "import", "-o", "-", "--limit", "10", "--shuffle", seed]).arg(&many));
        assert!(code == 0 && stderr.contains("10 texts"), "{stderr}");
        stdout
    };
    assert_eq!((chosen("1"), chosen("1").lines().count()), (chosen("1"), 10));
    assert_ne!(chosen("1"), chosen("2"));

    // What is wrong leaves the set as it was.
    let ragged = write("ragged.csv", "id,caption\n1,a\n2\n");
    fails(import().arg(&ragged), 1, &["ragged.csv, line 3: has 1 fields"]);
    let latin = dir.path().join("latin.txt");
    fs::write(&latin, b"a caf\xe9\n").unwrap();
    fails(import().args([&coco, &latin]), 1, &["latin.txt, line 1: is not UTF-8"]);
    fails(import().arg(write("none.txt", "\n\n")), 1, &["there are no texts in what was named: 2 were read"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "A dog.\nrain falls\n");
    let (code, _, stderr) = run(import().arg(&out));
    assert!(code == 2 && stderr.contains("would overwrite the file"), "{stderr}");
    let mut piped = mils();
    let output =
        piped.args(["bank", "import", "-", "-o", "-", "--quiet"]).write_stdin("a\tb\ncaption\tc\n").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a table without a column of captions");
    let mut piped = mils();
    let output =
        piped.args(["bank", "import", "-", "-o", "-", "--quiet"]).write_stdin("a dog\nA dog!\n").output().unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"a dog\n"[..], &b""[..]));
}

#[test]
fn sets_can_be_named_and_take_the_place_of_the_packs() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.txt"), "a big blue clock\n\na red car\n").unwrap();
    let (code, stdout, _) = run(mils().args(["bank", "list", "--format", "json"]).env("MILS_BANKS", dir.path()));
    assert_eq!(code, 0);
    let listed: Value = serde_json::from_str(&stdout).unwrap();
    let texts = |name: &str| {
        let set = listed["sets"].as_array().unwrap().iter().find(|set| set["name"] == name);
        set.unwrap()["texts"].as_u64().unwrap()
    };
    assert_eq!((texts("mine"), listed["embeddings"].is_null()), (2, true));
    assert!(["image", "video", "sound"].iter().all(|name| texts(name) >= 10_000));
    let caption = |initial: &str| {
        let mut command = mils();
        command.args(["caption", "--backend", "cpu", "--steps", "0", "--initial", initial]).arg(&samples()[0]);
        command.env("MILS_BANKS", dir.path());
        command
    };
    for initial in ["mine", dir.path().join("mine.txt").to_str().unwrap()] {
        let (code, stdout, stderr) = run(&mut caption(initial));
        assert!(code == 0 && ["a big blue clock\n", "a red car\n"].contains(&&stdout[..]), "{stdout}{stderr}");
    }
    fails(&mut caption("no-such-set"), 1, &["no-such-set is no file", "image, mine, sound, video"]);
    let empty = dir.path().join("empty.txt");
    fs::write(&empty, "\n").unwrap();
    fails(&mut caption(empty.to_str().unwrap()), 1, &["holds no texts"]);
    // A pack may name one, too.
    let pack = common::pack();
    let definition = fs::read_to_string(pack.path().join("pack.toml")).unwrap();
    fs::write(pack.path().join("pack.toml"), definition.replace("initial = \"initial.txt\"", "initial = \"mine\""))
        .unwrap();
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "0", "--pack"]).arg(pack.path()).arg(&samples()[0]);
    let (code, stdout, stderr) = run(command.env("MILS_BANKS", dir.path()));
    assert!(code == 0 && ["a big blue clock\n", "a red car\n"].contains(&&stdout[..]), "{stdout}{stderr}");
}

#[test]
fn embeddings_are_kept_and_damage_costs_time_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let caption = || {
        let mut command = mils();
        command
            .args(["caption", "--backend", "cpu", "--steps", "0", "--verbose", "--format", "json"])
            .arg(&samples()[0]);
        command.env("MILS_CACHE", &cache);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, 0, "{stderr}");
        let result: Value = serde_json::from_str(&stdout).unwrap();
        ((result["caption"].clone(), result["score"].clone()), stderr)
    };
    let count = fs::read_to_string(demo().join("pack/initial.txt")).unwrap().lines().count();
    let (first, said) = caption();
    assert!(said.contains(&format!("embedding {count} initial texts")), "{said}");
    let (again, said) = caption();
    assert!(said.contains(&format!("the embeddings of {count} initial texts are there")), "{said}");
    assert_eq!(again, first, "bit by bit");
    let folder = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    let (again, said) = caption();
    assert!(said.contains("a damaged file of embeddings (rows); texts are embedded anew"), "{said}");
    assert_eq!(again, first);
    assert!(caption().1.contains("are there"), "it was made anew");
    // Nowhere to keep them.
    let nowhere = dir.path().join("file");
    fs::write(&nowhere, "").unwrap();
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "0"]).arg(&samples()[0]).env("MILS_CACHE", &nowhere);
    let (code, stdout, stderr) = run(&mut command);
    assert!(code == 0 && first.0 == stdout.trim_end(), "{stderr}");
    assert!(stderr.contains("mils: embeddings are not kept in"), "{stderr}");
    let (_, listed, _) = run(mils().args(["bank", "list"]).env("MILS_CACHE", &cache));
    assert!(listed.contains("in 1 files") && listed.contains("of at most 4.00 GB"), "{listed}");
}
