//! Captions beside files and in them, and what becomes of them when things go wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use assert_cmd::Command;
use common::{fails, mils, run, samples};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Two pictures in a folder.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(&samples()[0], dir.path().join("a.png")).unwrap();
    image::open(&samples()[1]).unwrap().to_rgb8().save(dir.path().join("b.jpg")).unwrap();
    dir
}

fn caption(dir: &Path, flags: &[&str]) -> Command {
    let mut command = mils();
    command.arg("caption").arg(dir).args(["--backend", "cpu", "--steps", "0"]).args(flags);
    command
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn captions_are_written_beside_files_and_into_them_once() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let all = ["--sidecar", "txt,json", "--sidecar", "xmp", "--embed-xmp"];
    let (code, stdout, stderr) = run(&mut caption(dir.path(), &all));
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stderr}");
    assert!(stderr.contains("2 captioned in "), "{stderr}");
    let sidecars = ["a.json", "a.png", "a.png.xmp", "a.txt", "b.jpg", "b.jpg.xmp", "b.json", "b.txt"];
    assert_eq!(names(dir.path()), sidecars);
    for (line, name) in stdout.lines().zip(["a.png", "b.jpg"]) {
        let said = line.rsplit('\t').next().unwrap();
        let stem = &name[..1];
        assert_eq!(text(&at(&format!("{stem}.txt"))), format!("{said}\n"));
        let json: Value = serde_json::from_str(&text(&at(&format!("{stem}.json")))).unwrap();
        assert_eq!((&json["caption"], json["models"]["pack"].as_str()), (&said.into(), Some("demo")));
        let item = format!("<rdf:li xml:lang=\"x-default\">{said}</rdf:li>");
        assert!(text(&at(&format!("{name}.xmp"))).contains(&item));
        let bytes = fs::read(at(name)).unwrap();
        assert!(bytes.windows(item.len()).any(|part| part == item.as_bytes()), "{name}");
    }
    // All is there: nothing happens, and no model is loaded.
    let before: Vec<Vec<u8>> = sidecars.iter().map(|name| fs::read(at(name)).unwrap()).collect();
    let (code, stdout, stderr) = run(&mut caption(dir.path(), &all));
    assert!(code == 0 && stdout.is_empty() && stderr.contains("2 of 2 files are done"), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&mut caption(dir.path(), &["--sidecar", "txt"]));
    assert!(code == 0 && stdout.is_empty() && stderr.contains("2 of 2 files are done"), "{stdout}{stderr}");
    let (code, _, stderr) = run(caption(dir.path(), &all).args(["--if-exists", "append"]));
    assert_eq!(code, 0, "{stderr}");
    for (name, before) in sidecars.iter().zip(&before) {
        assert!(fs::read(at(name)).unwrap() == *before, "what is said already is not said again: {name}");
    }
    fs::write(at("a.txt"), "by hand\n").unwrap();
    let own = text(&at("b.txt"));
    let (code, stdout, stderr) = run(&mut caption(dir.path(), &["--sidecar", "txt", "--if-exists", "prepend"]));
    assert_eq!(code, 0, "{stderr}");
    let said = stdout.lines().next().unwrap().rsplit('\t').next().unwrap();
    assert_eq!((text(&at("a.txt")), text(&at("b.txt"))), (format!("{said}\nby hand\n"), own));
}

#[test]
fn sidecars_that_are_asked_for_later_are_made_of_results_that_are_there() {
    for name in ["out.jsonl", "out.csv", "out.parquet"] {
        let dir = folder();
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join(name);
        let output = ["-o", out.to_str().unwrap()];
        assert_eq!(run(&mut caption(dir.path(), &output)).0, 0);
        assert_eq!(names(place.path()), [name]);
        fs::write(dir.path().join("b.txt"), "by hand").unwrap();
        let (code, _, stderr) =
            run(caption(dir.path(), &output).args(["--sidecar", "txt", "--if-exists", "overwrite"]));
        assert!(code == 0 && stderr.contains("2 of 2 files are done"), "{stderr}");
        assert_eq!((text(&dir.path().join("b.txt")), names(place.path())), ("by hand".into(), vec![name.to_owned()]));
        let (_, stdout, _) = run(&mut caption(&dir.path().join("a.png"), &[]));
        assert_eq!(text(&dir.path().join("a.txt")), stdout, "{name}");
    }
}

#[test]
fn what_does_not_fit_together_is_said_before_anything_is_done() {
    let dir = folder();
    image::open(&samples()[1]).unwrap().save(dir.path().join("a.webp")).unwrap();
    let shared = caption(dir.path(), &["--sidecar", "txt"]).output().unwrap();
    let stderr = String::from_utf8(shared.stderr).unwrap();
    assert!(stderr.contains("would share the sidecar") && stderr.contains("--sidecar-name full"), "{stderr}");
    assert_eq!((shared.status.code(), names(dir.path()).len()), (Some(1), 3));
    let (code, _, stderr) = run(&mut caption(dir.path(), &["--sidecar", "txt", "--sidecar-name", "full"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(dir.path().join("a.webp.txt").exists() && dir.path().join("a.png.txt").exists());
    for wrong in [&["--if-exists", "append"][..], &["--sidecar-name", "full"], &["-o", "-"], &["--sidecar", "doc"]] {
        assert_eq!(run(&mut caption(dir.path(), wrong)).0, 2, "{wrong:?}");
    }
    let picture = dir.path().join("a.png");
    fails(caption(&picture, &["--sidecar", "txt", "-o"]).arg(dir.path().join("a.txt")), 1, &["would go over"]);
}

/// Root may write everywhere, but nobody may write into a folder where a file should be.
#[test]
fn a_sidecar_that_cannot_be_written_is_told_and_tried_again() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.jsonl");
    fs::create_dir(dir.path().join("a.txt")).unwrap();
    let with = ["--sidecar", "txt,json", "--if-exists", "overwrite", "-o", out.to_str().unwrap()];
    let results = || -> Vec<Value> { text(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    let (code, _, stderr) = run(&mut caption(dir.path(), &with));
    assert!(code == 1 && stderr.contains("1 captioned, 1 failed"), "{stderr}");
    assert!(stderr.contains("a.png: cannot write") && stderr.contains("a.txt: it is a folder"), "{stderr}");
    let failed = results().into_iter().find(|r| r["file"].as_str().unwrap().ends_with("a.png")).unwrap();
    assert!(failed["caption"].is_string() && failed["error"].as_str().unwrap().contains("it is a folder"), "{failed}");
    assert!(dir.path().join("a.json").exists() && dir.path().join("b.txt").exists());
    assert!(place.path().join("out.jsonl.steps").exists(), "it is taken up");
    fs::remove_dir(dir.path().join("a.txt")).unwrap();
    let (code, _, stderr) = run(&mut caption(dir.path(), &with));
    assert!(code == 0 && stderr.contains("1 of 2 files are done, and 1 begun"), "{stderr}");
    assert!(results().len() == 2 && results().iter().all(|r| r["error"].is_null()));
    assert_eq!(names(place.path()), ["out.jsonl"]);
}

#[cfg(unix)]
#[test]
fn protected_pictures_are_not_written_into() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder();
    let mode = |name: &str, mode| fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("a.png", 0o444);
    mode("b.jpg", 0o640);
    let before = fs::read(dir.path().join("a.png")).unwrap();
    let (code, stdout, stderr) = run(&mut caption(dir.path(), &["--embed-xmp"]));
    assert_eq!((code, stdout.lines().count()), (1, 2), "{stderr}");
    assert!(stderr.contains("a.png: cannot write the caption into it: it is read-only"), "{stderr}");
    assert!(fs::read(dir.path().join("a.png")).unwrap() == before);
    assert_eq!(fs::metadata(dir.path().join("b.jpg")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(dir.path()), ["a.png", "b.jpg"]);
}
