//! The HTTP renderers against local servers that speak their protocols, well and badly.
#![allow(clippy::unwrap_used, reason = "tests")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mils_render::{
    Automatic, Comfy, Demo, Job, OpenAi, RenderError, Renderer, RgbImage, ServerOptions, Source, Workflow, to_png,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tiny_http::{Method, Request, Response, Server};

/// What is answered: a status and a body.
type Answer = (u16, Vec<u8>);

/// Serves on some port until the test process ends. `answer` is given the method, the path and the body.
fn serve(answer: impl Fn(&Method, &str, &[u8]) -> Answer + Send + Sync + 'static) -> String {
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let url = format!("http://{}", server.server_addr().to_ip().unwrap());
    let answer = Arc::new(answer);
    for _ in 0..4 {
        let (server, answer) = (Arc::clone(&server), Arc::clone(&answer));
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let mut body = Vec::new();
                request.as_reader().read_to_end(&mut body).unwrap();
                let (method, path) = (request.method().clone(), request.url().to_owned());
                let (status, text) = answer(&method, &path, &body);
                respond(request, status, text);
            }
        });
    }
    url
}

fn respond(request: Request, status: u16, text: Vec<u8>) {
    let _ = request.respond(Response::from_data(text).with_status_code(status));
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn ok(value: &Value) -> Answer {
    (200, text(value))
}

fn options(url: &str) -> ServerOptions {
    let (pause, timeout) = (Duration::from_millis(5), Duration::from_secs(20));
    ServerOptions { url: url.into(), attempts: 3, pause, timeout, ..ServerOptions::default() }
}

fn job(prompt: &str) -> Job<'_> {
    Job { width: 48, height: 64, ..Job::new(prompt) }
}

fn drawn(prompt: &str, seed: u64) -> RgbImage {
    Demo.render(&Job { seed, ..job(prompt) }).unwrap()
}

fn png(prompt: &str, seed: u64) -> Vec<u8> {
    to_png(&drawn(prompt, seed)).unwrap()
}

fn base64(prompt: &str, seed: u64) -> String {
    STANDARD.encode(png(prompt, seed))
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn openai_generates_and_edits_with_base64_and_addresses() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let saw = Arc::clone(&seen);
    let url = serve(move |_, path, body| match path {
        "/v1/models" => ok(&json!({"data": [{"id": "flux"}]})),
        "/v1/images/generations" => {
            let body: Value = serde_json::from_slice(body).unwrap();
            let prompt = body["prompt"].as_str().unwrap().to_owned();
            saw.lock().unwrap().push(body);
            match prompt.as_str() {
                "a red car" => ok(&json!({"data": [{"b64_json": base64(&prompt, 0)}]})),
                _ => ok(&json!({"data": [{"url": "/files/duck.png"}]})),
            }
        }
        "/files/duck.png" => (200, png("a blue duck", 0)),
        "/v1/images/edits" => {
            assert!(has(body, b"name=\"prompt\"\r\n") && has(body, b"paint it blue") && has(body, b"48x64"));
            assert!(has(body, &png("a green cat", 0)), "the picture itself is sent");
            ok(&json!({"data": [{"b64_json": base64("a blue cat", 0)}]}))
        }
        _ => (404, Vec::new()),
    });
    let renderer = OpenAi::open(&options(&format!("{url}/v1"))).unwrap();
    assert!(renderer.identity().ends_with("/v1 flux"), "{}", renderer.identity());
    assert_eq!(renderer.render(&job("a red car")).unwrap(), drawn("a red car", 0));
    assert_eq!(renderer.render(&job("a blue duck")).unwrap(), drawn("a blue duck", 0));
    let question =
        json!({"model": "flux", "prompt": "a red car", "n": 1, "size": "48x64", "response_format": "b64_json"});
    assert_eq!(seen.lock().unwrap()[0], question);
    let source = drawn("a green cat", 0);
    let edit = Job { source: Some(Source { image: &source, strength: None }), ..job("paint it blue") };
    assert_eq!(renderer.render(&edit).unwrap(), drawn("a blue cat", 0));
    let error = renderer.render(&Job { negative: Some("blur"), ..job("a red car") }).unwrap_err();
    assert!(matches!(error, RenderError::Cannot { .. }) && error.is_fatal(), "{error}");
}

#[test]
fn automatic_is_asked_for_all_that_there_is() {
    let url = serve(|_, path, body| match path {
        "/sdapi/v1/options" => ok(&json!({"sd_model_checkpoint": "dreams.safetensors [abc]"})),
        "/sdapi/v1/txt2img" => {
            let body: Value = serde_json::from_slice(body).unwrap();
            let expected = json!({
                "prompt": "a red car", "negative_prompt": "blur", "seed": 7, "width": 48, "height": 64, "batch_size": 1,
                "n_iter": 1, "steps": 20, "cfg_scale": 6.5,
            });
            assert_eq!(body, expected);
            ok(&json!({"images": [base64("a red car", 7)], "info": "{}"}))
        }
        "/sdapi/v1/img2img" => {
            let body: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(
                (&body["init_images"][0], &body["denoising_strength"]),
                (&base64("a cat", 0).into(), &0.5.into())
            );
            ok(&json!({"images": [format!("data:image/png;base64,{}", base64("a dog", 0)), "an extension's"]}))
        }
        _ => (404, Vec::new()),
    });
    let renderer = Automatic::open(&options(&url)).unwrap();
    assert!(renderer.identity().ends_with("dreams.safetensors [abc]"));
    let asked = Job { negative: Some("blur"), seed: 7, steps: Some(20), guidance: Some(6.5), ..job("a red car") };
    assert_eq!(renderer.render(&asked).unwrap(), drawn("a red car", 7));
    let source = drawn("a cat", 0);
    let edit = Job { source: Some(Source { image: &source, strength: Some(0.5) }), ..job("a dog") };
    assert_eq!(renderer.render(&edit).unwrap(), drawn("a dog", 0));
}

fn workflow(nodes: &Value) -> Workflow {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), nodes.to_string()).unwrap();
    Workflow::read(file.path()).unwrap()
}

/// Draws what it finds in the node `1`, after it was asked twice whether it is done.
fn comfy(fails: bool) -> String {
    let (queued, asked) = (Mutex::new(None::<Value>), AtomicUsize::new(0));
    serve(move |method, path, body| {
        let history = |entry: Value| ok(&json!({ "p1": entry }));
        match (method, path.split('?').next().unwrap()) {
            (_, "/system_stats") => ok(&json!({"system": {"os": "posix"}, "devices": []})),
            (Method::Post, "/prompt") => {
                let body: Value = serde_json::from_slice(body).unwrap();
                asked.store(0, Ordering::SeqCst);
                *queued.lock().unwrap() = Some(body["prompt"]["1"]["inputs"].clone());
                ok(&json!({"prompt_id": "p1", "number": 1, "node_errors": {}}))
            }
            (_, "/history/p1") if asked.fetch_add(1, Ordering::SeqCst) < 2 => ok(&json!({})),
            (_, "/history/p1") if fails => history(json!({
                "outputs": {}, "status": {"status_str": "error", "completed": false, "messages": [
                    ["execution_start", {}],
                    ["execution_error", {"exception_message": "CUDA out of\nmemory", "node_type": "KSampler"}],
                ]},
            })),
            (_, "/history/p1") => history(json!({
                "outputs": {"9": {"images": [
                    {"filename": "preview.png", "subfolder": "", "type": "temp"},
                    {"filename": "a b.png", "subfolder": "s", "type": "output"},
                ]}},
                "status": {"status_str": "success", "completed": true, "messages": []},
            })),
            (_, "/view") => {
                assert!(path.contains("filename=a%20b.png") || path.contains("filename=a+b.png"), "{path}");
                assert!(path.contains("subfolder=s&type=output"), "{path}");
                let inputs = queued.lock().unwrap().clone().unwrap();
                let prompt = inputs["image"].as_str().or(inputs["text"].as_str()).unwrap();
                (200, png(prompt.split('/').next().unwrap(), inputs["seed"].as_u64().unwrap_or(0)))
            }
            (Method::Post, "/upload/image") => {
                assert!(has(body, b"name=\"image\"; filename=\"mils-") && has(body, &png("a cat", 0)));
                ok(&json!({"name": "cat.png", "subfolder": "an owl", "type": "input"}))
            }
            _ => (404, Vec::new()),
        }
    })
}

#[test]
fn comfy_fills_a_workflow_waits_and_fetches() {
    let nodes = json!({
        "1": {"class_type": "A", "inputs": {"text": "{{prompt}}", "seed": "{{seed}}"}},
        "2": {"class_type": "B", "inputs": {"width": 1, "height": 1}, "_meta": {"title": "mils:width,height"}},
    });
    let renderer = Comfy::open(&options(&comfy(false)), workflow(&nodes)).unwrap();
    let can = renderer.abilities();
    assert!(can.generates && can.seed && can.size && !can.edits && !can.steps);
    assert_eq!(renderer.render(&Job { seed: 5, ..job("a red car") }).unwrap(), drawn("a red car", 5));
    let edits = json!({"1": {"class_type": "LoadImage", "inputs": {"text": "{{prompt}}", "image": "{{source}}"}}});
    let renderer = Comfy::open(&options(&comfy(false)), workflow(&edits)).unwrap();
    let source = drawn("a cat", 0);
    let edit = Job { source: Some(Source { image: &source, strength: None }), ..job("what it sees") };
    assert_eq!(renderer.render(&edit).unwrap(), drawn("an owl", 0), "the picture's name there was filled in");
    assert!(matches!(renderer.render(&job("x")), Err(RenderError::Cannot { .. })));
}

#[test]
fn comfy_says_what_failed_and_does_not_wait_for_ever() {
    let nodes = json!({"1": {"class_type": "A", "inputs": {"text": "{{prompt}}"}}});
    let renderer = Comfy::open(&options(&comfy(true)), workflow(&nodes)).unwrap();
    let error = renderer.render(&job("a car")).unwrap_err();
    let says = "it could not draw this: CUDA out of memory in the node KSampler";
    assert!(error.to_string().contains(says) && !error.is_fatal(), "{error}");
    let given_up = Arc::new(Mutex::new(Vec::new()));
    let saw = Arc::clone(&given_up);
    let url = serve(move |_, path, body| match path {
        "/system_stats" => ok(&json!({"system": {}})),
        "/prompt" => ok(&json!({"prompt_id": "p1"})),
        "/queue" | "/interrupt" => {
            let body: Value = serde_json::from_slice(body).unwrap();
            saw.lock().unwrap().push((path.to_owned(), body));
            ok(&json!({}))
        }
        _ => ok(&json!({})),
    });
    let slow = ServerOptions { timeout: Duration::from_millis(300), ..options(&url) };
    let error = Comfy::open(&slow, workflow(&nodes)).unwrap().render(&job("a car")).unwrap_err();
    assert!(matches!(error, RenderError::Slow { .. }) && !error.is_fatal(), "{error}");
    let said: Vec<_> = given_up.lock().unwrap().clone();
    assert_eq!(said[0], ("/queue".into(), json!({"delete": ["p1"]})));
    assert_eq!(said[1], ("/interrupt".into(), json!({"prompt_id": "p1"})));
    let cancel = Arc::new(AtomicBool::new(false));
    let stopped = ServerOptions { cancel: Arc::clone(&cancel), ..options(&url) };
    let renderer = Comfy::open(&stopped, workflow(&nodes)).unwrap();
    let begin = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.store(true, Ordering::SeqCst);
    });
    assert!(matches!(renderer.render(&job("a car")), Err(RenderError::Cancelled)));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// An OpenAI-compatible renderer whose pictures are answered with this.
fn answers(status: u16, body: Vec<u8>) -> (OpenAi, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let url = serve(move |_, path, _| {
        if path == "/v1/models" {
            return (404, Vec::new());
        }
        counted.fetch_add(1, Ordering::SeqCst);
        (status, body.clone())
    });
    (OpenAi::open(&options(&format!("{url}/v1"))).unwrap(), calls)
}

#[test]
fn each_fault_is_an_error_of_its_own_that_says_what_to_do() {
    let picture = |image: &RgbImage| text(&json!({"data": [{"b64_json": STANDARD.encode(to_png(image).unwrap())}]}));
    let grey = |w, h, value| RgbImage::from_pixel(w, h, image::Rgb([value; 3]));
    type Is = fn(&RenderError) -> bool;
    let cases: [(u16, Vec<u8>, Is, &str, usize); 9] = [
        (200, picture(&grey(48, 64, 0)), |e| matches!(e, RenderError::Blank), "safety filter", 1),
        (200, picture(&grey(64, 64, 99)), |e| matches!(e, RenderError::Size { .. }), "64 x 64 pixels where 48 x 64", 1),
        (200, text(&json!({"data": [{"b64_json": "aGVsbG8="}]})), |e| matches!(e, RenderError::Corrupt(_)), "log", 1),
        (200, text(&json!({"data": []})), |e| matches!(e, RenderError::Failed { .. }), "no picture", 1),
        (200, text(&json!({"data": [{}]})), |e| matches!(e, RenderError::Protocol { .. }), "kind of renderer", 1),
        (200, b"<html>".to_vec(), |e| matches!(e, RenderError::Protocol { .. }), "kind of renderer", 1),
        (
            400,
            text(&json!({"error": {"message": "your prompt\nwas refused"}})),
            |e| matches!(e, RenderError::Status { status: 400, fatal: false, .. }),
            "it refuses (400): your prompt was refused",
            1,
        ),
        (401, vec![], |e| matches!(e, RenderError::Status { fatal: true, .. }), "MILS_API_KEY", 1),
        (503, b"loading".to_vec(), |e| matches!(e, RenderError::Status { status: 503, .. }), "(3 attempts)", 3),
    ];
    for (status, body, is, says, wanted) in cases {
        let (renderer, calls) = answers(status, body);
        let error = renderer.render(&job("a car")).unwrap_err();
        let said = error.to_string();
        assert!(is(&error) && said.contains(says) && !said.contains(|c: char| c.is_control()), "{error:?}: {said}");
        assert_eq!(calls.load(Ordering::SeqCst), wanted, "{said}");
    }
}

#[test]
fn a_server_that_is_down_slow_or_something_else_is_said_at_once() {
    let nobody = Server::http("127.0.0.1:0").unwrap().server_addr().to_ip().unwrap();
    let nobody = options(&format!("http://{nobody}"));
    let nodes = json!({"1": {"class_type": "A", "inputs": {"text": "{{prompt}}"}}});
    for error in [
        OpenAi::open(&nobody).err().unwrap(),
        Automatic::open(&nobody).err().unwrap(),
        Comfy::open(&nobody, workflow(&nodes)).err().unwrap(),
    ] {
        assert!(matches!(error, RenderError::Down { .. }) && error.is_fatal(), "{error:?}");
        assert!(error.to_string().contains("is the server up?"), "{error}");
    }
    let other = options(&serve(|_, _, _| (404, b"nothing here".to_vec())));
    let error = Automatic::open(&other).err().unwrap().to_string();
    assert!(error.contains("started with --api"), "{error}");
    let html = options(&serve(|_, _, _| (200, b"<html>".to_vec())));
    let error = Comfy::open(&html, workflow(&nodes)).err().unwrap();
    assert!(matches!(error, RenderError::Protocol { .. }), "{error:?}");
    let url = serve(|_, path, _| {
        if !path.ends_with("models") {
            std::thread::sleep(Duration::from_secs(2));
        }
        ok(&json!({"data": []}))
    });
    let slow = ServerOptions { timeout: Duration::from_millis(200), ..options(&url) };
    let begin = Instant::now();
    let error = OpenAi::open(&slow).unwrap().render(&job("a car")).unwrap_err();
    assert!(matches!(error, RenderError::Slow { .. }) && error.to_string().contains("0.2 s"), "{error:?}");
    assert!(begin.elapsed() < Duration::from_millis(1500), "what was too slow is not asked again");
    for wrong in [options("localhost:7860"), ServerOptions { attempts: 0, ..options("http://x") }] {
        assert!(matches!(Automatic::open(&wrong), Err(RenderError::Option(_))));
    }
}
