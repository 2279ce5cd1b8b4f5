//! `mils devices`: whatever the machine has, the list says what is taken and why.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{mils, run};
use serde_json::Value;

/// The list in JSON and as text, with variables set.
fn devices(variables: &[(&str, &str)]) -> (Value, String) {
    let list = |format: &str| {
        let (code, stdout, stderr) = run(mils().args(["devices", "--format", format]).envs(variables.iter().copied()));
        assert_eq!(code, 0, "{stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("mils:"), "{stderr}");
        stdout
    };
    (serde_json::from_str(&list("json")).unwrap(), list("text"))
}

#[test]
fn every_adapter_is_listed_and_one_is_taken() {
    let (json, text) = devices(&[]);
    let adapters = json["adapters"].as_array().unwrap();
    for adapter in adapters {
        for key in ["name", "backend", "type", "driver", "state"] {
            assert!(adapter[key].is_string(), "{key} of {adapter}");
        }
        for key in ["buffer", "storage_binding", "workgroup_memory", "workgroup_threads"] {
            assert!(adapter["limits"][key].is_u64(), "{key} of {adapter}");
        }
        assert!(adapter["features"].is_array());
        assert_eq!(adapter["problem"].is_string(), adapter["state"] == "refused");
        assert!(text.contains(adapter["name"].as_str().unwrap()), "{text}");
    }
    assert!(json["cpu"]["threads"].as_u64().unwrap() > 0);
    let llama = &json["language_model"];
    let theirs = llama["devices"].as_array().unwrap();
    assert!(theirs.iter().any(|d| d["type"] == "CPU" && d["memory"].as_u64().unwrap() > 0), "{llama}");
    let taken = llama["taken"].as_array().unwrap();
    assert!(!taken.is_empty() && taken.iter().all(|t| theirs.iter().any(|d| d["name"] == *t)), "{llama}");
    // The CPU only where there is no GPU for it.
    let gpus = theirs.iter().filter(|d| d["type"] != "CPU").count();
    assert_eq!(gpus == 0, taken.iter().all(|t| theirs.iter().any(|d| d["name"] == *t && d["type"] == "CPU")));
    assert!(text.lines().any(|l| l.ends_with(", taken")), "{text}");
    let auto = &json["auto"];
    let first = adapters.iter().position(|a| a["state"] == "usable");
    match first.filter(|at| adapters[*at]["type"] != "software driver") {
        Some(at) => assert_eq!((&auto["backend"], auto["adapter"].as_u64()), (&"gpu".into(), Some(at as u64))),
        None => assert_eq!((&auto["backend"], &auto["adapter"]), (&"cpu".into(), &Value::Null)),
    }
    let why = auto["why"].as_str().unwrap();
    assert!(!why.is_empty() && text.lines().any(|l| l.starts_with("--backend auto takes ") && l.ends_with(why)));
    assert_eq!(json["environment"], serde_json::json!({}));
}

#[test]
fn variables_in_force_are_shown() {
    let (json, text) = devices(&[("WGPU_ADAPTER_NAME", "no such adapter")]);
    assert_eq!(json["environment"]["WGPU_ADAPTER_NAME"], "no such adapter");
    assert!(text.contains("\nWGPU_ADAPTER_NAME=no such adapter is in force\n"), "{text}");
    assert_eq!(json["auto"]["backend"], "cpu");
    for adapter in json["adapters"].as_array().unwrap() {
        assert_eq!(adapter["state"], "left out");
    }
    if !json["adapters"].as_array().unwrap().is_empty() {
        assert!(json["auto"]["why"].as_str().unwrap().contains("WGPU_ADAPTER_NAME asks for `no such adapter`"));
    }
    let (json, text) = devices(&[("WGPU_BACKEND", "nonsense")]);
    assert_eq!(json["adapters"], serde_json::json!([]));
    assert!(text.contains("no GPU was found through WGPU_BACKEND=nonsense"), "{text}");
}

#[test]
fn help_has_examples() {
    assert!(run(mils().args(["devices", "--help"])).1.contains("Examples:"));
    assert_eq!(run(mils().args(["devices", "--format", "xml"])).0, 2);
}
