//! The generator against a local server that answers well, badly, late or not at all.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use mils_optim::Labelled;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;
use tiny_http::{Header, Response, Server};

/// What the server saw.
#[derive(Default)]
struct Seen {
    bodies: Mutex<Vec<Value>>,
    keys: Mutex<HashSet<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// What it answers to its n-th call for texts: a status, a `Retry-After`, and a body.
type Answer = (u16, Option<&'static str>, String);

/// Serves on some port until the test process ends.
fn serve(answer: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static) -> (String, Arc<Seen>) {
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let url = format!("http://{}/v1", server.server_addr().to_ip().unwrap());
    let (seen, answer) = (Arc::new(Seen::default()), Arc::new(answer));
    let calls = Arc::new(AtomicUsize::new(0));
    for _ in 0..16 {
        let (server, seen, answer, calls) = (server.clone(), seen.clone(), answer.clone(), calls.clone());
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
                seen.most.fetch_max(now, Ordering::SeqCst);
                let key = request.headers().iter().find(|h| h.field.equiv("Authorization"));
                seen.keys.lock().unwrap().insert(key.map(|h| h.value.to_string()).unwrap_or_default());
                let (status, after, text) = if request.url() == "/v1/models" {
                    (200, None, json!({"data": [{"id": "tiny"}]}).to_string())
                } else {
                    let mut body = String::new();
                    request.as_reader().read_to_string(&mut body).unwrap();
                    let body: Value = serde_json::from_str(&body).unwrap();
                    let answered = answer(calls.fetch_add(1, Ordering::SeqCst), &body);
                    seen.bodies.lock().unwrap().push(body);
                    answered
                };
                seen.now.fetch_sub(1, Ordering::SeqCst);
                let mut response = Response::from_string(text).with_status_code(status);
                if let Some(after) = after {
                    response.add_header(Header::from_bytes("Retry-After", after).unwrap());
                }
                let _ = request.respond(response);
            }
        });
    }
    (url, seen)
}

fn completion(text: &str, finish: &str) -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}},
    })
    .to_string()
}

/// Three calls at a time: of more connections that stay open, the test server leaves some waiting.
fn options(url: &str) -> EndpointOptions {
    let pause = Duration::from_millis(5);
    EndpointOptions { url: url.into(), lines: 2, calls: 3, attempts: 3, pause, ..EndpointOptions::default() }
}

fn template() -> PromptTemplate {
    let user = "Write {{ count }}.{% for item in items %} {{ item.label }} {{ item.text }}{% endfor %}";
    PromptTemplate::new("You write.", user).unwrap()
}

fn ask(generator: &mut EndpointGenerator, count: usize) -> Result<Proposals, String> {
    let pool = [Labelled { text: "a cat".into(), score: 0.5, label: 100 }];
    let request = Request { step: 1, pool: &pool, count, seed: 7 };
    generator.propose(&request).map_err(|e| e.to_string())
}

#[test]
fn texts_are_asked_for_in_several_answers_with_seeds_of_their_own() {
    let (url, seen) = serve(|_, body| {
        std::thread::sleep(Duration::from_millis(30));
        let seed = body["seed"].as_u64().unwrap();
        (200, None, completion(&format!("Sure:\n1. text {seed}\n2. other {seed}"), "stop"))
    });
    let mut generator =
        EndpointGenerator::open(EndpointOptions { key: Some("secret".into()), ..options(&url) }, template()).unwrap();
    assert_eq!(generator.model(), "tiny");
    let found = ask(&mut generator, 15).unwrap();
    // Seven answers of two texts, and one of one, which said two.
    assert_eq!(found.texts.len(), 15);
    assert_eq!(found.texts.iter().collect::<HashSet<_>>().len(), 15);
    let reasons: Vec<_> = found.unusable.iter().map(|u| u.reason).collect();
    assert_eq!(reasons.iter().filter(|r| **r == UnusableReason::Surplus).count(), 1);
    assert_eq!((found.usage.prompt_tokens, found.usage.reused_tokens, found.usage.generated_tokens), (80, 48, 32));
    assert!(seen.most.load(Ordering::SeqCst) <= 3, "no more calls than were allowed");
    assert_eq!(*seen.keys.lock().unwrap(), HashSet::from(["Bearer secret".to_owned()]));
    let bodies = seen.bodies.lock().unwrap();
    let messages = &bodies[0]["messages"];
    assert_eq!(
        (&messages[0]["content"], &messages[1]["content"]),
        (&"You write.".into(), &"Write 2. 100 a cat".into())
    );
    assert_eq!((&bodies[0]["model"], &bodies[0]["top_p"]), (&"tiny".into(), &0.9.into()));
    drop(bodies);
    let again = ask(&mut generator, 15).unwrap();
    assert_eq!(found.texts, again.texts, "the same request is asked with the same seeds, and given in the same order");
    assert!(generator.busy() > Duration::from_millis(60));
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let (url, seen) = serve(|n, _| match n {
        0 => (503, None, json!({"error": {"message": "loading\nthe model"}}).to_string()),
        1 => (429, Some("0.2"), "slow down".into()),
        _ => (200, None, completion("1. a dog\n2. a do", "length")),
    });
    let mut generator = EndpointGenerator::open(options(&url), template()).unwrap();
    let begin = Instant::now();
    let found = ask(&mut generator, 2).unwrap();
    assert_eq!((found.texts, found.unusable[0].reason), (vec!["a dog".to_owned()], UnusableReason::Truncated));
    assert!(begin.elapsed() >= Duration::from_millis(200), "it waits as long as it is told to");
    assert_eq!(seen.bodies.lock().unwrap().len(), 3);
}

#[test]
fn what_will_never_be_answered_is_not_tried_again() {
    for (status, body, says) in [
        (401, r#"{"error":{"message":"bad key"}}"#.to_owned(), "set MILS_API_KEY or OPENAI_API_KEY: bad key"),
        (
            404,
            r#"{"error":"model not found"}"#.to_owned(),
            "no such model or path; the URL ends with /v1, as a rule (404)",
        ),
        (400, format!("<html>{}\u{1b}[2J", "x".repeat(5000)), "it refuses (400): <html>xxx"),
        (200, "not json".to_owned(), "no answer of an OpenAI-compatible endpoint: not json"),
        (200, "{}".to_owned(), "an answer without `choices`"),
        (200, r#"{"choices":[{"message":"x"}]}"#.to_owned(), "no answer of an OpenAI-compatible"),
    ] {
        let (url, seen) = serve(move |_, _| (status, None, body.clone()));
        let mut generator = EndpointGenerator::open(EndpointOptions { calls: 1, ..options(&url) }, template()).unwrap();
        let error = ask(&mut generator, 2).unwrap_err();
        assert!(error.contains(says) && error.starts_with(&url) && error.len() < 400, "{error}");
        assert!(!error.contains(|c: char| c.is_control()), "{error}");
        assert_eq!(seen.bodies.lock().unwrap().len(), 1);
    }
}

#[test]
fn answers_that_fail_among_others_are_told_and_all_that_fail_are_an_error() {
    let (url, _) = serve(|_, body| match body["seed"].as_u64().unwrap() % 2 {
        0 => (500, None, "out of memory".into()),
        _ => (200, None, completion("1. a boat\n2. a lake", "stop")),
    });
    let mut generator = EndpointGenerator::open(options(&url), template()).unwrap();
    let found = ask(&mut generator, 24).unwrap();
    let failed: Vec<_> = found.unusable.iter().filter(|u| u.reason == UnusableReason::Failed).collect();
    assert!(!found.texts.is_empty() && !failed.is_empty());
    assert_eq!(found.texts.len() + 2 * failed.len(), 24);
    assert!(failed[0].text.contains("it failed (500): out of memory (3 attempts)"), "{}", failed[0].text);
    let (url, _) = serve(|_, _| (500, None, String::new()));
    let mut generator = EndpointGenerator::open(options(&url), template()).unwrap();
    assert!(ask(&mut generator, 4).unwrap_err().contains("it failed (500): nothing"));
}

#[test]
fn a_server_that_is_not_there_or_says_too_much_is_an_error() {
    let nobody = Server::http("127.0.0.1:0").unwrap().server_addr().to_ip().unwrap();
    let error = EndpointGenerator::open(options(&format!("http://{nobody}/v1")), template()).err().unwrap().to_string();
    assert!(error.contains("is the server up?") && error.contains("2 attempts"), "{error}");
    let (url, _) = serve(|_, _| (200, None, "x".repeat(9 << 20)));
    let mut generator = EndpointGenerator::open(EndpointOptions { attempts: 1, ..options(&url) }, template()).unwrap();
    assert!(ask(&mut generator, 2).unwrap_err().contains("broke off"));
    for (url, says) in [("localhost:8080", "begins with http://"), ("http://", "no URL")] {
        let error = EndpointGenerator::open(options(url), template()).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_server_that_has_gone_is_not_waited_for_with_every_call() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    // It takes calls and ends them at once.
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let options = EndpointOptions { model: Some("tiny".into()), ..options(&url) };
    let mut generator = EndpointGenerator::open(options, template()).unwrap();
    let error = ask(&mut generator, 200).unwrap_err();
    assert!(error.contains("is the server up?") && error.contains("3 attempts"), "{error}");
    // Of a hundred calls those that were under way, and their like that had begun by then.
    assert!(taken.load(Ordering::SeqCst) <= 2 * 3 * 3, "{taken:?}");
}

#[test]
fn a_run_that_is_cancelled_waits_for_nobody() {
    let (url, seen) = serve(|n, _| {
        if n > 0 {
            std::thread::sleep(Duration::from_secs(20));
        }
        (200, None, completion("1. first\n2. second", "stop"))
    });
    let cancel = Arc::new(AtomicBool::new(false));
    let options = EndpointOptions { cancel: Arc::clone(&cancel), calls: 2, ..options(&url) };
    let mut generator = EndpointGenerator::open(options, template()).unwrap();
    let begin = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::SeqCst);
    });
    let found = ask(&mut generator, 20).unwrap();
    assert_eq!(found.texts, ["first", "second"], "what is there is given");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(seen.bodies.lock().unwrap().len() <= 2);
}

#[test]
fn which_model_is_meant_must_be_clear() {
    assert_eq!(only("u", vec!["a".into()]).unwrap(), "a");
    assert!(only("u", vec![]).unwrap_err().to_string().contains("has no models"));
    let error = only("u", vec!["a".into(), "b".into()]).unwrap_err().to_string();
    assert!(error.contains("the models a, b; name one"), "{error}");
}
