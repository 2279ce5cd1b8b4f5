//! `mils score`: cosines, the models' own scores, their order, and what can be wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use assert_cmd::Command;
use common::{conformance, demo, fails, mils, run, samples};
use serde_json::Value;
use std::fs;

const TEXTS: [&str; 4] = ["a clock", "two small purple castles at the bottom, at night", "a purple castle", "a clock"];

fn score(model: &str) -> Command {
    let mut command = mils();
    command.args(["score", "--backend", "cpu", "--model", model]);
    command
}

fn with_texts() -> Command {
    let mut command = score("demo");
    command.args(TEXTS.map(|text| format!("--text={text}")));
    command
}

fn json(command: &mut Command) -> (i32, Vec<Value>) {
    let (code, stdout, stderr) = run(command.args(["--format", "json"]));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (code, stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn results(line: &Value) -> &[Value] {
    line["results"].as_array().unwrap()
}

#[test]
fn probabilities_sum_to_1_best_first() {
    let (code, lines) = json(with_texts().args(samples()));
    assert_eq!((code, lines.len()), (0, samples().len()));
    for (line, file) in lines.iter().zip(samples()) {
        assert_eq!(line["file"], file.to_str().unwrap());
        assert_eq!((&line["model"], &line["calibration"]), (&"demo/clip".into(), &"softmax".into()));
        assert_eq!((line["texts"].as_u64(), results(line).len()), (Some(4), 4));
        let sum: f64 = results(line).iter().map(|r| number(&r["score"])).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        for pair in results(line).windows(2) {
            assert!(number(&pair[0]["cosine"]) >= number(&pair[1]["cosine"]));
            assert!(number(&pair[0]["score"]) >= number(&pair[1]["score"]));
        }
        // The same text scores the same, but for rounding, and the index finds each.
        let indices: Vec<usize> = results(line).iter().map(|r| r["index"].as_u64().unwrap() as usize).collect();
        let of = |index| indices.iter().position(|i| *i == index).map(|at| number(&results(line)[at]["cosine"]));
        assert!((of(0).unwrap() - of(3).unwrap()).abs() < 1e-5);
        assert!(results(line).iter().zip(&indices).all(|(r, i)| r["text"] == TEXTS[*i]));
    }
    assert_eq!(results(&lines[2])[0]["text"], TEXTS[1], "the castles");
    assert_eq!(results(&lines[3])[0]["text"], TEXTS[0], "the clock");
}

#[test]
fn the_best_of_many_texts_are_as_they_are_among_all() {
    let initial = demo().join("pack/initial.txt");
    let command = || {
        let mut command = score("demo");
        command.args(&samples()[..2]).arg("--texts-from").arg(&initial);
        command
    };
    let (_, all) = json(&mut command());
    let (_, best) = json(command().args(["--top", "5"]));
    for (all, best) in all.iter().zip(&best) {
        assert!(results(all).len() > 256, "more than are embedded together");
        assert_eq!(best["texts"].as_u64().unwrap() as usize, results(all).len());
        assert_eq!(results(best), &results(all)[..5]);
    }
    let (_, stdin) = json(command().args(["--texts-from", "-", "--top", "5"]).write_stdin("a"));
    assert!(stdin.is_empty(), "one file of texts only");
    let texts = fs::read_to_string(&initial).unwrap();
    let (_, stdin) = json(score("demo").args(&samples()[..2]).args(["--texts-from=-", "--top=5"]).write_stdin(texts));
    assert_eq!(stdin, best);
}

#[test]
fn scores_are_those_of_transformers() {
    let folder = conformance().join("siglip");
    let reference: Value = serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
    let theirs: Vec<Vec<f64>> = serde_json::from_value(reference["scores"].clone()).unwrap();
    let mut command = score(folder.to_str().unwrap());
    // Brought to the model's size by the reference: whatever differs is not the resizing's.
    command.args((0..5).map(|i| folder.join(format!("pixels{i}.png"))));
    let (code, lines) = json(command.args(texts.iter().map(|t| format!("--text={t}"))));
    assert_eq!((code, lines.len(), theirs.len()), (0, 5, 5));
    for (line, theirs) in lines.iter().zip(&theirs) {
        assert_eq!((&line["calibration"], results(line).len()), (&"sigmoid".into(), texts.len()));
        for result in results(line) {
            let expected = theirs[result["index"].as_u64().unwrap() as usize];
            let found = number(&result["score"]);
            assert!((found - expected).abs() < 1e-3 * expected.max(0.01), "{found} in place of {expected}");
            let logit = number(&result["cosine"]) * number(&line["logit_scale"]) + number(&line["logit_bias"]);
            assert!((found - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5, "by itself");
        }
    }
}

#[test]
fn tables_are_for_people() {
    let (code, stdout, stderr) = run(with_texts().arg(&samples()[3]).args(["--top", "1"]));
    assert_eq!((code, &stderr[..]), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["score", "cosine", "text"]);
    assert!(lines.len() == 2 && lines[1].ends_with("  a clock"), "{stdout}");
    let (_, stdout, _) = run(with_texts().args(samples()));
    for file in samples() {
        assert!(stdout.lines().any(|line| line == file.to_str().unwrap()), "{stdout}");
    }
}

#[test]
fn a_picture_that_cannot_be_read_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.png");
    fs::write(&bad, "not a picture").unwrap();
    let sample = &samples()[0];
    let (code, lines) = json(with_texts().args([sample, &bad, sample]));
    assert_eq!((code, lines.len()), (1, 3));
    assert!(lines[1]["file"] == bad.to_str().unwrap() && lines[1]["error"].as_str().unwrap().contains("not a picture"));
    assert_eq!(lines[0], lines[2]);
    fails(with_texts().arg(&bad), 1, &["bad.png", "not a picture"]);
    let (code, stdout, stderr) = run(with_texts().args([&bad, sample]));
    assert!(code == 1 && stdout.starts_with(sample.to_str().unwrap()) && stderr.lines().count() == 1, "{stdout}");
}

#[test]
fn what_is_missing_is_said() {
    let sample = samples()[0].to_str().unwrap().to_owned();
    for arguments in [
        &["--model", "demo", &sample][..],
        &["--model", "demo", "--text", "a"],
        &["--text", "a", &sample],
        &["--model", "demo", "--text", "a", "-"],
        &["--model", "demo", "--text", "a", &sample, "--top", "0"],
        &["--model", "demo", "--text", "a", &sample, "--top", "-1"],
    ] {
        let (code, stdout, stderr) = run(mils().arg("score").args(arguments));
        assert_eq!((code, &stdout[..]), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--help"), "{stderr}");
    }
    assert!(run(mils().args(["score", "--help"])).1.contains("Examples:"));
    fails(score("demo").args([&sample, "--texts-from", "-"]).write_stdin(""), 1, &["no texts to score"]);
    fails(score("demo").args([&sample, "--texts-from", "/nonexistent"]), 1, &["cannot read the texts /nonexistent"]);
    fails(score("nonsense").args([&sample, "--text", "a"]), 1, &["`nonsense`"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_without_a_result_also_while_it_waits_for_texts() {
    use std::io::{Read, Write};
    use std::process::Stdio;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mils"));
    command.args(["score", "--backend", "cpu", "--model", "demo", "--texts-from", "-"]).arg(&samples()[0]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: once it is written, texts are being read.
    for _ in 0..200 {
        stdin.write_all(format!("{}\n", "a red car ".repeat(100)).as_bytes()).unwrap();
    }
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!((child.wait().unwrap().code(), &printed[..]), (Some(130), ""));
    drop(stdin);
}
