//! Ctrl-C: the best so far is printed, and the trace and the report are finished.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::samples;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than anything here should take, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Ends the process when a test fails.
struct Mils(Child);

impl Drop for Mils {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Mils {
    fn interrupt(&self) {
        assert!(Command::new("kill").arg("-INT").arg(self.0.id().to_string()).status().unwrap().success());
    }

    /// What was printed by the end, which must be that of an interrupted run.
    fn results(&mut self) -> Vec<Value> {
        assert_eq!(self.wait().code(), Some(130));
        let mut stdout = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it goes on after Ctrl-C");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The demo pack, made to go on until it is stopped.
fn endless_pack(dir: &Path) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let definition = fs::read_to_string(models.join("packs/demo.toml")).unwrap();
    let root = format!("root = '{}'", models.join("demo/pack").canonicalize().unwrap().display());
    let mut changed = 0;
    let mut change = |line: &str| {
        let new =
            [("root =", &root[..]), ("patience =", "patience = 0")].into_iter().find(|(of, _)| line.starts_with(of));
        changed += usize::from(new.is_some());
        new.map_or(line, |(_, new)| new).to_owned()
    };
    let lines: Vec<String> = definition.lines().map(&mut change).collect();
    assert_eq!(changed, 2, "{definition}");
    fs::write(dir.join("pack.toml"), lines.join("\n")).unwrap();
}

/// Starts captioning two samples, so many at a time; gives its lines on stderr as they come.
fn start(dir: &Path, in_flight: &str) -> (Mils, Receiver<String>) {
    endless_pack(dir);
    let pictures = samples();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    command.env("MILS_CACHE", "off");
    command.args(["caption", "--backend", "cpu", "--steps", "10000", "--verbose", "--pack"]).arg(dir);
    command.arg("--trace").arg(dir.join("t.jsonl")).arg("--report").arg(dir.join("r.html"));
    command.args(&pictures[..2]).args(["--format", "json", "--in-flight", in_flight]);
    let mut child = command.env("NO_COLOR", "1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (to, lines) = channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
    (Mils(child), lines)
}

fn wait_for(lines: &Receiver<String>, begin: &str) {
    let mut seen = String::new();
    while !seen.lines().any(|l| l.starts_with(begin)) {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => seen += &format!("{line}\n"),
            Err(e) => panic!("no line begins with {begin:?} ({e}):\n{seen}"),
        }
    }
}

#[test]
fn ctrl_c_ends_a_run_with_the_best_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let (mut mils, lines) = start(dir.path(), "1");
    wait_for(&lines, "step 1 ");
    mils.interrupt();
    let results = mils.results();
    // The second picture must not have been begun.
    let [result] = &results[..] else { panic!("one result is expected: {results:?}") };
    assert_eq!((&result["interrupted"], &result["stopped_by"]), (&true.into(), &"interrupted".into()));

    let trace = fs::read_to_string(dir.path().join("t.jsonl")).unwrap();
    let records: Vec<Value> = trace.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|r| r["type"] == kind).collect::<Vec<_>>();
    let [end] = of("end")[..] else { panic!("one end is expected: {trace}") };
    let (scored, unusable) = (of("scored"), of("unusable"));
    assert_eq!(end["caption"], result["caption"]);
    assert_eq!(records[records.len() - 1]["type"], "total");
    let counts = &end["counts"];
    assert_eq!(counts["scored"], scored.len(), "every scored text is in the trace");
    assert_eq!(counts["unusable"], unusable.len(), "and every other");
    let score = |r: &Value| r["score"].as_f64().unwrap();
    let best = scored.iter().map(|r| score(r)).fold(f64::MIN, f64::max);
    assert_eq!(score(result), best, "the best so far");

    let report = fs::read_to_string(dir.path().join("r.html")).unwrap();
    assert!(report.contains("interrupted") && report.contains(result["caption"].as_str().unwrap()));
    assert!(report.trim_end().ends_with("</html>"));
}

#[test]
fn ctrl_c_ends_all_runs_in_flight_with_their_best_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let (mut mils, lines) = start(dir.path(), "2");
    // Tables of several files begin with their names.
    let mut begun = [false, false];
    while begun.contains(&false) {
        let line = lines.recv_timeout(PATIENCE).unwrap();
        for (i, name) in ["1-", "2-"].into_iter().enumerate() {
            begun[i] |= line.contains(&format!("/{name}")) && line.contains(" step 1 ");
        }
    }
    mils.interrupt();
    let results = mils.results();
    let names: Vec<&str> = results.iter().map(|r| r["file"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names[0].contains("/1-") && names[1].contains("/2-"), "{names:?}");
    assert!(results.iter().all(|r| r["interrupted"] == true && r["caption"].is_string()), "{results:?}");
    let trace = fs::read_to_string(dir.path().join("t.jsonl")).unwrap();
    let records: Vec<Value> = trace.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for result in &results {
        let of = |kind: &str| records.iter().filter(|r| r["type"] == kind && r["file"] == result["file"]).count();
        assert_eq!(result["counts"]["scored"], of("scored"), "every scored text is in the trace");
        assert_eq!(result["counts"]["unusable"], of("unusable"), "and every other");
        assert_eq!(of("end"), 1);
    }
    assert!(fs::read_to_string(dir.path().join("r.html")).unwrap().trim_end().ends_with("</html>"));
}

#[test]
fn ctrl_c_while_the_models_load_ends_without_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let (mut mils, lines) = start(dir.path(), "1");
    wait_for(&lines, "loading the language model");
    mils.interrupt();
    let status = mils.wait();
    let mut stdout = String::new();
    mils.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let said: Vec<String> = lines.iter().collect();
    // A machine may be quick enough to have begun; then there is a best.
    assert_eq!(status.code(), Some(130), "{said:?}");
    assert!(stdout.lines().count() <= 1 && !said.iter().any(|l| l.starts_with("mils:")), "{stdout}{said:?}");
}

#[test]
fn a_second_ctrl_c_ends_it_at_once_whatever_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    // Something that takes calls and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", silent.local_addr().unwrap());
    let (asked, was_asked) = channel();
    std::thread::spawn(move || {
        let mut calls = Vec::new();
        while let Ok((call, _)) = silent.accept() {
            calls.push(call);
            let _ = asked.send(());
        }
    });
    let out = dir.path().join("out.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mils"));
    command.env("MILS_CACHE", "off").args(["caption", "--pack", "demo", "--backend", "cpu", "--generator", &url]);
    command.args(["--generator-model", "any", "-o"]).arg(&out).arg(&samples()[0]);
    let mut mils = Mils(command.stderr(Stdio::null()).spawn().unwrap());
    was_asked.recv_timeout(PATIENCE).unwrap();
    mils.interrupt();
    std::thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    // It may have ended already.
    if mils.0.try_wait().unwrap().is_none() {
        mils.interrupt();
    }
    assert_eq!(mils.wait().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(fs::read_to_string(&out).unwrap_or_default().is_empty(), "nothing was done");
}
