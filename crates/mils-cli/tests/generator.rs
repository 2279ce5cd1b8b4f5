//! A language model behind an endpoint in place of the pack's: against a server that speaks the protocol.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, mils, run, samples};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny_http::{Response, Server};

/// What it says to whoever asks: the truth of the first sample among others.
const TRUTH: &str = "three big yellow umbrellas at the top, on the grass";

/// A server that answers so many calls and then fails; its base URL, and how often it was called with the key.
fn serve(answers: usize) -> (String, Arc<AtomicUsize>) {
    let server = Server::http("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    let keyed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&keyed);
    std::thread::spawn(move || {
        for (n, request) in server.incoming_requests().enumerate() {
            let key = request.headers().iter().any(|h| h.field.equiv("Authorization") && h.value == "Bearer a-secret");
            counter.fetch_add(usize::from(key), Ordering::SeqCst);
            let content = if n % 3 == 1 { TRUTH.to_owned() } else { format!("{n} umbrellas in a row") };
            let (status, body) = match request.url() {
                "/v1/models" => (200, json!({"data": [{"id": "a-model"}]})),
                _ if n > answers => (400, json!({"error": {"message": "no more"}})),
                _ => (200, json!({"choices": [{"message": {"content": format!("1. {content}")}}]})),
            };
            let _ = request.respond(Response::from_string(body.to_string()).with_status_code(status));
        }
    });
    (url, keyed)
}

#[test]
fn captions_come_from_the_endpoint_and_its_key_stays_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, report) = (dir.path().join("t.jsonl"), dir.path().join("r.html"));
    let (url, keyed) = serve(usize::MAX);
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "2", "--propose", "6", "--format", "json", "--verbose"]);
    // Of more connections that stay open, the test server leaves some waiting.
    command
        .args(["--sequences", "3", "--generator", &url, "--trace"])
        .arg(&trace)
        .arg("--report")
        .arg(&report)
        .arg(&samples()[0]);
    let (code, stdout, stderr) = run(command.env("MILS_API_KEY", "a-secret").env("OPENAI_API_KEY", "another"));
    assert_eq!(code, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["caption"], TRUTH);
    assert_eq!((&result["models"]["generator"], &result["models"]["generator_on"]), (&"a-model".into(), &url.into()));
    assert!(keyed.load(Ordering::SeqCst) >= 13, "the models, and six answers in each of two steps");
    for said in [stdout, stderr, fs::read_to_string(&trace).unwrap(), fs::read_to_string(&report).unwrap()] {
        assert!(!said.contains("secret") && !said.contains("another"));
    }
}

#[test]
fn an_endpoint_that_fails_costs_the_files_that_it_failed_for() {
    // Enough for the first file: one step of two answers, after the call for the models.
    let (url, _) = serve(2);
    let mut command = mils();
    command.args(["caption", "--backend", "cpu", "--steps", "1", "--propose", "2", "--in-flight", "1"]);
    let (code, stdout, stderr) = run(command.args(["--generator", &url, "--sequences", "1"]).args(&samples()[..3]));
    assert_eq!((code, stdout.lines().count(), stderr.lines().count()), (1, 1, 3), "{stdout}{stderr}");
    let mut refused = stderr.lines().take(2);
    assert!(refused.all(|l| l.contains(&url) && l.contains("it refuses (400): no more")), "{stderr}");
    assert!(stderr.contains("1 captioned, 2 failed in"), "{stderr}");
    let nobody = format!("http://{}/v1", Server::http("127.0.0.1:0").unwrap().server_addr().to_ip().unwrap());
    let caption = |url: &str| {
        let mut command = mils();
        command.args(["caption", "--backend", "cpu", "--generator", url]).arg(&samples()[0]);
        command
    };
    fails(&mut caption("localhost:1"), 1, &["begins with http://"]);
    let mut command = mils();
    command.args(["caption", "--generator-model", "x"]).arg(&samples()[0]);
    assert_eq!(run(&mut command).0, 2);
    fails(&mut caption(&nobody), 1, &[&nobody, "is the server up?"]);
}
