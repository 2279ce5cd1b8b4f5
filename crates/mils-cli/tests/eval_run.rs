//! `mils eval run` on a miniature COCO that is drawn for it: killed and taken up, in shares, and with what is missing.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, mils, run, serve};
use mils_demo_world::Split;
use mils_demo_world::coco::write_coco;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Six pictures, one of them cut off.
fn miniature(dir: &Path) -> PathBuf {
    let root = dir.join("coco");
    write_coco(&root, Split::HeldOut, 6, 3).unwrap();
    let damaged = root.join("val2014/COCO_val2014_000000000004.png");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 3]).unwrap();
    root
}

fn arguments(root: &Path, url: &str, output: &Path, more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = [
        "eval",
        "run",
        "coco",
        "--steps",
        "3",
        "--backend",
        "cpu",
        "--format",
        "json",
        "--generator-model",
        "m",
        // See `serve`.
        "--sequences",
        "4",
        "--generator",
        url,
    ]
    .map(str::to_owned)
    .to_vec();
    all.extend(["--root", root.to_str().unwrap(), "--output", output.to_str().unwrap()].map(str::to_owned));
    all.extend(more.iter().map(|m| (*m).to_owned()));
    all
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Captions by file, without what differs from run to run: times, and in which company the encoder worked.
fn captions(folder: &Path) -> BTreeMap<String, (Value, Value, Value)> {
    let lines = fs::read_to_string(folder.join("captions.jsonl")).unwrap();
    let one = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let name = Path::new(value["file"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
        (name, (value["caption"].clone(), value["score"].clone(), value["history"].clone()))
    };
    lines.lines().map(one).collect()
}

#[test]
fn a_data_set_is_captioned_scored_and_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let (root, url) = (miniature(dir.path()), serve());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let (code, stdout, stderr) = run(mils().args(arguments(&root, &url, &whole, &["--bootstrap", "50"])));
    // Something failed, and all else is there.
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("COCO_val2014_000000000004.png: "), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report, json(&whole.join("results.json")));
    assert_eq!((&report["items"], &report["of"], &report["failed"]), (&6.into(), &6.into(), &1.into()));
    let settings = &report["settings"];
    assert_eq!(
        (&settings["data"], &settings["split"], &settings["steps"]),
        (&"coco".into(), &"test".into(), &3.into())
    );
    assert!(settings["scorer"].as_array().unwrap().iter().all(|f| f["sha256"].as_str().unwrap().len() == 64));
    assert_eq!(report["published"][0]["system"], "MILS");
    let cost = &report["cost_of_a_sample"];
    for name in ["seconds", "texts_scored", "encoder_runs", "encoder_flops"] {
        assert!(cost[name].as_f64().unwrap() > 0.0, "{name}: {cost}");
    }
    // What failed scores 0 and is in the mean.
    let items: Vec<Value> = fs::read_to_string(whole.join("items.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(items.len(), 6);
    assert!(items[3]["error"].is_string() && items[3]["rouge-l"] == 0.0 && items[3]["cost"].is_null(), "{}", items[3]);
    let mean = items.iter().map(|i| i["rouge-l"].as_f64().unwrap()).sum::<f64>() / 6.0;
    assert!(mean > 0.0 && (mean - report["metrics"]["rouge-l"].as_f64().unwrap()).abs() < 1e-12);
    let table = fs::read_to_string(whole.join("table.md")).unwrap();
    assert!(table.contains("| MILS | ") && table.contains("arXiv:2501.18096"), "{table}");
    assert!(table.contains("6 of 6 items, 1 failed (they score 0)") && table.contains("A sample took "), "{table}");
    assert!(table.contains("Published rows are of all 5000 items"), "{table}");

    // Killed when something is kept, and taken up.
    let mut child = Command::new(env!("CARGO_BIN_EXE_mils"))
        .args(arguments(&root, &url, &killed, &["--bootstrap", "50"]))
        .env("MILS_PACK", "demo")
        .env("MILS_CACHE", "off")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (steps, begin) = (killed.join("captions.jsonl.steps"), Instant::now());
    while fs::read_to_string(&steps).map_or(0, |text| text.lines().count()) < 4 {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "too late to kill");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("results.json").exists());
    let (code, _, stderr) = run(mils().args(arguments(&root, &url, &killed, &["--bootstrap", "50"])));
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(captions(&killed), captions(&whole));
    assert_eq!(json(&killed.join("results.json"))["metrics"], report["metrics"]);

    // Other settings are another folder's.
    let other = arguments(&root, &url, &killed, &["--keep", "3"]);
    fails(mils().args(other), 1, &["was begun with another keep; name another folder"]);
}

#[test]
fn videos_and_sounds_are_found_as_their_data_sets_lay_them_out() {
    let dir = tempfile::tempdir().unwrap();
    let sample = |name: &str, to: &str| {
        let to = dir.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(common::demo().join("samples").join(name), to).unwrap();
    };
    sample("8-rooster.ogg", "clotho/evaluation/Rooster, far.wav");
    sample("9-dog-in-the-rain.mp3", "clotho/evaluation/dog.wav");
    let rows = "\"Rooster, far.wav\",a rooster crows,one rooster,a crow,a cock crows,crowing\n\
                    dog.wav,a dog barks in the rain,rain,a dog in the rain,a dog,barking\n";
    let header = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n";
    fs::write(dir.path().join("clotho/clotho_captions_evaluation.csv"), format!("{header}{rows}")).unwrap();
    sample("6-carrot-and-teapot.mp4", "msrvtt/TestVideo/video7010.mp4");
    sample("7-apple-and-duck.webp", "msrvtt/TestVideo/video7011.mp4");
    let sentence = |video: &str, caption: &str| serde_json::json!({"video_id": video, "caption": caption, "sen_id": 1});
    let info = serde_json::json!({
        "videos": [{"video_id": "video7010", "split": "test"}, {"video_id": "video7011", "split": "test"}],
        "sentences": [sentence("video7010", "a carrot and a teapot"), sentence("video7011", "an apple shrinks"),
            sentence("video7011", "a red duck moves to the left")],
    });
    fs::write(dir.path().join("msrvtt/test_videodatainfo.json"), info.to_string()).unwrap();
    for (data, words, published) in [("clotho", ["rooster", "dog"], "ZerAuCap"), ("msrvtt", ["teapot", "duck"], "MILS")]
    {
        let mut command = mils();
        command.current_dir(dir.path()).args(["eval", "run", data, "--root", data, "-o"]).arg(format!("out-{data}"));
        let (code, table, stderr) = run(command.args(["--backend", "cpu", "--steps", "1", "--bootstrap", "50"]));
        assert_eq!(code, 0, "{stderr}");
        assert!(table.contains(published) && table.contains("2 of 2 items, 0 failed"), "{table}");
        let results = json(&dir.path().join(format!("out-{data}/results.json")));
        assert!(results["metrics"]["cider"].as_f64() > Some(0.0), "{results}");
        // In the order of their files' names.
        let found = captions(&dir.path().join(format!("out-{data}")));
        let says = |((caption, ..), word): (&(Value, Value, Value), &str)| caption.as_str().unwrap().contains(word);
        assert!(found.values().zip(words).all(says), "{found:?}");
        // A file that is not there is named before any model is loaded.
        let (folder, file) = if data == "clotho" { ("evaluation", "dog.wav") } else { ("TestVideo", "video7011.mp4") };
        fs::remove_file(dir.path().join(data).join(folder).join(file)).unwrap();
        let mut command = mils();
        command.current_dir(dir.path()).args(["eval", "run", data, "--root", data, "-o", "other"]);
        fails(&mut command, 1, &["1 of 2 items", "--missing"]);
    }
}

#[test]
fn shares_make_one_and_a_limit_draws_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (root, url) = (miniature(dir.path()), serve());
    fs::remove_file(root.join("val2014/COCO_val2014_000000000004.png")).unwrap();
    // Another machine has it elsewhere.
    let elsewhere = dir.path().join("elsewhere");
    common::copy(&root, &elsewhere);
    let at = |name: &str| dir.path().join(name);
    let refused = arguments(&root, &url, &at("none"), &[]);
    fails(mils().args(refused), 1, &["1 of 6 items have no file in ", "val2014: `4`; --missing fail counts"]);
    for (share, root) in [("1/2", &root), ("2/2", &elsewhere)] {
        let folder = at(&share[..1]);
        let more = ["--missing", "leave-out", "--shard", share, "--metrics", "rouge-l"];
        let (code, _, stderr) = run(mils().args(arguments(root, &url, &folder, &more)));
        assert_eq!(code, 0, "{stderr}");
    }
    let (one, two) = (at("1").display().to_string(), at("2").display().to_string());
    let merged = ["--missing", "fail", "--metrics", "rouge-l", "--merge", &one, &two];
    let (code, stdout, stderr) = run(mils().args(arguments(&root, &url, &at("all"), &merged)));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("5 captions were taken over"), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["items"], &report["failed"]), (&6.into(), &1.into()));
    let mut shares = captions(&at("1"));
    shares.extend(captions(&at("2")));
    assert_eq!(captions(&at("all")), shares);
    let more =
        ["--missing", "leave-out", "--limit", "2", "--seed", "5", "--metrics", "rouge-l", "--initial-size", "40"];
    let (code, stdout, stderr) = run(mils().args(arguments(&root, &url, &at("few"), &more)));
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    // Drawn before it is known which files are missing: of any machine the same.
    let drawn = report["items"].as_u64().unwrap() + report["left_out"].as_u64().unwrap();
    assert_eq!((drawn, &report["of"]), (2, &6.into()));
    assert_eq!(fs::read_to_string(at("few/initial.txt")).unwrap().lines().count(), 40);
    let scored = captions(&at("few")).into_values().map(|(_, _, history)| history[0]["scored"].clone());
    assert!(scored.into_iter().all(|scored| scored == 40));
    let nothing = arguments(&at("nowhere"), &url, &at("nothing"), &[]);
    fails(mils().args(nothing), 1, &["coco (test) is not whole here: there is no dataset_coco.json"]);
}

#[test]
fn a_grid_is_run_drawn_and_not_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, url) = (dir.path().join("coco"), serve());
    write_coco(&root, Split::HeldOut, 2, 3).unwrap();
    let (grid, out) = (dir.path().join("grid.toml"), dir.path().join("out"));
    let text = format!(
        "[run]\ndata = 'coco'\nroot = '{}'\ngenerator = '{url}'\ngenerator-model = 'm'\nbackend = 'cpu'\nsteps = 2\n\
         metrics = ['bleu', 'cider']\nbootstrap = 20\n[axes]\nsteps = [0, 2]\ninitial-size = [30, 300]\n\
         feedback = ['true', 'none']\n",
        root.display()
    );
    fs::write(&grid, &text).unwrap();
    let plot = || {
        let mut command = mils();
        command.args(["eval", "plot"]).arg(&grid).arg("--output").arg(&out);
        command
    };
    let (code, stdout, stderr) = run(&mut plot());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("run 5 of 5"), "{stderr}");
    assert!(stdout.contains("| initial-size | score | bleu-4 | cider |"), "{stdout}");
    for name in ["steps", "initial-size", "initial-size-steps", "feedback", "feedback-steps"] {
        let svg = fs::read_to_string(out.join(format!("{name}.svg"))).unwrap();
        assert!(svg.contains("CIDEr-D") && svg.contains("score of the encoder"), "{name}");
        assert!(image::open(out.join(format!("{name}.png"))).unwrap().width() >= 480);
    }
    let figures = json(&out.join("figures.json"));
    let axes: Vec<&str> = figures["axes"].as_array().unwrap().iter().map(|a| a["axis"].as_str().unwrap()).collect();
    assert_eq!(axes, ["feedback", "initial-size", "steps"]);
    let last = figures["axes"][2]["runs"][0]["steps"].as_array().unwrap().last().unwrap().clone();
    let report = json(&out.join("runs/base/results.json"));
    assert_eq!(last["metrics"]["cider"]["value"], report["metrics"]["cider"], "the last step is what came out");
    // Nothing is run again; and folders that are there are drawn too.
    let captions_before = fs::read(out.join("runs/base/captions.jsonl")).unwrap();
    let (code, again, _) = run(&mut plot());
    assert_eq!((code, again), (0, stdout));
    assert_eq!(fs::read(out.join("runs/base/captions.jsonl")).unwrap(), captions_before);
    let mut folders = mils();
    folders.args(["eval", "plot", "--metrics", "rouge-l", "--format", "json", "--output"]).arg(dir.path().join("two"));
    let (code, stdout, stderr) = run(folders.arg(out.join("runs/base")).arg(out.join("runs/feedback=none")));
    assert_eq!(code, 0, "{stderr}");
    let figures: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(figures["axes"][0]["runs"][1]["value"], "feedback=none");
    assert!(dir.path().join("two/run-steps.png").is_file());
    fs::write(&grid, text.replace("keep", "kep").replace("steps = 2", "stops = 2")).unwrap();
    fails(&mut plot(), 1, &["grid.toml: unexpected argument '--stops'"]);
}
