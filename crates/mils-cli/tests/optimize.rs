//! `mils optimize`: the documented example, one objective and two, scorers that fail, and searches that are killed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{fails, mils, run, serve};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

/// How many words a text has, and how many times the letter e; what was asked goes into `asked`.
const WORDS: &str = r#"
while read -r line; do
    [ -n "$line" ] || continue
    echo "$line" >> asked
    id=${line#*:} id=${id%%,*}
    text=${line#*\"text\":\"} text=${text%\"\}}
    set -- $text
    e=$(printf %s "$text" | tr -cd e | wc -c)
    SAY
done
"#;

/// A folder with a task and its scorer, which says `say` of each text.
fn task(say: &str, more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("scorer.sh"), WORDS.replace("SAY", say)).unwrap();
    let text = format!(
        "about = 'few words'\n[generator]\nlines = 1\nsequences = 2\n[scorer]\ncommand = ['sh', 'scorer.sh']\ntimeout = 0.5\nbatch = 5\n\
         [initial]\ntexts = ['a big red car, at night', 'two cats', 'two  cats', 'the sea and the evening breeze']\n{more}"
    );
    fs::write(dir.path().join("task.toml"), text).unwrap();
    dir
}

const ONE: &str = r#"echo "{\"id\":$id,\"score\":$#}""#;
const TWO: &str = r#"echo "{\"id\":$id,\"scores\":{\"words\":$#,\"e\":$e}}""#;
const OBJECTIVES: &str =
    "[[objectives]]\nname = 'words'\ngoal = 'minimise'\n[[objectives]]\nname = 'e'\nweight = 0.25\n";
const LOOP: &str = "[loop]\nsteps = 4\nkeep = 6\npropose = 8\nasks = 1\npatience = 0\n";

fn optimize(folder: &Path, url: &str, more: &[&str]) -> assert_cmd::Command {
    let mut command = mils();
    command.current_dir(folder).env_remove("MILS_PACK");
    command.args(["optimize", "--config", "task.toml", "--generator", url, "--generator-model", "x"]).args(more);
    command
}

fn result(command: &mut assert_cmd::Command) -> (Value, String) {
    let (code, out, errors) = run(command.args(["--format", "json"]));
    assert_eq!(code, 0, "{errors}");
    (serde_json::from_str(&out).unwrap(), errors)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/optimize/captions.toml")
}

#[test]
fn the_documented_example_finds_what_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let command = |more: &[&str]| {
        let mut command = mils();
        command.current_dir(dir.path()).args(["optimize", "-o", "out", "--backend", "cpu", "--config"]);
        command.arg(example()).args(more);
        command
    };
    let (found, _) = result(&mut command(&[]));
    assert!(found["score"].as_f64() > found["first_score"].as_f64().map(|first| first + 0.9), "{found}");
    assert!(found["scores"]["wanted"].as_f64() >= Some(3.0), "{found}");
    let best = found["text"].as_str().unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    assert_eq!(read("best.txt"), format!("{best}\n"));
    assert!(!dir.path().join("out/result.jsonl.steps").exists());
    let records: Vec<Value> = read("trace.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|r| r["type"] == kind).count();
    assert_eq!((of("run"), of("end")), (1, 1));
    assert_eq!(of("scored") as u64, found["counts"]["scored"].as_u64().unwrap());
    assert_eq!(of("unusable") as u64, found["counts"]["unusable"].as_u64().unwrap());
    assert_eq!(records[0]["task"]["objectives"][1], "minimise words (weight 0.05, to 8)");
    mils().current_dir(dir.path()).args(["report", "out/trace.jsonl", "-o", "again.html"]).assert().success();
    for page in [read("report.html"), fs::read_to_string(dir.path().join("again.html")).unwrap()] {
        assert!(page.contains(best) && page.contains("How the text came to be") && page.contains("sh captions.sh"));
        assert!(!page.contains("cannot be shown") && !page.contains("cosine"), "{page}");
    }
    // The same again is there already; another search is not written over it.
    let (again, errors) = result(&mut command(&[]));
    assert_eq!((&again["kept"], errors.contains("has it already")), (&found["kept"], true));
    let (code, _, errors) = run(&mut command(&["--seed", "9"]));
    assert!(code == 1 && errors.contains("--overwrite"), "{errors}");
}

#[test]
fn less_is_better_where_it_is_to_be() {
    let dir = task(ONE, &format!("[[objectives]]\nname = 'length'\ngoal = 'minimise'\n{LOOP}"));
    let (found, _) = result(&mut optimize(dir.path(), &serve(), &[]));
    assert_eq!((&found["text"], &found["scores"]), (&json!("two cats"), &json!({"length": 2.0})));
    assert_eq!(found["score"], -2.0);
    let kept: Vec<f64> =
        found["kept"].as_array().unwrap().iter().map(|k| k["scores"]["length"].as_f64().unwrap()).collect();
    assert!(kept.len() == 6 && kept.is_sorted(), "{kept:?}");
    // Nothing is left beside what was there.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // With a target that is reached at once, nobody is asked for more.
    let dir = task(ONE, &format!("[[objectives]]\nname = 'length'\ngoal = 'minimise'\ntarget = 2\n{LOOP}"));
    let (found, _) = result(&mut optimize(dir.path(), &serve(), &[]));
    assert_eq!((&found["stopped_by"], &found["steps"]), (&json!("target"), &json!(0)));
}

#[test]
fn of_two_objectives_no_kept_text_is_beaten_in_both() {
    let dir = task(TWO, &format!("{OBJECTIVES}{LOOP}"));
    let (found, _) = result(&mut optimize(dir.path(), &serve(), &["-o", "out"]));
    let pair = |text: &Value| (text["scores"]["words"].as_f64().unwrap(), text["scores"]["e"].as_f64().unwrap());
    let all = |name: &str| found[name].as_array().unwrap().iter().map(pair).collect::<Vec<_>>();
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 >= b.1 && a != b;
    let (front, kept) = (all("front"), all("kept"));
    assert!(!front.iter().any(|&a| kept.iter().any(|&b| beats(b, a))), "{front:?} {kept:?}");
    assert!(front.contains(&pair(&found)) && front.len() > 1, "{front:?}");
    // Of all that was scored, none that no other beats is left out while beaten ones are kept.
    let trace = fs::read_to_string(dir.path().join("out/trace.jsonl")).unwrap();
    let records = trace.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let scored: Vec<(f64, f64)> = records
        .filter(|record| record["type"] == "scored")
        .map(|record| (-record["objectives"][0].as_f64().unwrap(), record["objectives"][1].as_f64().unwrap()))
        .collect();
    let free: HashSet<String> =
        scored.iter().filter(|&&a| !scored.iter().any(|&b| beats(b, a))).map(|pair| format!("{pair:?}")).collect();
    let has: HashSet<String> = front.iter().map(|pair| format!("{pair:?}")).collect();
    assert_eq!(free, has);
    let sum = pair(&found).1 * 0.25 - pair(&found).0;
    assert!((found["score"].as_f64().unwrap() - sum).abs() < 1e-6, "{found}");
}

#[test]
fn a_scorer_that_dies_hangs_and_talks_nonsense_costs_only_what_it_failed_for() {
    let say = r#"case $text in
        *evening*) exit 3 ;; *red*) echo 'no red here' >&2; exit 4 ;; *turtle*) sleep 60 ;; *pink*) echo "{\"id\":$id,\"score\":NaN}" ;;
        *) echo "{\"id\":$id,\"score\":$#}" ;; esac"#;
    let dir = task(say, LOOP);
    let (found, errors) = result(&mut optimize(dir.path(), &serve(), &["-o", "out"]));
    assert!(found["scorer"]["started"].as_u64() > Some(2), "{found}");
    for says in [
        "\"the sea and the evening breeze\" has no score: the scorer failed on it: the scorer has died (exit status: 3",
        "it said last: no red here",
        "given no answer in 0.5 s",
        "its score is no number",
    ] {
        assert!(errors.contains(says), "{says} is not in {errors}");
    }
    assert!(!errors.contains("panicked"));
    let kept = found["kept"].to_string();
    assert!(found["kept"].as_array().unwrap().len() == 6);
    assert!(!["evening", "red", "turtle", "pink"].iter().any(|word| kept.contains(word)), "{kept}");
    let page = fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(page.contains("its scorer failed"));
}

#[test]
fn what_cannot_work_is_said_in_one_line() {
    let dir = task(ONE, "");
    let url = serve();
    for (change, with, says) in [
        ("'sh', 'scorer.sh'", "'./none'", "cannot be started"),
        ("'sh', 'scorer.sh'", "'sh', '-c', 'exit 9'", "exit status: 9"),
        ("timeout = 0.5", "timeout = -1", "`scorer.timeout`"),
        ("texts =", "text =", "unknown field"),
        ("about", "[about", "line 1"),
    ] {
        let good = fs::read_to_string(dir.path().join("task.toml")).unwrap();
        fs::write(dir.path().join("task.toml"), good.replace(change, with)).unwrap();
        let (code, out, errors) = run(&mut optimize(dir.path(), &url, &[]));
        let last = errors.lines().last().unwrap_or_default();
        assert!(code == 1 && out.is_empty() && last.starts_with("mils: ") && last.contains(says), "{errors}");
        fs::write(dir.path().join("task.toml"), good).unwrap();
    }
    fails(mils().current_dir(dir.path()).args(["optimize", "--config", "none.toml"]), 1, &["none.toml", "--help"]);
    mils().arg("optimize").assert().code(2);
    let file = ["optimize", "--config", "task.toml", "-o", "task.toml"];
    mils().current_dir(dir.path()).args(file).assert().code(2);
}

fn begin(folder: &Path, url: &str) -> Child {
    Process::new(env!("CARGO_BIN_EXE_mils"))
        .current_dir(folder)
        .env("MILS_CACHE", "off")
        .args(["optimize", "--config", "task.toml", "--generator", url, "--generator-model", "x", "-o", "out", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until so many lines of steps are there.
fn wait(folder: &Path, lines: usize) {
    let steps = folder.join("out/result.jsonl.steps");
    let end = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(&steps).unwrap_or_default().lines().count() < lines && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_search_that_was_killed_goes_on_where_it_was() {
    let settings = format!("{OBJECTIVES}{}", LOOP.replace("steps = 4", "steps = 6"));
    let (whole, killed, url) = (task(TWO, &settings), task(TWO, &settings), serve());
    let (expected, _) = result(&mut optimize(whole.path(), &url, &["-o", "out"]));
    let mut child = begin(killed.path(), &url);
    // The header, the texts to begin with, and two steps.
    wait(killed.path(), 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let (found, errors) = result(&mut optimize(killed.path(), &url, &["-o", "out"]));
    assert!(errors.contains("going on after step"), "{errors}");
    for name in ["text", "score", "scores", "kept", "front", "steps", "counts", "stopped_by", "first_score"] {
        assert_eq!(found[name], expected[name], "{name}");
    }
    // What was scored was not asked for again, but for the step that was under way.
    let asked = |folder: &Path| fs::read_to_string(folder.join("asked")).unwrap();
    for text in ["two cats", "a big red car, at night"] {
        assert_eq!(asked(killed.path()).matches(&format!("\"{text}\"")).count(), 1, "{text}");
    }
    assert!(asked(killed.path()).lines().count() <= asked(whole.path()).lines().count() + 8);
}

#[test]
fn ctrl_c_prints_the_best_so_far_and_the_same_command_goes_on() {
    let settings = format!("{OBJECTIVES}{}", LOOP.replace("steps = 4", "steps = 200"));
    let (dir, url) = (task(TWO, &settings), serve());
    let child = begin(dir.path(), &url);
    wait(dir.path(), 3);
    assert!(Process::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let best = String::from_utf8(output.stdout).unwrap();
    assert_eq!(best.lines().count(), 1, "{best}");
    assert_eq!(fs::read_to_string(dir.path().join("out/best.txt")).unwrap(), best);
    assert!(dir.path().join("out/result.jsonl.steps").exists() && dir.path().join("out/report.html").exists());
}
