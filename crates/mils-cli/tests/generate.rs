//! `mils generate`: offline with the demo pack, killed and taken up, and with renderers that fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::mils;
use mils_render::{Demo, Job, Renderer, RgbImage, to_png};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tiny_http::{Response, Server};

const WISH: &str = "in the snow, a small blue duck to the right of a big red car";

/// The command with a memo of its own.
fn generate(folder: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = mils();
    command.current_dir(folder).env("MILS_HOME", folder.join("home"));
    command.args(["generate", WISH, "-o", "out", "--backend", "cpu"]).args(more);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn result(command: &mut assert_cmd::Command) -> Value {
    let output = command.args(["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join("out").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn the_demo_finds_a_wording_that_its_renderer_understands() {
    let dir = tempfile::tempdir().unwrap();
    let found = result(&mut generate(dir.path(), &[]));
    let score = |name: &str| found[name].as_f64().unwrap();
    assert!(score("score") > score("first_score") + 0.05, "{found}");
    assert_eq!(found["file"], WISH);
    let prompt = found["prompt"].as_str().unwrap();
    assert_eq!(text(&read(dir.path(), "prompt.txt")), format!("{prompt}\n"));
    // The picture is the prompt's, as the renderer draws it.
    let seed = found["seed"].as_u64().unwrap();
    let best = image::load_from_memory(&read(dir.path(), "best.png")).unwrap().into_rgb8();
    assert_eq!(best, Demo.render(&Job { width: 144, height: 144, seed, ..Job::new(prompt) }).unwrap());
    assert!(dir.path().join("out/steps/00.png").exists() && !dir.path().join("out/result.jsonl.steps").exists());
    let trace = text(&read(dir.path(), "trace.jsonl"));
    let records: Vec<Value> = trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|r| r["type"] == kind).count();
    // One picture a step, and one more where a last one was better than all of the search.
    let steps = found["steps"].as_u64().unwrap() as usize + 1;
    let pictures = steps + usize::from(found["score"] != found["prompt_score"]);
    assert_eq!((of("run"), of("end"), of("picture")), (1, 1, pictures));
    // As tiles in a square.
    let grid = image::load_from_memory(&read(dir.path(), "grid.png")).unwrap();
    let columns = (1..).find(|n| n * n >= pictures as u32).unwrap();
    assert_eq!(grid.width(), columns * 148 - 4);
    assert_eq!(of("scored") as u64, found["counts"]["scored"].as_u64().unwrap());
    assert_eq!(records[0]["drawing"]["prompt"], WISH);
    for page in [text(&read(dir.path(), "report.html")), {
        mils().current_dir(dir.path()).args(["report", "out/trace.jsonl", "-o", "again.html"]).assert().success();
        fs::read_to_string(dir.path().join("again.html")).unwrap()
    }] {
        assert!(page.contains(WISH) && page.contains(prompt) && page.contains("How the prompt came to be"));
        assert!(page.contains("demo world 1") && page.contains("<h3>Pictures</h3>"));
    }
    // The same again is there already; another wish is not written over it; anew costs no pictures.
    let again = result(&mut generate(dir.path(), &[]));
    assert_eq!(again["prompt"], found["prompt"]);
    let other = generate(dir.path(), &["--seed", "5"]).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("--overwrite"), "{}", text(&other.stderr));
    let anew = result(&mut generate(dir.path(), &["--overwrite"]));
    assert_eq!((&anew["prompt"], &anew["pictures"]["drawn"]), (&found["prompt"], &json!(0)));
    assert!(!read(dir.path(), "trace.jsonl").is_empty());
}

#[cfg(unix)]
#[test]
fn a_search_that_was_killed_goes_on_where_it_was() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let more = ["--seed", "4", "--memo-size", "0"];
    let expected = result(&mut generate(whole.path(), &more));
    let mut child = Process::new(env!("CARGO_BIN_EXE_mils"))
        .current_dir(killed.path())
        .env("MILS_PACK", "demo")
        .args(["generate", WISH, "-o", "out", "--backend", "cpu", "-q"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let steps = killed.path().join("out/result.jsonl.steps");
    let end = Instant::now() + Duration::from_secs(60);
    // Its second step is done.
    while fs::read_to_string(&steps).unwrap_or_default().lines().count() < 3 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = generate(killed.path(), &more).args(["--format", "json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(text(&output.stderr).contains("going on after step"), "{}", text(&output.stderr));
    for name in ["prompt", "score", "steps", "counts"] {
        assert_eq!(found[name], expected[name], "{name}");
    }
    assert_eq!(read(killed.path(), "best.png"), read(whole.path(), "best.png"));
    assert_eq!(read(killed.path(), "grid.png"), read(whole.path(), "grid.png"));
    // What was done was not drawn again, but for the pictures of the steps' best.
    let drawn = |value: &Value| value["pictures"]["drawn"].as_u64().unwrap();
    assert!(drawn(&found) < drawn(&expected), "{} of {}", drawn(&found), drawn(&expected));
}

/// An OpenAI-compatible server that draws the demo world; `blank` says what it blanks, and after so many pictures it
/// is gone.
fn server(blank: fn(usize) -> bool, most: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    let prompts = Arc::new(Mutex::new(Vec::new()));
    let (count, saw) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&prompts));
    for _ in 0..4 {
        let (server, count, saw) = (Arc::clone(&server), Arc::clone(&count), Arc::clone(&saw));
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                if request.url() == "/v1/models" {
                    let _ = request.respond(Response::from_string(r#"{"data":[{"id":"demo"}]}"#));
                    continue;
                }
                let mut body = String::new();
                request.as_reader().read_to_string(&mut body).unwrap();
                let body: Value = serde_json::from_str(&body).unwrap();
                let prompt = body["prompt"].as_str().unwrap().to_owned();
                let number = count.fetch_add(1, Ordering::SeqCst);
                if number >= most {
                    let _ = request.respond(Response::from_string("no credit").with_status_code(403));
                    continue;
                }
                let job = Job { width: 144, height: 144, ..Job::new(&prompt) };
                let picture = if blank(number) { RgbImage::new(144, 144) } else { Demo.render(&job).unwrap() };
                saw.lock().unwrap().push(prompt);
                let data =
                    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, to_png(&picture).unwrap());
                let _ = request.respond(Response::from_string(json!({"data": [{"b64_json": data}]}).to_string()));
            }
        });
    }
    (url, prompts)
}

#[test]
fn pictures_that_fail_are_left_out_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (url, prompts) = server(|number| number > 0 && number % 3 == 0, usize::MAX);
    let more = ["--renderer", url.as_str(), "--steps", "2", "--propose", "8", "--finals", "0", "--format", "json"];
    let output = generate(dir.path(), &more).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = found["pictures"]["failed"].as_u64().unwrap();
    let blanks = text(&output.stderr).matches("black all over").count() as u64;
    assert!(failed >= 4 && blanks == failed, "{failed} failed, {blanks} were told");
    let asked = prompts.lock().unwrap();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "nothing is drawn twice");
    assert_eq!(asked.len() as u64, found["counts"]["scored"].as_u64().unwrap() + failed);
    let page = text(&read(dir.path(), "report.html"));
    assert!(page.contains("could not be drawn, or its scorer failed"));
}

#[test]
fn a_renderer_that_is_gone_ends_the_search_and_what_there_is_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (url, _) = server(|_| false, 12);
    let more = ["--renderer", url.as_str(), "--steps", "3", "--propose", "8"];
    let output = generate(dir.path(), &more).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("ended early") && said.contains("best.png") && said.contains("MILS_API_KEY"), "{said}");
    assert!(!read(dir.path(), "best.png").is_empty());
    assert_eq!(text(&read(dir.path(), "result.jsonl.steps")).lines().count(), 2, "the first step is kept");
    let down = Server::http("127.0.0.1:0").unwrap().server_addr().to_ip().unwrap();
    let absent = format!("http://{down}/v1");
    let output = generate(dir.path(), &["--renderer", &absent]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("is the server up?"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn a_head_on_the_encoder_counts_with_its_weight() {
    let dir = tempfile::tempdir().unwrap();
    let head = |name: &str, width: usize, bias: f32| {
        let (weight, bias) = (vec![0_u8; 4 * width], bias.to_le_bytes());
        let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        let tensors = [("layers.0.weight", view(&[1, width], &weight)), ("layers.0.bias", view(&[1], &bias))];
        fs::write(dir.path().join(name), serialize(tensors, None).unwrap()).unwrap();
    };
    let plain = result(&mut generate(dir.path(), &["--steps", "0", "--finals", "0"]));
    // One that gives 7 of every picture: (1 x cosine + 0.5 x 0.7) / 1.5.
    let width = fs::read_to_string(common::demo().join("pack/clip/config.json")).unwrap();
    let width = serde_json::from_str::<Value>(&width).unwrap()["projection_dim"].as_u64().unwrap() as usize;
    head("seven.safetensors", width, 7.0);
    let more = ["--steps", "0", "--finals", "0", "--overwrite", "--aesthetic", "seven.safetensors=0.5"];
    let with = result(&mut generate(dir.path(), &more));
    let expected = (plain["score"].as_f64().unwrap() + 0.5 * 0.7) / 1.5;
    assert!((with["score"].as_f64().unwrap() - expected).abs() < 1e-5, "{with}");
    let judges = with["models"]["scorer"].as_str().unwrap();
    assert!(judges.contains("(1) + seven.safetensors on ") && judges.ends_with("(0.5)"), "{judges}");
    // The same encoder by name is the same one.
    let named = result(&mut generate(dir.path(), &[&more[..], &["--aesthetic-encoder", "demo"]].concat()));
    assert_eq!(named["score"], with["score"]);
    head("wide.safetensors", width + 1, 7.0);
    let output = generate(dir.path(), &["--overwrite", "--aesthetic", "wide.safetensors"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--aesthetic-encoder"), "{said}");
}

#[test]
fn wrong_usage_is_told_from_what_fails() {
    let dir = tempfile::tempdir().unwrap();
    for (more, code, says) in [
        (&["--renderer", "http://x"][..], 2, "--renderer-kind"),
        (&["--size", "5x5"], 2, "is no size"),
        (&["--guidance", "3"], 1, "cannot be told the guidance"),
        (&["--scorer", "/nowhere"], 1, "/nowhere"),
        (&["--aesthetic", "/nowhere"], 1, "/nowhere"),
        (&["--renderer", "/nowhere/worker", "--renderer-kind", "worker"], 1, "cannot be started"),
        (&["--renderer", "http://x", "--workflow", "/nowhere.json"], 1, "/nowhere.json"),
        (&["--renderer", "demo", "--renderer-kind", "demo", "--renderer-arg=x"], 2, "for workers alone"),
        (&["--renderer", "worker", "--renderer-arg=--model=x"], 1, "cargo xtask render-worker"),
    ] {
        // Whatever is installed here.
        let output = generate(dir.path(), more).env("PATH", "").output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(says), "{more:?}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn a_pack_names_its_worker_and_what_it_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let (pack, dir) = (common::pack(), tempfile::tempdir().unwrap());
    let program = pack.path().join("worker.sh");
    fs::write(&program, "#!/bin/sh\necho \"told $*\" >&2\nexit 3\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let file = pack.path().join("pack.toml");
    let worker = format!("renderer = 'worker'\nworker = {{ program = {program:?}, arguments = ['--steps=4', '-v'] }}");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("renderer = \"demo\"", &worker)).unwrap();
    let says = |more: &[&str]| {
        let pack = ["--pack", pack.path().to_str().unwrap()];
        text(&generate(dir.path(), &[&pack, more].concat()).output().unwrap().stderr)
    };
    let said = says(&[]);
    assert!(said.contains("exit status: 3; it said last: told --steps=4 -v"), "{said}");
    // What the command line says takes its place, for another program too.
    let named = ["--renderer", program.to_str().unwrap(), "--renderer-kind", "worker", "--renderer-arg=--model=x y"];
    assert!(says(&named).contains("told --model=x y"));
}

#[test]
fn a_picture_a_sound_and_a_text_become_one_picture() {
    let dir = tempfile::tempdir().unwrap();
    let sample = |name: &str| common::demo().join("samples").join(name).canonicalize().unwrap();
    let blend = |more: &[&str]| {
        let mut command = mils();
        command.current_dir(dir.path()).env("MILS_HOME", dir.path().join("home")).arg("blend");
        command.arg(sample("4-clock.png")).arg(sample("8-rooster.ogg")).args(["--text", "two small yellow castles"]);
        command.args(["--weight", "1", "--weight", "0.2", "--weight", "1", "--without", "a red car"]);
        command.args(["-o", "out", "--backend", "cpu", "--steps", "1", "--format", "json"]).args(more);
        command.output().unwrap()
    };
    let output = blend(&[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let inputs: Value = serde_json::from_slice(&read(dir.path(), "inputs.json")).unwrap();
    assert_eq!(inputs["prompt"], found["wish"], "what was made of them is what is searched for");
    let captions: Vec<&str> =
        inputs["inputs"].as_array().unwrap().iter().map(|i| i["caption"].as_str().unwrap()).collect();
    assert!(captions[0].contains("clock") && captions[1].contains("rooster"), "{captions:?}");
    assert_eq!(captions[2..], ["two small yellow castles", "a red car"]);
    let things = found["wish"].as_str().unwrap();
    assert!(things.contains("clock") || things.contains("castle"), "{things}");
    assert!(!things.contains("red car"), "{things}");
    assert!(said.contains(&format!("= {things}")) && said.contains("- a red car (text)"), "{said}");
    // With the mean of the inputs for a target it is another search.
    let mean = blend(&["--target", "mean", "--overwrite"]);
    assert_eq!(mean.status.code(), Some(0), "{}", text(&mean.stderr));
    let mean: Value = serde_json::from_slice(&mean.stdout).unwrap();
    assert!(mean["wish"] == found["wish"] && mean["first_score"] != found["first_score"]);
    assert!(text(&read(dir.path(), "report.html")).contains("cosine with the mean of what was blended"));
    assert_eq!(blend(&["--overwrite"]).status.code(), Some(0));
    // Nothing is captioned again.
    let again = blend(&["--quiet"]);
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["prompt"], found["prompt"]);
    let absent = mils().current_dir(dir.path()).args(["blend", "nowhere.png", "-o", "other"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("nowhere.png") && !dir.path().join("other").exists());
}
