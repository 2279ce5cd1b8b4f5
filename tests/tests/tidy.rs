//! The project's own rules, where a machine can check them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files below a folder, without what git ignores by name.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name();
        let path = entry.path();
        if path.is_dir() {
            if !["target", ".git", ".venv", "__pycache__", "node_modules"].iter().any(|skip| name == *skip) {
                files(&path, out);
            }
        } else {
            out.push(path);
        }
    }
}

fn with_extension(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    files(&root(), &mut all);
    all.retain(|p| p.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)));
    assert!(!all.is_empty());
    all.into_iter().map(|p| (p.clone(), fs::read_to_string(p).unwrap())).collect()
}

#[test]
fn every_rust_file_says_what_lives_there_and_is_not_too_long() {
    for (path, text) in with_extension(&["rs"]) {
        // A file that is included into others cannot open with `//!`.
        let first = text.lines().next().unwrap_or_default();
        let included = path.ends_with("shaders/variants.rs");
        assert!(
            first.starts_with("//!") || included && first.starts_with("//"),
            "{} does not open with //!",
            path.display()
        );
        let lines = text.lines().count();
        assert!(lines <= 600 || text.contains("tidy: long because"), "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_shader_opens_with_what_it_computes() {
    for (path, text) in with_extension(&["wgsl"]) {
        assert!(text.starts_with("// "), "{} does not open with a comment", path.display());
    }
}

#[test]
fn nothing_is_left_to_do_in_silence() {
    let markers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    for (path, text) in with_extension(&["rs", "wgsl", "py", "toml"]) {
        for marker in markers {
            assert!(!text.contains(marker), "{} has a {marker}", path.display());
        }
    }
}

#[test]
fn no_machine_is_named() {
    let places = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("crates", ".io/api")];
    for (path, text) in with_extension(&["rs", "md", "toml", "py", "wgsl", "html", "json"]) {
        for place in places {
            assert!(!text.contains(place), "{} names {place}", path.display());
        }
    }
}

/// Direct dependencies of every package of the workspace, without those of tests only.
fn dependencies() -> Vec<(String, Vec<String>)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let package = |p: &serde_json::Value| {
        let needed = p["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev");
        (text(&p["name"]), needed.map(|d| text(&d["name"])).collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

#[test]
fn dependencies_point_one_way() {
    let all = dependencies();
    let users = |of: &str| -> Vec<&str> {
        let mut users: Vec<&str> =
            all.iter().filter(|(_, needs)| needs.iter().any(|n| n == of)).map(|(name, _)| name.as_str()).collect();
        users.sort_unstable();
        users
    };
    assert_eq!(users("wgpu"), ["mils-gpu"], "only mils-gpu names wgpu");
    assert_eq!(users("llama-cpp-2"), ["mils-llm"], "only mils-llm names llama.cpp");
    assert_eq!(users("ffmpeg-next"), ["mils-media"], "only mils-media names FFmpeg");
    assert_eq!(users("symphonia"), ["mils-media"], "only mils-media names Symphonia");
    assert_eq!(users("fast_image_resize"), ["mils-demo-world", "mils-media"]);
    let of = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, needs)| needs.clone()).unwrap();
    let ours = |name: &str| -> Vec<String> { of(name).into_iter().filter(|n| n.starts_with("mils-")).collect() };
    assert_eq!(ours("mils-graph"), [""; 0]);
    assert_eq!(ours("mils-optim"), [""; 0]);
    assert_eq!(ours("mils-pth"), [""; 0]);
    assert_eq!(ours("mils-eval"), [""; 0]);
    assert_eq!(ours("mils-shaders"), [""; 0]);
    assert_eq!(ours("mils-cpu"), ["mils-graph"]);
    assert_eq!(ours("mils-bank"), ["mils-graph"]);
    assert_eq!(ours("mils-encoder"), ["mils-graph", "mils-media"]);
    assert_eq!(ours("mils-http"), [""; 0]);
    assert_eq!(ours("mils-llm"), ["mils-http", "mils-optim"]);
    assert_eq!(ours("mils-render"), ["mils-demo-world", "mils-http"]);
    assert_eq!(of("xtask"), ["anyhow", "clap"], "xtask starts on a machine where nothing is set up");
}
