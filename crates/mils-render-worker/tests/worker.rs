//! The worker without a real model: what it says of files that are none, and what it draws with random weights of the right
//! shapes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod random;

use mils_render::worker::WorkerOptions;
use mils_render::{Job, Renderer, RgbImage, Source, Worker};
use std::fs;
use std::time::Duration;

fn worker(arguments: &[&str]) -> WorkerOptions {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let program = env!("CARGO_BIN_EXE_mils-render-worker").into();
    let start = Duration::from_secs(300);
    WorkerOptions { program, arguments, start, timeout: start, ..WorkerOptions::default() }
}

fn fails(arguments: &[&str], says: &[&str]) {
    let text = Worker::open(worker(arguments)).err().unwrap().to_string();
    for part in says {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn what_is_no_model_is_said_and_nothing_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    fails(&["--model", "/nowhere/model.safetensors"], &["exit status: 1", "--model /nowhere/model.safetensors"]);
    fails(&["--model", &dir.path().display().to_string()], &["is no file"]);
    fails(&[], &["exit status: 2"]);
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut small = (header.len() as u64).to_le_bytes().to_vec();
    small.extend(header);
    small.extend(1_f32.to_le_bytes());
    for (name, content) in [
        ("noise.safetensors", &b"not a model"[..]),
        ("noise.gguf", b"GGUF"),
        ("empty.ckpt", b""),
        ("small.safetensors", &small),
    ] {
        let model = file(name, content);
        fails(&["--model", &model], &["exit status: 1", "cannot load", name]);
    }
    let model = file("any.safetensors", &small);
    fails(&["--model", &model, "--sampler", "magic"], &["--sampler magic is not known"]);
    fails(&["--model", &model, "--type", "f7"], &["--type f7 is not known"]);
}

/// With random weights of the right shapes: that it loads, draws, edits, repeats itself, and goes on.
#[test]
#[ignore = "writes a model of 2 GB, and takes 4 GB of memory and some minutes"]
fn a_model_draws_and_edits() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("random.safetensors");
    random::write(&model).unwrap();
    let model = model.display().to_string();
    let worker = Worker::open(worker(&["--model", &model, "--steps", "1", "--guidance", "1"])).unwrap();
    let name = worker.identity();
    assert!(name.contains("stable-diffusion.cpp") && name.contains("random.safetensors"), "{name}");
    let job = Job { width: 64, height: 64, seed: 7, ..Job::new("a red car") };
    let first = worker.render(&job).unwrap();
    assert_eq!(first.dimensions(), (64, 64));
    assert_eq!(worker.render(&job).unwrap(), first, "the same job, the same picture");
    assert_ne!(worker.render(&Job { seed: 8, ..job }).unwrap(), first);
    let image = RgbImage::from_fn(80, 48, image_pixel);
    let source = Some(Source { image: &image, strength: Some(0.5) });
    let edited =
        worker.render(&Job { source, negative: Some("blur"), guidance: Some(2.0), steps: Some(2), ..job }).unwrap();
    assert_eq!(edited.dimensions(), (64, 64));
    assert_ne!(edited, first);
    assert_eq!(worker.render(&job).unwrap(), first, "an edit leaves nothing behind");
    assert_eq!(worker.started(), 1);
}

fn image_pixel(x: u32, y: u32) -> image::Rgb<u8> {
    image::Rgb([(x * 3) as u8, (y * 5) as u8, 90])
}
