//! The command from end to end with the bundled pack, and with everything that can be wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use assert_cmd::Command;
use common::{demo, fails, mils, pack, run, samples};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn caption(file: &Path) -> Command {
    let mut command = mils();
    command.args(["caption", "--backend", "cpu"]).arg(file);
    command
}

#[test]
fn text_mode_prints_the_caption_alone_and_the_same_seed_prints_the_same() {
    let sample = &samples()[0];
    let (code, first, stderr) = run(caption(sample).args(["--steps", "3", "--seed", "5"]));
    assert_eq!((code, first.lines().count()), (0, 1), "{stderr}");
    assert!(mils_demo_caption(first.trim()), "{first}");
    assert_eq!(stderr, "", "nothing but the caption where stderr is no terminal");
    let (_, second, _) = run(caption(sample).args(["--steps", "3", "--seed", "5"]));
    assert_eq!(first, second);
}

/// Loosely the shape of a caption of the demo world.
fn mils_demo_caption(text: &str) -> bool {
    let words = text.split_whitespace().count();
    (3..30).contains(&words) && text == text.trim() && !text.contains("<|")
}

#[test]
fn json_trace_and_report_tell_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, report) = (dir.path().join("t.jsonl"), dir.path().join("r.html"));
    let two = &samples()[..2];
    let mut command = caption(&two[0]);
    command.arg(&two[1]).args([
        "--format",
        "json",
        "--steps",
        "2",
        "--keep",
        "6",
        "--propose",
        "10",
        "--temperature",
        "1.3",
    ]);
    let (code, stdout, stderr) = run(command.arg("--trace").arg(&trace).arg("--report").arg(&report));
    assert_eq!(code, 0, "{stderr}");
    let results: Vec<Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(results.len(), 2);
    for (result, file) in results.iter().zip(two) {
        assert_eq!(result["file"], file.display().to_string());
        assert!(result["score"].as_f64().unwrap().abs() <= 1.0001);
        assert!(result["steps"].as_u64().unwrap() <= 2);
        assert_eq!(result["settings"]["keep"], 6);
        assert_eq!(result["temperature"], 1.3, "as it was written");
        assert_eq!(result["models"]["backend"], "cpu");
        for key in ["scored", "cache_hits", "unusable", "prompt_tokens", "reused_tokens", "generated_tokens"] {
            assert!(result["counts"][key].is_u64(), "{key}");
        }
        for key in ["load", "input", "generate", "score", "total"] {
            assert!(result["seconds"][key].as_f64().unwrap() >= 0.0, "{key}");
        }
        assert!(result["counts"]["reused_tokens"].as_u64().unwrap() > 0, "the prompt's prefix is kept");
    }
    let records: Vec<Value> =
        fs::read_to_string(&trace).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|r| r["type"] == kind).count();
    assert_eq!((of("run"), of("file"), of("end"), of("failed")), (1, 2, 2, 0));
    let scored: u64 = results.iter().map(|r| r["counts"]["scored"].as_u64().unwrap()).sum();
    let unusable: u64 = results.iter().map(|r| r["counts"]["unusable"].as_u64().unwrap()).sum();
    assert_eq!((of("scored") as u64, of("unusable") as u64), (scored, unusable), "nothing is dropped in silence");
    for result in &results {
        let end = records.iter().find(|r| r["type"] == "end" && r["file"] == result["file"]).unwrap();
        assert_eq!(end["caption"], result["caption"]);
    }
    let html = fs::read_to_string(&report).unwrap();
    for result in &results {
        assert!(html.contains(result["caption"].as_str().unwrap()));
    }
    assert!(html.contains("data:image/jpeg;base64,") && !html.contains("://"), "the report loads nothing");
}

#[test]
fn a_bad_file_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.png");
    fs::write(&bad, "not a picture").unwrap();
    let mut command = caption(&bad);
    let (code, stdout, stderr) = run(command.arg(&samples()[0]).args(["--steps", "1"]));
    assert_eq!((code, stdout.lines().count()), (1, 1), "{stderr}");
    assert!(stdout.contains('\t') && stderr.contains("bad.png: not a picture"));
}

#[test]
fn json_has_a_line_for_every_file_and_a_picture_given_twice_is_the_same_twice() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.png");
    fs::write(&bad, "not a picture").unwrap();
    let sample = &samples()[0];
    let mut command = caption(sample);
    let missing = dir.path().join("missing.png");
    command.arg(&bad).arg(&missing).arg(sample).args(["--steps", "2", "--format", "json"]);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 1, "{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let files: Vec<&str> = lines.iter().map(|l| l["file"].as_str().unwrap()).collect();
    assert_eq!(files, [sample, &bad, &missing, sample].map(|p| p.to_str().unwrap()));
    for (line, fails) in lines.iter().zip([false, true, true, false]) {
        assert_eq!((line["error"].is_string(), line["caption"].is_string()), (fails, !fails), "{line}");
    }
    assert_eq!(lines[0]["caption"], lines[3]["caption"]);
    let score = |i: usize| lines[i]["score"].as_f64().unwrap();
    assert!((score(0) - score(3)).abs() < 1e-4, "{} {}", score(0), score(3));
    // Alone, too.
    let (code, stdout, _) = run(caption(&bad).args(["--format", "json"]));
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert!(code == 1 && line["error"].as_str().unwrap().contains("not a picture"));
}

#[test]
fn files_in_flight_are_captioned_as_alone_and_printed_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.png");
    fs::write(&bad, "not a picture").unwrap();
    let mut files = samples();
    files.insert(2, bad.clone());
    let trace = dir.path().join("t.jsonl");
    let all = |in_flight: &str| -> Vec<Value> {
        let mut command = mils();
        command.args(["caption", "--backend", "cpu", "--steps", "2", "--propose", "8", "--format", "json"]);
        command.args(["--in-flight", in_flight, "--trace"]).arg(&trace).args(&files);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, 1, "{stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("bad.png: not a picture"), "{stderr}");
        assert!(lines[1].contains("captioned, 1 failed in"), "{stderr}");
        stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let (alone, together) = (all("1"), all("4"));
    for lines in [&alone, &together] {
        assert!(lines.iter().map(|l| l["file"].as_str().unwrap()).eq(files.iter().map(|f| f.to_str().unwrap())));
    }
    for (one, other) in alone.iter().zip(&together) {
        assert_eq!(one["caption"], other["caption"]);
        assert_eq!(one["error"], other["error"]);
        if one["caption"].is_string() {
            let score = |l: &Value| l["score"].as_f64().unwrap();
            assert!((score(one) - score(other)).abs() < 1e-4, "{one} {other}");
            assert_eq!((&one["in_flight"], &other["in_flight"]), (&1.into(), &4.into()));
            for line in [one, other] {
                let share = |of: &str| line["utilisation"][of].as_f64().unwrap();
                assert!((0.05..=1.0).contains(&share("generator")), "{line}");
                assert!(share("scorer") > 0.0 && share("scorer") <= 1.0, "{line}");
            }
        }
    }
    // The trace is mixed, and every line of it says whose it is.
    let records: Vec<Value> =
        fs::read_to_string(&trace).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&records[0]["type"], &records[0]["in_flight"]), (&"run".into(), &4.into()));
    let total = records.last().unwrap();
    assert_eq!((&total["type"], &total["files"]), (&"total".into(), &files.len().into()));
    assert!(total["utilisation"]["generator"].as_f64().unwrap() > 0.05, "{total}");
    for line in together.iter().filter(|l| l["caption"].is_string()) {
        let of = |kind: &str| records.iter().filter(|r| r["file"] == line["file"] && r["type"] == kind).count();
        assert_eq!((of("file"), of("end"), of("step")), (1, 1, 3), "{}", line["file"]);
        let counts = &line["counts"];
        assert_eq!((&of("scored").into(), &of("unusable").into()), (&counts["scored"], &counts["unusable"]));
    }
    let of_bad: Vec<&Value> = records.iter().filter(|r| r["file"] == bad.to_str().unwrap()).collect();
    assert_eq!(of_bad.iter().map(|r| r["type"].as_str().unwrap()).collect::<Vec<_>>(), ["file", "failed"]);
    // Instructions are the same for all: most files find them computed.
    let reused = together.iter().filter(|l| l["counts"]["reused_tokens"].as_u64().is_some_and(|n| n > 20)).count();
    assert_eq!(reused, files.len() - 1);
}

#[test]
fn the_number_of_sequences_can_be_given() {
    let of = |sequences: &[&str]| {
        let mut command = caption(&samples()[0]);
        command.args(["--steps", "1", "--propose", "20", "--format", "json"]).args(sequences);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["sampling"]["sequences"].as_u64().unwrap()
    };
    assert_eq!(of(&["--sequences", "3"]), 3);
    // Left alone, it is at most as many as there are answers to write.
    assert!((1..=20).contains(&of(&[])));
}

/// Fails after a while instead of waiting forever.
fn run_within(command: &mut Command) -> (i32, String, String) {
    run(command.timeout(Duration::from_secs(120)))
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_no_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for file in [&pipe, Path::new("/dev/zero"), Path::new("/dev/null")] {
        let (code, stdout, stderr) = run_within(&mut caption(file));
        assert_eq!((code, &stdout[..], stderr.lines().count()), (1, "", 1), "{stderr}");
        assert!(stderr.contains("not a regular file"), "{stderr}");
    }
    let (code, _, stderr) = run_within(caption(&samples()[0]).args(["--pack", "/dev/zero"]));
    assert!(code == 1 && stderr.contains("/dev/zero: is not a file"), "{stderr}");
}

#[test]
fn outputs_do_not_go_over_inputs_or_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("a.png");
    fs::copy(&samples()[0], &picture).unwrap();
    let before = fs::read(&picture).unwrap();
    let link = dir.path().join("link.png");
    fs::hard_link(&picture, &link).unwrap();
    let roundabout = dir.path().join("..").join(dir.path().file_name().unwrap()).join("a.png");
    for flag in ["--report", "--trace"] {
        for output in [&picture, &link, &roundabout] {
            if cfg!(unix) || *output != link {
                let (code, stdout, stderr) = run(caption(&picture).arg(flag).arg(output));
                assert_eq!((code, &stdout[..]), (2, ""), "{stderr}");
                assert!(stderr.contains(flag) && stderr.contains("overwrite"), "{stderr}");
            }
        }
    }
    let both = dir.path().join("both");
    let (code, _, stderr) = run(caption(&picture).arg("--report").arg(&both).arg("--trace").arg(&both));
    assert!(code == 2 && stderr.contains("same file") && !both.exists(), "{stderr}");
    assert_eq!(fs::read(&picture).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_report_goes_into_a_device_and_through_a_link_not_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("link.html"), dir.path().join("target.html"));
    fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let null = dir.path().join("null.html");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    for report in [&link, &null] {
        assert_eq!(run(caption(&samples()[0]).args(["--steps", "0", "--report"]).arg(report)).0, 0);
        assert!(report.is_symlink());
    }
    assert!(fs::read_to_string(&target).unwrap().contains("<html"));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_the_trace_and_not_the_caption() {
    let (code, stdout, stderr) = run(caption(&samples()[0]).args(["--steps", "1", "--trace", "/dev/full"]));
    assert_eq!((code, stdout.lines().count(), stderr.lines().count()), (1, 1, 1), "{stderr}");
    assert!(stderr.starts_with("mils: cannot write the trace /dev/full"), "{stderr}");
}

/// A command with its output to a place that takes none.
fn into(stdout: std::process::Stdio, arguments: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mils"));
    command.args(["caption", "--pack", "demo", "--backend", "cpu", "--steps", "1"]).arg(&samples()[0]).args(arguments);
    let output = command.stdout(stdout).stderr(std::process::Stdio::piped()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(into(writer.into(), &[]), (0, String::new()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_printed_is_an_error_and_the_report_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("r.html");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, stderr) = into(full.into(), &["--quiet", "--report", report.to_str().unwrap()]);
    assert!(code == 1 && stderr.starts_with("mils: cannot print the result"), "{stderr}");
    assert!(report.exists() && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn without_steps_the_best_of_the_initial_set_is_printed() {
    let initial = fs::read_to_string(demo().join("pack/initial.txt")).unwrap();
    let (code, stdout, stderr) = run(caption(&samples()[0]).args(["--steps", "0"]));
    assert!(code == 0 && initial.lines().any(|l| l == stdout.trim()), "{stdout}{stderr}");
}

#[test]
fn bad_pictures_are_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let png = fs::read(&samples()[0]).unwrap();
    // A valid header that claims 60,000 x 60,000 pixels.
    let mut bomb = png[..33].to_vec();
    bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    bomb.extend(&png[33..]);
    for (path, says) in [
        (dir.path().join("missing.png"), "no such file"),
        (at("empty.png", b""), "empty"),
        (at("cut.png", &png[..png.len() / 2]), "truncated"),
        (at("text.jpg", b"hello"), "looks like text"),
        (at("doc.png", b"%PDF-1.7"), "PDF"),
        (at("bomb.png", &bomb), "more than the limit"),
    ] {
        let name = path.display().to_string();
        fails(&mut caption(&path), 1, &[&name, says]);
    }
}

/// CRC-32 as PNG has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["caption"][..],
        &["caption", "x.png", "--backend", "tpu"],
        &["caption", "x.png", "--keep", "0"],
        &["caption", "x.png", "--keep", "-1"],
        &["caption", "x.png", "--propose", "0"],
        &["caption", "x.png", "--steps", "1000000"],
        &["caption", "x.png", "--in-flight", "0"],
        &["caption", "x.png", "--in-flight", "many"],
        &["caption", "x.png", "--sequences", "0"],
        &["caption", "x.png", "--sequences", "256"],
        &["caption", "x.png", "--temperature", "hot"],
        &["caption", "x.png", "--temperature", "-1"],
        &["caption", "x.png", "--temperature", "NaN"],
        &["caption", "x.png", "--temperature", "inf"],
        &["describe", "x.png"],
        &[],
    ] {
        assert_eq!(run(mils().args(arguments)).0, 2, "{arguments:?}");
    }
    let help = run(mils().args(["caption", "--help"])).1;
    assert!(help.contains("Examples:") && help.contains("\"error\""), "{help}");
}

#[test]
fn bad_packs_are_named_in_one_line() {
    let sample = &samples()[0];
    let with = |pack: &Path| {
        let mut command = caption(sample);
        command.arg("--pack").arg(pack);
        command
    };
    fails(caption(sample).args(["--pack", "nonsense"]), 1, &["no pack `nonsense`", "demo"]);
    let damage = |change: &dyn Fn(&Path), says: &[&str]| {
        let dir = pack();
        change(dir.path());
        fails(&mut with(dir.path()), 1, says);
    };
    let remove = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| move |dir: &Path| fs::write(dir.join(name), text).unwrap();
    damage(&remove("pack.toml"), &["pack.toml", "no such pack file"]);
    damage(&remove("generator.gguf"), &["incomplete", "generator.gguf"]);
    damage(&remove("initial.txt"), &["incomplete", "initial.txt"]);
    damage(&remove("clip/tokenizer.json"), &["tokenizer.json", "missing"]);
    damage(&remove("clip/config.json"), &["config.json", "missing"]);
    damage(&remove("clip/model.safetensors"), &["model.safetensors", "missing"]);
    damage(&write("pack.toml", "name = 3"), &["pack.toml", "line 1"]);
    damage(&write("initial.txt", "\n"), &["initial.txt", "no texts"]);
    damage(&write("generator.gguf", "This is no model."), &["generator.gguf", "not a GGUF"]);
    damage(&write("generator.gguf", "GG"), &["generator.gguf", "not a GGUF"]);
    damage(&write("clip/config.json", "{"), &["config.json", "JSON"]);
    damage(&write("clip/config.json", r#"{"model_type": "bert"}"#), &["config.json", "bert"]);
    damage(&write("clip/model.safetensors", "x"), &["model.safetensors", "safetensors"]);
    damage(
        &|dir| {
            let file = dir.join("generator.gguf");
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["generator.gguf", "damaged"],
    );
    damage(&|dir| edit_gguf(dir, "\x05\0\0\0\0\0\0\0llama", "\x05\0\0\0\0\0\0\0llamy"), &["generator.gguf", "`llamy`"]);
    damage(&|dir| edit_gguf(dir, "tokenizer.chat_template", "tokenizer.chat_templete"), &["no chat template"]);
    damage(&|dir| edit_gguf(dir, "tokenizer.ggml.model", "tokenizer.ggml.modul"), &["generator.gguf", "no tokenizer"]);
    damage(
        &|dir| {
            let file = dir.join("clip/model.safetensors");
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["model.safetensors", "not a complete"],
    );
}

/// Rewrites a text in the generator's header with one as long.
fn edit_gguf(dir: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let file = dir.join("generator.gguf");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(&file, bytes).unwrap();
}

/// Rewrites the tensors' names and shapes in a safetensors header.
fn edit_header(dir: &Path, from: &str, to: &str) {
    let file = dir.join("clip/model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    assert!(header.contains(from), "{from} is not in the header");
    let header = header.replacen(from, to, 1);
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + length..]);
    fs::write(&file, out).unwrap();
}

#[test]
fn tensors_that_are_missing_left_over_or_misshapen_are_named() {
    // Whatever shape the bundled model has: a figure of its configuration, changed by so much.
    let whole: Value = serde_json::from_slice(&fs::read(demo().join("pack/clip/config.json")).unwrap()).unwrap();
    let figure = |place: &str| whole.pointer(place).unwrap().as_i64().unwrap();
    let config = |dir: &Path, place: &str, by: i64| {
        let mut changed = whole.clone();
        *changed.pointer_mut(place).unwrap() = (figure(place) + by).into();
        fs::write(dir.join("clip/config.json"), changed.to_string()).unwrap();
    };
    let layers = "/text_config/num_hidden_layers";
    let damage = |change: &dyn Fn(&Path), says: &[&str]| {
        let dir = pack();
        change(dir.path());
        fails(caption(&samples()[0]).arg("--pack").arg(dir.path()), 1, says);
    };
    damage(
        &|d| edit_header(d, "\"text_projection.weight\"", "\"text_projektion.weight\""),
        &["text_projektion.weight", "do not belong"],
    );
    let width = figure("/projection_dim");
    let (found, expected) = (width.to_string(), (width - 1).to_string());
    damage(&|d| config(d, "/projection_dim", -1), &["projection", "should be", &expected, &found]);
    let (last, next) = (format!("layers.{}", figure(layers) - 1), format!("layers.{}", figure(layers)));
    damage(&|d| config(d, layers, 1), &[&next, "is missing"]);
    damage(&|d| config(d, layers, -1), &[&last, "do not belong"]);
}

#[test]
fn a_gpu_that_is_not_there_is_said() {
    let mut command = mils();
    command.args(["caption", "--backend", "gpu"]).arg(&samples()[0]);
    let nowhere = "/nonexistent.json";
    command.env("VK_DRIVER_FILES", nowhere).env("VK_ICD_FILENAMES", nowhere);
    if cfg!(target_os = "linux") {
        fails(&mut command, 1, &["--backend gpu", "no GPU was found"]);
    }
    // Left to itself the program takes the CPU then, and says why.
    let auto = |variable: &str, value: &str| {
        let mut auto = mils();
        auto.args(["caption", "--verbose", "--steps", "0"]).arg(&samples()[0]);
        let (code, _, stderr) = run(auto.env("VK_ICD_FILENAMES", nowhere).env(variable, value));
        assert_eq!(code, 0, "{stderr}");
        stderr
    };
    if cfg!(target_os = "linux") {
        assert!(auto("VK_DRIVER_FILES", nowhere).contains("encoder on the CPU (no GPU was found)"));
        assert!(
            auto("WGPU_BACKEND", "metal").contains("encoder on the CPU (no GPU was found through WGPU_BACKEND=metal")
        );
    }
}

#[test]
fn an_unwritable_report_or_trace_is_said() {
    // Known before the models are loaded: with a pack that cannot be, the output is what is complained of.
    let pack = pack();
    fs::write(pack.path().join("generator.gguf"), "This is no model.").unwrap();
    for (flag, file, says) in [
        ("--trace", "/nonexistent/t.jsonl", "cannot write the trace"),
        ("--report", "/nonexistent/r.html", "cannot write the report"),
    ] {
        fails(caption(&samples()[0]).args([flag, file]).arg("--pack").arg(pack.path()), 1, &[says]);
    }
    // And what an earlier run left is not lost to a run that never began.
    let trace = pack.path().join("t.jsonl");
    fs::write(&trace, "old").unwrap();
    fails(caption(&samples()[0]).arg("--trace").arg(&trace).arg("--pack").arg(pack.path()), 1, &["not a GGUF"]);
    assert_eq!(fs::read_to_string(&trace).unwrap(), "old");
    let mut command = caption(&samples()[0]);
    assert_eq!(run(command.args(["--steps", "0", "--trace"]).arg(&trace)).0, 0);
    assert!(fs::read_to_string(&trace).unwrap().lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
}
