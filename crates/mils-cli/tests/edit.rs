//! `mils edit`: offline with the demo pack, by VGG and by CLIP, with a language model behind an endpoint, and with a
//! renderer that fails for some instructions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{conformance, demo, mils};
use mils_cpu::Cpu;
use mils_encoder::VggFiles;
use mils_media::{DecodeLimits, RgbImage, decode_image};
use mils_optim::top_of_fronts;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};
use tiny_http::{Response, Server};

fn sample(name: &str) -> PathBuf {
    demo().join("samples").join(name).canonicalize().unwrap()
}

fn edit(folder: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = mils();
    command.current_dir(folder).env("MILS_HOME", folder.join("home")).arg("edit").arg(sample("3-castles.png"));
    command.args(["--backend", "cpu"]).args(more);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn result(command: &mut assert_cmd::Command) -> (Value, String) {
    let output = command.args(["--format", "json"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn picture(path: &Path) -> RgbImage {
    decode_image(path, &DecodeLimits::default()).unwrap()
}

fn records(folder: &Path) -> Vec<Value> {
    let trace = fs::read_to_string(folder.join("trace.jsonl")).unwrap();
    trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A chat model that writes numbered instructions, other ones each time it is asked.
fn writer() -> String {
    let server = Server::http("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    std::thread::spawn(move || {
        let words = ["blue ink lines", "soft green washes", "flat red print", "dark grey charcoal", "gold blocks"];
        while let Ok(mut request) = server.recv() {
            if request.url() == "/v1/models" {
                let _ = request.respond(Response::from_string(r#"{"data":[{"id":"writer"}]}"#));
                continue;
            }
            let mut body = String::new();
            request.as_reader().read_to_string(&mut body).unwrap();
            // What it says follows from what it is shown, so that a run that is taken up hears the same.
            let seed: usize = body.bytes().map(usize::from).sum();
            let said =
                |i: usize| format!("{}. redo it as {}, number {}", i + 1, words[(seed + i) % 5], (seed * 7 + i) % 40);
            let list: Vec<String> = (0..6).map(said).collect();
            let answer = json!({
                "choices": [{"index": 0, "message": {"role": "assistant", "content": list.join("\n")}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
            });
            let _ = request.respond(Response::from_string(answer.to_string()));
        }
    });
    url
}

#[test]
fn a_picture_gets_the_style_of_another_offline() {
    let dir = tempfile::tempdir().unwrap();
    let style = sample("1-umbrellas.png");
    let more = ["--style", style.to_str().unwrap(), "-o", "out.png", "--start", "40", "--finals", "4"];
    let (found, _) = result(&mut edit(dir.path(), &more));
    let folder = dir.path().join("out.search");
    let best = picture(&dir.path().join("out.png"));
    assert_eq!(best, picture(&folder.join("best.png")));
    assert_ne!(best, picture(&sample("3-castles.png")), "it was edited");
    let instruction = found["prompt"].as_str().unwrap();
    let bank = fs::read_to_string(demo().join("../banks/edit.txt")).unwrap();
    assert!(bank.lines().take(40).any(|line| line == instruction), "{instruction}");
    assert_eq!(found["wish"], "3-castles.png in the style of 1-umbrellas.png");
    assert_eq!(found["pictures"]["drawn"], 44);
    // Every instruction was judged by both, and the score is their sum; the best is the greatest.
    let all = records(&folder);
    let scored: Vec<&Value> = all.iter().filter(|record| record["type"] == "scored").collect();
    let mut most = f64::MIN;
    for record in &scored {
        let (score, objectives) = (record["score"].as_f64().unwrap(), record["objectives"].as_array().unwrap());
        let sum: f64 = objectives.iter().map(|o| o.as_f64().unwrap()).sum();
        assert!((score - sum).abs() < 1e-6, "{record}");
        most = most.max(score);
    }
    assert_eq!((scored.len(), found["prompt_score"].as_f64().unwrap()), (40, most));
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("<figcaption>content") && page.contains("<figcaption>style") && page.contains(instruction));
    // It is there already; a picture that was removed is put back; another style is not written over it.
    fs::remove_file(dir.path().join("out.png")).unwrap();
    let (again, said) = result(&mut edit(dir.path(), &more));
    assert!(again["prompt"] == found["prompt"] && said.contains("has it already"), "{said}");
    assert_eq!(picture(&dir.path().join("out.png")), best);
    let other = edit(dir.path(), &["--style-text", "a night", "-o", "out.png"]).output().unwrap();
    assert!(other.status.code() == Some(1) && text(&other.stderr).contains("--overwrite"));
    // By words, and as a JPEG.
    let more = ["--style-text", "a dark night", "-o", "night.jpg", "--start", "20", "--finals", "0"];
    let (found, _) = result(&mut edit(dir.path(), &more));
    assert_eq!(found["pictures"]["drawn"].as_u64().unwrap() + found["pictures"]["kept_before"].as_u64().unwrap(), 20);
    assert!(fs::read(dir.path().join("night.jpg")).unwrap().starts_with(&[0xff, 0xd8]));
}

/// Minus the weighted sum of the distances, by the encoder's own functions, of which conformance is tested elsewhere.
fn by_hand(path: &Path, content: &RgbImage, style: &RgbImage, weights: (f64, f64)) -> f64 {
    let mut vgg = VggFiles::open(&conformance().join("vgg")).unwrap().load(&Cpu::new()).unwrap();
    let [result, content, style] = [&picture(path), content, style].map(|picture| vgg.features(picture).unwrap());
    -(weights.0 * result.style_loss(&style) + weights.1 * result.content_loss(&content))
}

#[test]
fn by_vgg_with_a_language_model_what_is_beaten_in_both_goes_first_and_killed_runs_go_on() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (url, vgg, style) = (writer(), conformance().join("vgg"), sample("4-clock.png"));
    // All texts of a step in one answer: tiny_http may leave one of many connections that come at once without a thread.
    let pack = common::pack();
    let (definition, pack) = (pack.path().join("pack.toml"), pack.path().to_str().unwrap());
    fs::write(&definition, fs::read_to_string(&definition).unwrap().replace("lines = 1\n", "lines = 6\n")).unwrap();
    let more = [
        "--pack",
        pack,
        "--style",
        style.to_str().unwrap(),
        "--vgg",
        vgg.to_str().unwrap(),
        "-o",
        "out",
        "--generator",
        &url,
        "--instruction-like",
        "make it  a blue drawing",
        "--initial",
        "edit",
        "--start",
        "7",
        "--steps",
        "3",
        "--keep",
        "5",
        "--propose",
        "6",
        "--style-weight",
        "500",
        "--content-weight",
        "2",
        "--finals",
        "0",
        "--strength",
        "0.75",
        "--seeds",
        "2",
    ];
    let (found, _) = result(&mut edit(whole.path(), &more));
    let folder = whole.path().join("out");
    let all = records(&folder);
    assert_eq!(all[0]["drawing"]["settings"], "strength 0.75");
    let scored: Vec<&Value> = all.iter().filter(|record| record["type"] == "scored").collect();
    assert_eq!(scored[0]["text"], "make it a blue drawing", "the user's words come first");
    assert_eq!(scored.iter().filter(|record| record["step"] == 0).count(), 8);
    assert!(scored.iter().any(|record| record["step"] == 3));
    // The best picture's score is what the distances say.
    // Distances are from the content as the renderer was given it.
    let content = image::DynamicImage::from(picture(&sample("3-castles.png")));
    let content = content.resize_to_fill(144, 144, image::imageops::FilterType::CatmullRom).into_rgb8();
    let expected = by_hand(&folder.join("best.png"), &content, &picture(&style), (500.0, 2.0));
    let score = found["score"].as_f64().unwrap();
    assert!((score - expected).abs() < 1e-4 * expected.abs(), "{score} and {expected}");
    // What was kept after each step is what the fronts say; the mean of them is in the records.
    let mut kept: Vec<(String, f32, Vec<f32>)> = Vec::new();
    for step in all.iter().filter(|record| record["type"] == "step") {
        let new = scored.iter().filter(|record| record["step"] == step["step"]).map(|record| {
            let objectives = record["objectives"].as_array().unwrap().iter().map(|o| o.as_f64().unwrap() as f32);
            (
                record["text"].as_str().unwrap().to_owned(),
                record["score"].as_f64().unwrap() as f32,
                objectives.collect(),
            )
        });
        kept.extend(new);
        // In the order in which they came.
        let order: HashMap<&str, usize> =
            scored.iter().enumerate().map(|(i, record)| (record["text"].as_str().unwrap(), i)).collect();
        kept.sort_by_key(|text| order[text.0.as_str()]);
        let (scores, objectives): (Vec<f32>, Vec<Vec<f32>>) = kept.iter().map(|k| (k.1, k.2.clone())).unzip();
        kept = top_of_fronts(5, &scores, &objectives).into_iter().map(|i| kept[i].clone()).collect();
        let mean = kept.iter().map(|k| k.1).sum::<f32>() / kept.len() as f32;
        assert!((f64::from(mean) - step["mean_kept"].as_f64().unwrap()).abs() < 1e-4 * f64::from(mean.abs()), "{step}");
    }
    // Killed within its second step or later, and taken up.
    let mut child = Process::new(env!("CARGO_BIN_EXE_mils"));
    child.current_dir(killed.path()).env("MILS_HOME", killed.path().join("home"));
    child.arg("edit").arg(sample("3-castles.png")).args(["--backend", "cpu", "-q"]).args(more);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (steps, end) = (killed.path().join("out/result.jsonl.steps"), Instant::now() + Duration::from_secs(60));
    while fs::read_to_string(&steps).unwrap_or_default().lines().count() < 2 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (again, _) = result(&mut edit(killed.path(), &more));
    for name in ["prompt", "score", "steps", "counts", "stopped_by"] {
        assert_eq!(again[name], found[name], "{name}");
    }
    for name in ["best.png", "grid.png"] {
        assert_eq!(fs::read(killed.path().join("out").join(name)).unwrap(), fs::read(folder.join(name)).unwrap());
    }
}

/// An AUTOMATIC1111 that gives back what it is to edit, darker; of every third instruction a black picture.
fn automatic() -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let server = Server::http("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.server_addr().to_ip().unwrap());
    std::thread::spawn(move || {
        let mut count = 0;
        while let Ok(mut request) = server.recv() {
            if request.url() != "/sdapi/v1/img2img" {
                let body = if request.url().ends_with("/options") { "{}" } else { "[]" };
                let _ = request.respond(Response::from_string(body));
                continue;
            }
            let mut body = String::new();
            request.as_reader().read_to_string(&mut body).unwrap();
            let body: Value = serde_json::from_str(&body).unwrap();
            let source = STANDARD.decode(body["init_images"][0].as_str().unwrap()).unwrap();
            let mut picture = image::load_from_memory(&source).unwrap().into_rgb8();
            count += 1;
            let by = if count % 3 == 0 { 0 } else { 2 + count % 2 };
            picture.pixels_mut().for_each(|p| p.0 = p.0.map(|v| if by == 0 { 0 } else { v / by as u8 }));
            let data = STANDARD.encode(mils_render::to_png(&picture).unwrap());
            let _ = request.respond(Response::from_string(json!({"images": [data], "info": "{}"}).to_string()));
        }
    });
    url
}

#[test]
fn instructions_that_cannot_be_drawn_are_left_out_and_the_size_is_the_contents() {
    let dir = tempfile::tempdir().unwrap();
    let url = automatic();
    let content = dir.path().join("wide.png");
    let wide =
        image::imageops::resize(&picture(&sample("1-umbrellas.png")), 300, 100, image::imageops::FilterType::Triangle);
    wide.save(&content).unwrap();
    let mut command = mils();
    command.current_dir(dir.path()).env("MILS_HOME", dir.path().join("home")).args(["edit", "wide.png"]);
    let style = sample("4-clock.png");
    command.args([
        "--style",
        style.to_str().unwrap(),
        "-o",
        "out",
        "--start",
        "9",
        "--finals",
        "0",
        "--backend",
        "cpu",
    ]);
    command.args(["--renderer", &url, "--renderer-kind", "a1111"]);
    let (found, said) = result(&mut command);
    assert_eq!(found["pictures"]["failed"], 3, "{said}");
    assert_eq!(found["counts"]["scored"], 6);
    assert_eq!(said.matches("black all over").count(), 3, "{said}");
    // As many pixels as the pack's pictures have, in the content's proportions.
    let (width, height) = picture(&dir.path().join("out/best.png")).dimensions();
    assert_eq!((width % 8, height % 8), (0, 0));
    let area = f64::from(width * height) / f64::from(144 * 144);
    assert!((f64::from(width) / f64::from(height) - 3.0).abs() < 0.2 && (area - 1.0).abs() < 0.1, "{width}x{height}");
}

#[test]
fn what_is_wrong_is_told_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("broken.png"), "no picture").unwrap();
    fs::write(dir.path().join("empty.txt"), " \n").unwrap();
    let style = sample("4-clock.png");
    let style = style.to_str().unwrap();
    for (more, code, says) in [
        (&["-o", "out"][..], 2, "--style"),
        (&["--style", style, "-o", "broken.png", "--by", "vgg", "--scorer", "x"], 2, "--scorer is for"),
        (&["--style", "nowhere.png", "-o", "out"], 1, "nowhere.png"),
        (&["--style", "broken.png", "-o", "out"], 1, "broken.png"),
        (&["--style", style, "-o", "out", "--by", "vgg", "--vgg", "nowhere/"], 1, "--by clip"),
        (&["--style", style, "-o", "out", "--initial", "empty.txt"], 1, "holds no texts"),
        (&["--style-text", "a photo", "-o", "out"], 1, "sees no difference"),
        (&["--style", style, "-o", "out", "--guidance", "3"], 1, "cannot be told the guidance"),
    ] {
        let output = edit(dir.path(), more).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(says), "{more:?}: {said}");
        assert!(code == 2 || said.trim().lines().count() == 1, "{said}");
    }
}
