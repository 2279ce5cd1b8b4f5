//! `mils eval`: the published values on COCO's demo, what failed, and what can be wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{demo, fails, mils, run, samples};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The captions of COCO's demo as two files, and the folder that they are in.
fn coco_demo() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mils-eval/tests/fixtures/captions.json.gz");
    let fixture = flate2::read::GzDecoder::new(fs::File::open(path).unwrap());
    let fixture: Value = serde_json::from_reader(fixture).unwrap();
    let items = fixture["sets"][0]["items"].as_array().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (candidates, references) = (dir.path().join("out.jsonl"), dir.path().join("refs.jsonl"));
    let lines = |of: &dyn Fn(&Value) -> Value| items.iter().map(|i| format!("{}\n", of(i))).collect::<String>();
    // As `mils caption -o` writes them.
    let file = |i: &Value| format!("val/COCO_val2014_{:012}.jpg", i["id"].as_u64().unwrap());
    fs::write(&candidates, lines(&|i| json!({"file": file(i), "caption": i["candidate"], "score": 0.5}))).unwrap();
    fs::write(&references, lines(&|i| json!({"id": i["id"], "references": i["references"]}))).unwrap();
    (dir, candidates, references)
}

fn captions_of(candidates: &Path, references: &Path) -> assert_cmd::Command {
    let mut command = mils();
    command.args(["eval", "captions", "--format", "json", "--candidates"]).arg(candidates);
    command.arg("--references").arg(references).env_remove("MILS_METEOR").env_remove("MILS_SPICE");
    command
}

#[test]
fn the_published_values_of_cocos_demo_come_out() {
    let (dir, candidates, references) = coco_demo();
    let items = dir.path().join("items.jsonl");
    let mut command = captions_of(&candidates, &references);
    command.args([
        "--metrics",
        "bleu,rouge-l,cider,cider-d,meteor,self-bleu,distinct",
        "--bootstrap",
        "50",
        "--per-item",
    ]);
    let (code, stdout, stderr) = run(command.arg(&items));
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let metric = |name: &str| report["metrics"][name].as_f64().unwrap();
    for (name, published) in [
        ("bleu-1", 0.579),
        ("bleu-2", 0.404),
        ("bleu-3", 0.279),
        ("bleu-4", 0.191),
        ("rouge-l", 0.396),
        ("cider", 0.600),
    ] {
        assert!((metric(name) - published).abs() < 5.1e-4, "{name}: {}", metric(name));
        let interval = &report["intervals_95"][name];
        assert!(interval[0].as_f64().unwrap() < metric(name) && interval[1].as_f64().unwrap() > metric(name));
    }
    assert_eq!(metric("cider"), metric("cider-d"));
    assert_eq!(report["bleu"]["correct"], json!([5732, 2510, 1043, 423]));
    assert_eq!(report["meteor"]["stages"], json!(["exact", "stem"]));
    assert!(stderr.contains("--meteor or MILS_METEOR"), "{stderr}");
    assert!(metric("distinct-1") > 0.0 && metric("distinct-1") < metric("distinct-4"));
    let lines = fs::read_to_string(&items).unwrap();
    assert_eq!(lines.lines().count(), 1000);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(first["id"] == "400" && first["rouge-l"].is_number() && first["self-bleu-4"].is_number(), "{first}");
}

#[test]
fn what_failed_counts_and_what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let references =
        file("refs.csv", "file_name,caption_1,caption_2\na.wav,rain falls,it rains\nb.wav,a dog barks,barking\n");
    let good = file(
        "a.jsonl",
        "{\"id\": \"a.wav\", \"caption\": \"Rain falls.\"}\n{\"file\": \"x/b.wav\", \"error\": \"damaged\"}\n",
    );
    let (code, stdout, _) = run(captions_of(&good, &references).args(["--metrics", "rouge-l"]));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["failed"], &report["items"]), (0, &json!(1), &json!(2)));
    assert_eq!(report["metrics"]["rouge-l"], json!(0.5));
    let twice = file("b.jsonl", "{\"id\": \"a.wav\", \"caption\": \"x\"}\n{\"id\": \"a.wav\", \"caption\": \"y\"}\n");
    fails(&mut captions_of(&twice, &references), 1, &["b.jsonl:2: `a.wav` is there twice, first in line 1"]);
    let less = file("c.jsonl", "{\"id\": \"a.wav\", \"caption\": \"x\"}\n");
    fails(&mut captions_of(&less, &references), 1, &["1 references have no candidate: `b.wav` (line 3)"]);
    let (code, stdout, _) = run(captions_of(&less, &references).args(["--mismatch", "leave-out"]));
    assert_eq!((code, serde_json::from_str::<Value>(&stdout).unwrap()["left_out"].clone()), (0, json!(1)));
    fails(captions_of(&good, &references).args(["--metrics", "spice"]), 1, &["--spice or MILS_SPICE"]);
    fails(captions_of(&good, &references).arg("--meteor").arg(dir.path()), 1, &["there is no meteor-1.5.jar in it"]);
    let over = file("d.jsonl", "");
    let (code, _, stderr) = run(captions_of(&over, &references).arg("--per-item").arg(&references));
    assert!(code == 2 && stderr.contains("--per-item would overwrite"), "{stderr}");
}

#[test]
fn two_systems_are_compared_on_the_same_items() {
    let (dir, candidates, references) = coco_demo();
    let worse = dir.path().join("worse.jsonl");
    let text = fs::read_to_string(&candidates).unwrap();
    fs::write(&worse, text.replace(" of a ", " ").replace("\"man ", "\"thing ")).unwrap();
    let mut command = mils();
    command.args(["eval", "compare", "--format", "json", "--metrics", "cider,bleu", "--samples", "100"]);
    command.arg(&candidates).arg(&worse).arg("--references").arg(&references);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    let cider = &serde_json::from_str::<Value>(&stdout).unwrap()["metrics"]["cider"];
    assert!(cider["difference"].as_f64().unwrap() < 0.0 && cider["p"].as_f64().unwrap() < 0.05, "{cider}");
    assert!(cider["interval"]["high"].as_f64().unwrap() < 0.0, "{cider}");
}

/// The embeddings of texts and files, by the command that embeds.
fn embedded(arguments: &[&str]) -> Vec<Vec<f64>> {
    let (code, stdout, stderr) = run(mils().args(["embed", "--model", "demo", "--backend", "cpu"]).args(arguments));
    assert_eq!(code, 0, "{stderr}");
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()["embedding"].clone();
    stdout.lines().map(|line| serde_json::from_value(row(line)).unwrap()).collect()
}

#[test]
fn clipscore_is_the_papers_formula_on_the_encoders_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let (candidates, references) = (dir.path().join("out.jsonl"), dir.path().join("refs.jsonl"));
    let samples = &samples()[..2];
    let name = |at: usize| samples[at].file_name().unwrap().to_str().unwrap().to_owned();
    let stem = |at: usize| samples[at].file_stem().unwrap().to_str().unwrap().to_owned();
    let captions = [json!({"id": stem(0), "caption": "a red car"}), json!({"file": name(1), "caption": "two cats"})];
    fs::write(&candidates, captions.iter().map(|c| format!("{c}\n")).collect::<String>()).unwrap();
    let texts = [["a green umbrella", "a car"], ["a cat and a turtle", "a red car"]];
    let lines = (0..2).map(|at| format!("{}\n", json!({"id": stem(at), "references": texts[at]})));
    fs::write(&references, lines.collect::<String>()).unwrap();
    let items = dir.path().join("items.jsonl");
    let folder = demo().join("samples");
    let score = |folder: &Path| {
        let mut command = captions_of(&candidates, &references);
        command.args(["--metrics", "clipscore,refclipscore,rouge-l", "--scorer", "demo", "--backend", "cpu"]);
        command.arg("--images").arg(folder).arg("--per-item").arg(&items);
        command
    };
    let (code, stdout, stderr) = run(&mut score(&folder));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("published ones are of openai/clip-vit-base-patch32"), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let files: Vec<&str> = samples.iter().map(|p| p.to_str().unwrap()).collect();
    let seen = embedded(&files);
    let said = |text: &str| embedded(&["--text", &format!("A photo depicts {text}")]).remove(0);
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut means = [0.0; 2];
    for (at, line) in fs::read_to_string(&items).unwrap().lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let caption = said(captions[at]["caption"].as_str().unwrap());
        let clip = 2.5 * cosine(&seen[at], &caption).max(0.0);
        let best = texts[at].iter().map(|t| cosine(&said(t), &caption)).fold(0.0, f64::max);
        let with = 2.0 * clip * best / (clip + best);
        for ((name, expected), mean) in [("clipscore", clip), ("refclipscore", with)].into_iter().zip(&mut means) {
            assert!((line[name].as_f64().unwrap() - expected).abs() < 1e-5, "{name}: {line} and not {expected}");
            *mean += expected / 2.0;
        }
    }
    for (name, mean) in ["clipscore", "refclipscore"].into_iter().zip(means) {
        assert!((report["metrics"][name].as_f64().unwrap() - mean).abs() < 1e-5, "{report}");
    }
    assert_eq!(report["clipscore"]["prefix"], "A photo depicts ");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let first = format!("2 items have no file in {}", empty.display());
    fails(&mut score(&empty), 1, &[&first, &stem(0)]);
    let mut without = captions_of(&candidates, &references);
    fails(without.args(["--metrics", "clipscore"]), 1, &["--images", "--scorer"]);
}
