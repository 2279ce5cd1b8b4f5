//! Folders into a file, killed and taken up again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, media, mils, run, samples, serve};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// Caption, error and steps: what does not depend on the clock.
type Told = (Option<String>, Option<String>, u64);

/// Results by file.
fn results(path: &Path) -> BTreeMap<String, Told> {
    let all: Vec<(String, Told)> = match path.extension().unwrap().to_str().unwrap() {
        "jsonl" => {
            let of = |line: &str| {
                let value: Value = serde_json::from_str(line).unwrap();
                let word = |key: &str| value[key].as_str().map(str::to_owned);
                (word("file").unwrap(), (word("caption"), word("error"), value["steps"].as_u64().unwrap_or_default()))
            };
            fs::read_to_string(path).unwrap().lines().map(of).collect()
        }
        "csv" => {
            let mut reader = csv::Reader::from_path(path).unwrap();
            let at = |name: &str, head: &csv::StringRecord| head.iter().position(|column| column == name).unwrap();
            let head = reader.headers().unwrap().clone();
            let of = |record: csv::StringRecord| {
                let word = |name: &str| Some(record[at(name, &head)].to_owned()).filter(|word| !word.is_empty());
                let steps = word("steps").map_or(0, |steps| steps.parse().unwrap());
                (word("file").unwrap(), (word("caption"), word("error"), steps))
            };
            reader.records().map(|record| of(record.unwrap())).collect()
        }
        _ => {
            let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
            let of = |row: parquet::record::Row| {
                let field = |name: &str| row.get_column_iter().find(|(column, _)| *column == name).unwrap().1.clone();
                let word = |name: &str| if let Field::Str(word) = field(name) { Some(word) } else { None };
                let steps = if let Field::Int(steps) = field("steps") { steps as u64 } else { 0 };
                (word("file").unwrap(), (word("caption"), word("error"), steps))
            };
            reader.get_row_iter(None).unwrap().map(|row| of(row.unwrap())).collect()
        }
    };
    let by_file: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(by_file.len(), all.len(), "each file once: {all:?}");
    by_file
}

fn spawn(folder: &Path, generator: &str, out: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    command.env("MILS_CACHE", "off");
    command.args(["caption", "--pack", "demo"]).arg(folder).args(["-r", "--quiet"]).args(SETTINGS).arg("-o").arg(out);
    command.args(["--generator", generator, "--generator-model", "same"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_what_an_undisturbed_one_has() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole.jsonl");
    let generator = serve();
    let begin = Instant::now();
    assert_eq!(spawn(dir.path(), &generator, &whole).wait().unwrap().code(), Some(1), "one file is damaged");
    let undisturbed = begin.elapsed();
    let expected = results(&whole);
    assert_eq!(expected.len(), samples().len() + 2);
    let failed: Vec<_> = expected.iter().filter(|(_, r)| r.1.is_some()).map(|(file, _)| file).collect();
    assert!(failed.len() == 1 && failed[0].ends_with("damaged.png"), "{expected:?}");
    for name in ["killed.jsonl", "killed.csv", "killed.parquet"] {
        let killed = place.path().join(name);
        let (mut kills, mut taken_up) = (0, 0);
        let steps = place.path().join(format!("{name}.steps"));
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
        eprintln!("{name}: killed {kills} times, {taken_up} times with steps to take up");
        assert!(kills >= 2 && taken_up >= 1, "{kills} {taken_up}");
        assert_eq!(results(&killed), expected, "{name}");
        assert!(!steps.exists() && !place.path().join(format!("{name}.jsonl")).exists(), "nothing else is left");
    }
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
        .env("MILS_CACHE", "off")
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

/// Ctrl-C, and a second one where the first is not enough.
#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done_and_the_same_command_goes_on() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let (whole, out) = (place.path().join("whole.parquet"), place.path().join("out.parquet"));
    let steps = place.path().join("out.parquet.steps");
    let generator = serve();
    spawn(dir.path(), &generator, &whole).wait().unwrap();
    let mut child = spawn(dir.path(), &generator, &out);
    let growing = place.path().join("out.parquet.jsonl");
    let captioned =
        || fs::read_to_string(&growing).unwrap_or_default().lines().filter(|l| l.contains("\"caption\"")).count();
    while captioned() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (all, done) = (results(&whole), results(&out));
    assert!(done.len() >= 2 && done.len() < all.len(), "{done:?}");
    assert!(steps.exists() && !growing.exists(), "the table is whole, and the rest can be taken up");
    assert_eq!(spawn(dir.path(), &generator, &out).wait().unwrap().code(), Some(1));
    assert_eq!(results(&out), all);
    assert!(!steps.exists());
}

#[test]
fn a_file_that_failed_leaves_no_steps() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.csv");
    let mut command = mils();
    command.arg("caption").arg(dir.path().join("damaged.png")).args(["--backend", "cpu", "-o"]).arg(&out);
    let (code, _, stderr) = run(&mut command);
    assert!(code == 1 && stderr.contains("damaged.png: "), "{stderr}");
    let files: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["out.csv"]);
    let found = results(&out);
    assert!(
        found.len() == 1 && found.values().all(|(caption, error, _)| caption.is_none() && error.is_some()),
        "{found:?}"
    );
}

#[test]
fn a_file_that_vanishes_does_not_stop_the_others() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.jsonl");
    let generator = serve();
    let mut child = spawn(dir.path(), &generator, &out);
    // The last of all, by the order of names.
    while fs::read_to_string(&out).unwrap_or_default().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    let gone = dir.path().join("more/film.gif");
    fs::remove_file(&gone).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let found = results(&out);
    assert_eq!(found.len(), samples().len() + 2);
    assert_eq!(found[&gone.display().to_string()].1.as_deref(), Some("no such file"), "{found:?}");
}

/// A file may have so many bytes and no more, which is what a full disk is to whoever writes it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_leaves_no_half_line() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.jsonl");
    let mils = env!("CARGO_BIN_EXE_mils");
    let mut shell = assert_cmd::Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh", mils, "caption", "-r"]).arg(dir.path());
    shell.args(["--pack", "demo", "--backend", "cpu", "--steps", "0", "-o"]).arg(&out);
    shell.env("MILS_CACHE", "off").env_remove("MILS_PACKS");
    let (code, _, stderr) = run(&mut shell);
    assert_eq!(code, 1, "{stderr}");
    let told: Vec<&str> = stderr.lines().filter(|line| line.contains("File too large")).collect();
    assert!(told.len() == 2 && told[0].contains("going on") && told[1].contains("lost"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let written = results(&out).len();
    assert!(written >= 1 && written < samples().len() + 2, "{written}");
    // With room again, the same command makes it whole.
    let mut again = common::mils();
    again.args(["caption", "-r"]).arg(dir.path()).args(["--backend", "cpu", "--steps", "0", "-o"]).arg(&out);
    let (code, _, stderr) = run(&mut again);
    assert_eq!((code, results(&out).len()), (1, samples().len() + 2), "one is damaged: {stderr}");
}

#[test]
fn what_became_of_all_files_is_told_to_programs_too() {
    let dir = folder();
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let generator = serve();
    let caption = |more: &[&str]| {
        let mut command = mils();
        command.arg("caption").arg(dir.path()).args(["-r", "--quiet", "--generator", &generator]).args(SETTINGS);
        command.args(["--generator-model", "same", "-o"]).arg(at("out.jsonl")).arg("--summary").arg(at("s.json"));
        command.args(more);
        command
    };
    let summary = || -> Value { serde_json::from_str(&fs::read_to_string(at("s.json")).unwrap()).unwrap() };
    assert_eq!(run(&mut caption(&[])).0, 1, "one file is damaged");
    let told = summary();
    let results: Vec<Value> =
        fs::read_to_string(at("out.jsonl")).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let captioned = results.iter().filter(|r| r["caption"].is_string()).count();
    let expected = serde_json::json!({
        "files": results.len(), "done_before": 0, "captioned": captioned, "failed": 1, "skipped": 0, "left": 0, "begun": 0,
        "interrupted": false, "in_flight": 2,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&told[key], value, "{key}: {told}");
    }
    for count in ["scored", "generated_tokens", "prompt_tokens", "unusable"] {
        let sum: u64 = results.iter().filter_map(|r| r["counts"][count].as_u64()).sum();
        assert_eq!(told["counts"][count], sum, "{count}");
    }
    assert!(
        told["seconds"].as_f64().unwrap() > 0.0 && told["utilisation"]["generator"].as_f64().unwrap() > 0.0,
        "{told}"
    );
    assert_eq!((&told["models"]["pack"], &told["models"]["generator"]), (&"demo".into(), &"same".into()));
    // What is done is not done again, and where nothing is left, no model is needed.
    fs::remove_file(dir.path().join("damaged.png")).unwrap();
    assert_eq!(run(&mut caption(&[])).0, 0);
    let told = summary();
    let counts = ["files", "done_before", "captioned", "failed", "left"].map(|key| told[key].as_u64().unwrap());
    assert_eq!((counts, &told["models"]), ([captioned as u64, captioned as u64, 0, 0, 0], &Value::Null));
    let nowhere = at("none/s.json");
    let mut command = mils();
    command.arg("caption").arg(&samples()[0]).arg("--summary").arg(&nowhere);
    fails(&mut command, 1, &[nowhere.to_str().unwrap()]);
}
