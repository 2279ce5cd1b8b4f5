//! `mils models convert`: a checkpoint of PyTorch becomes safetensors, or one line says why not.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, mils, run};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mils-pth/tests/files").join(name)
}

#[test]
fn a_checkpoint_is_converted_and_said_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.safetensors");
    let mut command = mils();
    command.args(["models", "convert"]).arg(checkpoint("training.pth")).arg(&out);
    let (code, stdout, stderr) = run(command.args(["--prefix", "model.", "--format", "json"]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&said["tensors"], &said["bytes"], &said["skipped"]), (&6.into(), &72.into(), &Value::Array(vec![])));
    let bytes = fs::read(&out).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("inner.0.weight").unwrap().shape(), [2, 3]);
    let (code, stdout, _) = run(mils().args(["models", "convert", "-q"]).arg(checkpoint("old.pth")).arg(&out));
    assert_eq!(code, 0);
    assert!(stdout.starts_with(&format!("{}: ", out.display())) && stdout.contains(" 22 tensors, 1.9 kB"), "{stdout}");
}

#[test]
fn what_cannot_be_converted_is_said_in_a_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.safetensors");
    let convert = |name: &str| {
        let mut command = mils();
        command.args(["models", "convert"]).arg(checkpoint(name)).arg(&out);
        command
    };
    fails(&mut convert("os-system.pth"), 1, &["asks for `posix.system`", "--skip-objects"]);
    fails(&mut convert("deflated.pth"), 1, &["compressed"]);
    fails(&mut convert("missing.pth"), 1, &["missing.pth", "cannot be read"]);
    fails(convert("training.pth").args(["--prefix", "x."]), 1, &["names begin with `model.`"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let nowhere = dir.path().join("none").join("out");
    let mut command = mils();
    command.args(["models", "convert"]).arg(checkpoint("old.pth")).arg(&nowhere);
    fails(&mut command, 1, &["cannot write to", "out"]);
}

#[test]
fn code_is_passed_over_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.safetensors");
    let mut command = mils();
    command.args(["models", "convert", "--skip-objects"]).arg(checkpoint("objects.pth")).arg(&out);
    let (code, _, stderr) = run(&mut command);
    assert_eq!((code, stderr.trim()), (0, "mils: passed over: argparse.Namespace"));
}

#[test]
fn the_input_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.pth");
    fs::copy(checkpoint("old.pth"), &file).unwrap();
    let (code, _, stderr) = run(mils().args(["models", "convert"]).arg(&file).arg(&file));
    assert_eq!(code, 2);
    assert!(stderr.contains("would overwrite the input") && stderr.contains("mils models convert"), "{stderr}");
    let (code, help, _) = run(mils().args(["models", "convert", "--help"]));
    assert!(code == 0 && help.contains("mils models convert imagebind_huge.pth"), "{help}");
}
