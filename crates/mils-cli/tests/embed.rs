//! `mils embed`: rows, formats, streams, and everything that can be wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use assert_cmd::Command;
use common::{conformance, demo, fails, mils, run, samples};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn embed(model: &str) -> Command {
    let mut command = mils();
    command.args(["embed", "--backend", "cpu", "--model", model]);
    command
}

fn rows_of(json: &str) -> Vec<Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn row(line: &Value) -> Vec<f32> {
    serde_json::from_value(line["embedding"].clone()).unwrap()
}

/// What a line is of.
fn label(line: &Value) -> &str {
    line["text"].as_str().or_else(|| line["file"].as_str()).unwrap()
}

/// Shape and values of an npy file, by NumPy's description of the format.
fn npy(bytes: &[u8]) -> (usize, usize, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(data % 64, 0);
    let header = std::str::from_utf8(&bytes[10..data]).unwrap();
    let shape = header.strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (").unwrap();
    let (shape, end) = shape.split_once("), }").unwrap();
    assert!(end.trim_matches(' ') == "\n");
    let (rows, dim) = shape.split_once(", ").unwrap();
    (rows.parse().unwrap(), dim.parse().unwrap(), floats(&bytes[data..]))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    values.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

/// Names in a folder: what is left there.
fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// 600 lines, more than are embedded together, with blank ones and repeats.
fn lines() -> Vec<String> {
    (0..600).map(|i| if i % 50 == 7 { String::new() } else { format!("{} red cars and a cat", i % 40) }).collect()
}

#[test]
fn rows_are_in_the_order_of_the_groups_and_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let texts = dir.path().join("texts.txt");
    fs::write(&texts, lines().join("\n")).unwrap();
    let pictures = &samples()[..3];
    // The groups stand the other way round on the command line.
    let command = |format: &str| {
        let mut command = embed("demo");
        command.args(pictures).arg("--texts-from").arg(&texts).args(["--text", "a purple castle", "--text", "x"]);
        command.args(["--format", format]);
        command
    };
    let (code, stdout, stderr) = run(&mut command("json"));
    assert_eq!((code, &stderr[..]), (0, ""), "nothing but rows where stderr is no terminal");
    let json = rows_of(&stdout);
    let files = pictures.iter().map(|p| p.display().to_string());
    let expected: Vec<String> =
        ["a purple castle".to_owned(), "x".into()].into_iter().chain(lines()).chain(files).collect();
    assert!(json.iter().map(label).eq(&expected));
    assert!(json[0]["text"].is_string() && json[604]["file"].is_string());
    let rows: Vec<Vec<f32>> = json.iter().map(row).collect();
    assert!(rows.iter().all(|r| (r.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4), "of length 1");
    let (one, again) = (rows[2 + 3].clone(), rows[2 + 43].clone());
    assert!(one.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-4), "the same text is the same row");

    // To a file and through a pipe.
    for name in ["out.json", "out.npy", "out.safetensors"] {
        let format = name.strip_prefix("out.").unwrap();
        let path = dir.path().join(name);
        fs::write(&path, "old").unwrap();
        let output = command(format).arg("--output").arg(&path).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert_eq!(command(format).args(["-o", "-"]).output().unwrap().stdout, fs::read(&path).unwrap(), "{name}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("out.json")).unwrap(), stdout);
    let (count, dim) = (rows.len(), rows[0].len());
    let flat = rows.concat();
    assert_eq!(npy(&fs::read(dir.path().join("out.npy")).unwrap()), (count, dim, flat.clone()));
    let bytes = fs::read(dir.path().join("out.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.names(), ["embeddings"]);
    let tensor = read.tensor("embeddings").unwrap();
    assert_eq!((tensor.shape(), floats(tensor.data())), (&[count, dim][..], flat));
    assert_eq!(names(dir.path()), ["out.json", "out.npy", "out.safetensors", "texts.txt"]);
}

#[test]
fn rows_are_those_of_transformers() {
    let folder = conformance().join("siglip");
    let reference: Value = serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let theirs = |of: &str| -> Vec<Vec<f32>> { serde_json::from_value(reference[of].clone()).unwrap() };
    let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
    let mut command = embed(folder.to_str().unwrap());
    command.args(texts.iter().map(|t| format!("--text={t}")));
    // Brought to the model's size by the reference: whatever differs is not the resizing's.
    command.args((0..5).map(|i| folder.join(format!("pixels{i}.png"))));
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    let ours: Vec<Vec<f32>> = rows_of(&stdout).iter().map(row).collect();
    let theirs = [theirs("text_embeds"), theirs("image_embeds")].concat();
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.99999, "row {i}: {cosine}");
    }
}

#[test]
fn texts_come_from_standard_input_and_may_be_none() {
    let (code, stdout, _) = run(embed("demo").args(["--texts-from", "-", "--text", "first"]).write_stdin("a\r\n\nb"));
    let lines = rows_of(&stdout);
    assert_eq!((code, lines.iter().map(label).collect::<Vec<_>>()), (0, vec!["first", "a", "", "b"]));
    let none = |format: &str| {
        let output = embed("demo").args(["--texts-from", "-", "--format", format]).write_stdin("").output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        output.stdout
    };
    assert!(none("json").is_empty());
    let dim = row(&lines[0]).len();
    assert_eq!(npy(&none("npy")), (0, dim, vec![]));
    let bytes = none("safetensors");
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.tensor("embeddings").unwrap().shape(), [0, dim]);
}

#[test]
fn a_picture_that_cannot_be_read_has_a_line_in_json_and_ends_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, missing, out) = (dir.path().join("bad.png"), dir.path().join("none.png"), dir.path().join("out"));
    fs::write(&bad, "not a picture").unwrap();
    let sample = &samples()[0];
    let command = |format: &str, second: &Path| {
        let mut command = embed("demo");
        command.args(["--text", "a", "--format", format]).args([sample, second, sample]);
        command
    };
    let (code, stdout, stderr) = run(&mut command("json", &bad));
    let lines = rows_of(&stdout);
    assert_eq!((code, lines.len()), (1, 4), "{stderr}");
    assert_eq!(stderr, format!("mils: {}: {}\n", bad.display(), lines[2]["error"].as_str().unwrap()));
    assert_eq!((label(&lines[2]), lines[2].get("embedding")), (bad.to_str().unwrap(), None));
    assert_eq!(row(&lines[1]), row(&lines[3]), "the same picture beside it");
    let (code, _, stderr) = run(command("json", &bad).arg("-o").arg(&out));
    assert_eq!((code, fs::read_to_string(&out).unwrap()), (1, stdout), "{stderr}");

    fs::write(&out, "old").unwrap();
    for (format, second, says) in [("npy", &bad, "not a picture"), ("safetensors", &missing, "no such file")] {
        let name = second.display().to_string();
        fails(&mut command(format, second), 1, &[&name, says]);
        fails(command(format, second).arg("-o").arg(&out), 1, &[&name, says]);
        assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    }
    assert_eq!(names(dir.path()), ["bad.png", "out"], "nothing is left beside it");
}

#[test]
fn texts_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let texts = dir.path().join("texts.txt");
    fs::write(&texts, b"a\nb\nna\xefve\n").unwrap();
    for (path, says) in [
        (&texts, "texts.txt: line 3 is not UTF-8"),
        (&dir.path().to_owned(), "it is a folder"),
        (&dir.path().join("none"), "cannot read the texts"),
    ] {
        fails(embed("demo").arg("--texts-from").arg(path), 1, &[says]);
    }
    if cfg!(unix) {
        fails(embed("demo").args(["--texts-from", "/dev/zero"]), 1, &["/dev/zero: line 1 is longer"]);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let texts = dir.path().join("texts.txt");
    fs::write(&texts, "a").unwrap();
    for arguments in [
        &["--model", "demo"][..],
        &["--text", "a"],
        &["--model", "", "--text", "a"],
        &["--model", "demo", "-"],
        &["--model", "demo", "--text", "a", "--format", "csv"],
        &["--model", "demo", "--text", "a", "--backend", "tpu"],
        &["--model", "demo", "--texts-from", texts.to_str().unwrap(), "-o", texts.to_str().unwrap()],
    ] {
        let (code, stdout, stderr) = run(mils().arg("embed").args(arguments));
        assert_eq!((code, &stdout[..]), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--help") && !stderr.contains("mils <COMMAND>"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(&texts).unwrap(), "a");
    let help = run(mils().args(["embed", "--help"])).1;
    assert!(help.contains("Examples:") && help.contains("in this order"), "{help}");
}

/// The demo encoder as the hub's cache would hold it.
fn cached(hub: &Path) {
    let model = hub.join("models--org--tiny-clip");
    let snapshot = model.join("snapshots/0123abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "0123abc").unwrap();
    for file in fs::read_dir(demo().join("pack/clip")).unwrap().map(|e| e.unwrap()) {
        fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
}

#[test]
fn models_are_found_by_folder_pack_and_id() {
    let hub = tempfile::tempdir().unwrap();
    cached(hub.path());
    let folder = demo().join("pack/clip");
    let bytes = |model: &str| {
        let mut command = embed(model);
        command.env("HF_HUB_CACHE", hub.path()).args(["--text", "a red car", "--format", "safetensors"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for (model, name) in [
        ("demo", "demo/clip"),
        (folder.to_str().unwrap(), "clip"),
        ("org/tiny-clip", "org/tiny-clip"),
        ("org/tiny-clip@0123abc", "org/tiny-clip@0123abc"),
    ] {
        let bytes = bytes(model);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["model"], name);
    }
    let fails = |model: &str, says: &[&str]| {
        fails(embed(model).env("HF_HUB_CACHE", hub.path()).args(["--text", "a"]), 1, says);
    };
    let place = hub.path().display().to_string();
    fails("org/other", &["org/other", &place, "models--org--other", "mils models get org/other", "checkpoint folder"]);
    fails("org/tiny-clip@v2", &["v2", "there is: 0123abc, main"]);
    fails("nonsense", &["`nonsense`", "demo", "ORG/NAME"]);
    fails("./nowhere", &["./nowhere is not there"]);
    fails(samples()[0].to_str().unwrap(), &["is no folder"]);
}

#[test]
fn outputs_that_cannot_be_written_are_known_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    for (path, says) in [(dir.path().join("none/out"), "cannot write to"), (dir.path().to_owned(), "it is a folder")] {
        let mut command = embed("demo");
        command.args(["--text", "a", "-o"]).arg(&path);
        fails(&mut command, 1, &[&path.display().to_string(), says]);
    }
}

/// Exit code and stderr with standard output to a place that takes none.
fn into(stdout: std::process::Stdio, format: &str) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mils"));
    command.args(["embed", "--backend", "cpu", "--model", "demo", "--text", "a", "--format", format]);
    let output = command.stdout(stdout).stderr(std::process::Stdio::piped()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
    for format in ["json", "npy"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(into(writer.into(), format), (0, String::new()));
        if cfg!(target_os = "linux") {
            let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let (code, stderr) = into(full.into(), format);
            assert!(code == 1 && stderr.starts_with("mils: cannot write to standard output: "), "{stderr}");
        }
    }
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, ChildStdin, Stdio};

    /// Starts embedding lines, of which some are there and more may come.
    fn start(arguments: &[&str], folder: &Path) -> (Child, ChildStdin) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mils"));
        command.args(["embed", "--backend", "cpu", "--model", "demo", "--texts-from", "-"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(folder);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines().join("\n").as_bytes()).unwrap();
        (child, stdin)
    }

    fn interrupt(child: &Child) {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    }

    #[test]
    fn whole_lines_are_out_before_the_input_ends_and_stay_after_ctrl_c() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, stdin) = start(&[], dir.path());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert_eq!(label(&serde_json::from_str(&first).unwrap()), lines()[0]);
        interrupt(&child);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        drop(stdin);
        assert!(rows_of(&rest).iter().map(label).eq(&lines()[1..=rest.lines().count()]));
    }

    #[test]
    fn no_half_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("out.npy"), "old").unwrap();
        let (mut child, stdin) = start(&["--format", "npy", "-o", "out.npy"], dir.path());
        // Once the file is being written.
        while names(dir.path()).len() < 2 {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        drop(stdin);
        assert_eq!(names(dir.path()), ["out.npy"]);
        assert_eq!(fs::read_to_string(dir.path().join("out.npy")).unwrap(), "old");
    }
}

#[test]
fn pictures_of_many_sizes_keep_their_order() {
    // More than are decoded together.
    let mut pictures: Vec<PathBuf> = (0..5).map(|i| conformance().join(format!("images/{i}.png"))).collect();
    for _ in 0..2 {
        pictures.extend(pictures.clone());
    }
    let naflex = conformance().join("siglip2-naflex");
    let (code, stdout, stderr) = run(embed(naflex.to_str().unwrap()).args(&pictures));
    assert_eq!(code, 0, "{stderr}");
    let lines = rows_of(&stdout);
    assert!(lines.iter().map(label).eq(pictures.iter().map(|p| p.to_str().unwrap())));
    for (i, line) in lines.iter().enumerate() {
        let cosines = lines[..5].iter().map(|other| row(line).iter().zip(row(other)).map(|(a, b)| a * b).sum::<f32>());
        let best = cosines.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert!(best.0 == i % 5 && best.1 > 0.9999, "picture {i} is most like {best:?}");
    }
}

#[test]
fn weights_are_held_in_the_precision_that_is_asked_for() {
    let of = |dtype: &[&str]| {
        let (code, stdout, stderr) =
            run(embed("demo").args(dtype).args(["--text", "a red car on the left", "--format", "json"]));
        assert_eq!(code, 0, "{stderr}");
        row(&rows_of(&stdout)[0])
    };
    // The bundled encoder is stored in f16: these are the same numbers.
    let stored = of(&[]);
    assert_eq!(of(&["--dtype", "f32"]).len(), stored.len());
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!(cosine(&stored, &of(&["--dtype", "f32"])) > 0.999_999);
    assert_eq!(of(&["--dtype", "f16"]), stored);
    let coarse = of(&["--dtype", "bf16"]);
    assert!(coarse != stored && cosine(&stored, &coarse) > 0.999);
    let (code, _, stderr) = run(embed("demo").args(["--dtype", "int8", "--text", "x"]));
    assert!(code == 2 && stderr.contains("bf16"), "{stderr}");
}

#[test]
fn fast_math_is_said_and_stays_near_the_exact_one() {
    let of = |math: &str| {
        let args = ["--math", math, "--text", "a red car on the left", "--format", "json"];
        let (code, stdout, stderr) = run(embed("demo").args(args));
        assert_eq!(code, 0, "{stderr}");
        row(&rows_of(&stdout)[0])
    };
    let (exact, fast) = (of("exact"), of("fast"));
    let cosine: f32 = exact.iter().zip(&fast).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.999, "{cosine}");
    // Only a CPU that is quick at dot products of bf16 is given another arithmetic.
    assert_eq!(exact != fast, mils_cpu::Cpu::bf16_is_faster());
}
