//! One call of an endpoint, tried until it answers or there is no hope.

use super::{Answered, EndpointError, EndpointOptions};
use crate::meter::Meter;
use crate::parse::parse_list;
use mils_optim::{Proposals, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// Most bytes of an answer: a server may not fill the memory.
const MOST_BYTES: u64 = 8 << 20;
/// Longest pause between two attempts, and the longest that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a pause is looked up from.
const GLANCE: Duration = Duration::from_millis(50);

/// A way to the endpoint.
pub(super) struct Line {
    agent: Agent,
    url: String,
    key: Option<String>,
    attempts: usize,
    pause: Duration,
}

/// Why a call gave no answer.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// One line.
    pub problem: String,
    /// What else it tells of.
    pub of: Of,
}

/// What a call without an answer tells of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Nothing.
    One,
    /// The same call will never be answered, nor will others like it.
    Alike,
    /// Nobody is there to answer, as often as that was tried.
    All,
}

/// What to do after an attempt.
enum Attempt {
    Again { problem: String, after: Option<Duration>, of: Of },
    Never(String),
}

impl Line {
    pub(super) fn new(options: &EndpointOptions) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .timeout_connect(Some(options.timeout.min(Duration::from_secs(30))))
            .http_status_as_error(false)
            .max_idle_connections_per_host(options.calls)
            .user_agent(concat!("mils/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().new_agent(),
            url: options.url.trim_end_matches('/').to_owned(),
            key: options.key.clone(),
            attempts: options.attempts,
            pause: options.pause,
        }
    }

    /// A problem as an error that names the endpoint.
    pub(super) fn error(&self, problem: String) -> EndpointError {
        EndpointError::Endpoint { url: self.url.clone(), problem }
    }

    /// Names of the models that the endpoint has. That is asked before any work is done, with the user waiting: tried
    /// twice and not as often as an answer in a long run.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn models(&self, cancel: &AtomicBool) -> Result<Vec<String>, EndpointError> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let get = || {
            let mut request = self.agent.get(format!("{}/models", self.url));
            if let Some(key) = &self.key {
                request = request.header("Authorization", format!("Bearer {key}"));
            }
            request.call()
        };
        let models: Models =
            self.tried(&get, &|| cancel.load(Ordering::SeqCst), self.attempts.min(2)).map_err(|fault| {
                if fault.problem.is_empty() { EndpointError::Cancelled } else { self.error(fault.problem) }
            })?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }

    /// Sends until there is an answer that can be read. Without a problem to tell it was cancelled.
    fn tried<T: serde::de::DeserializeOwned>(
        &self,
        send: &dyn Fn() -> Result<Response<Body>, ureq::Error>,
        cancelled: &dyn Fn() -> bool,
        attempts: usize,
    ) -> Result<T, Fault> {
        let mut pause = self.pause;
        for attempt in 1.. {
            if cancelled() {
                break;
            }
            let (problem, after, of) = match read(send()) {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Never(problem)) => return Err(Fault { problem, of: Of::Alike }),
                Err(Attempt::Again { problem, after, of }) => (problem, after, of),
            };
            if attempt >= attempts {
                let problem = if attempt == 1 { problem } else { format!("{problem} ({attempt} attempts)") };
                return Err(Fault { problem, of });
            }
            let end = Instant::now() + after.unwrap_or(pause).min(LONGEST_PAUSE);
            while Instant::now() < end && !cancelled() {
                std::thread::sleep(GLANCE.min(end.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Fault { problem: String::new(), of: Of::One })
    }
}

/// The answer in a response, or what is wrong with it.
fn read<T: serde::de::DeserializeOwned>(response: Result<Response<Body>, ureq::Error>) -> Result<T, Attempt> {
    let again = |problem: String, of: Of| Attempt::Again { problem, after: None, of };
    let mut response = response.map_err(|error| match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Attempt::Never(format!("is no URL that can be asked ({error})"))
        }
        ureq::Error::HostNotFound => Attempt::Never("there is no such host; check the URL".into()),
        error => {
            // One that takes the call and is slow may be in time for others.
            let of = if matches!(error, ureq::Error::Timeout(_)) { Of::One } else { Of::All };
            again(format!("no answer: {}; is the server up?", one_line(&error.to_string())), of)
        }
    })?;
    let (status, after) = (response.status().as_u16(), retry_after(response.headers()));
    let body = response.body_mut().with_config().limit(MOST_BYTES).lossy_utf8(true).read_to_string();
    let body = body.map_err(|e| again(format!("the answer broke off: {}", one_line(&e.to_string())), Of::One))?;
    match status {
        200..=299 => serde_json::from_str(&body).map_err(|_| {
            Attempt::Never(format!("this is no answer of an OpenAI-compatible endpoint: {}", beginning(&body)))
        }),
        // What the server says comes last: it may say anything.
        401 | 403 => Err(Attempt::Never(format!(
            "it refuses the key ({status}); set MILS_API_KEY or OPENAI_API_KEY: {}",
            told(&body)
        ))),
        404 | 405 => Err(Attempt::Never(format!(
            "there is no such model or path ({status}); the URL ends with /v1, as a rule: {}",
            told(&body)
        ))),
        408 | 425 | 429 | 500..=599 => {
            Err(Attempt::Again { problem: format!("it failed ({status}): {}", told(&body)), after, of: Of::One })
        }
        _ => Err(Attempt::Never(format!("it refuses ({status}): {}", told(&body)))),
    }
}

/// Seconds that the server asks to wait for. Dates, which the header may hold too, are waited for as by default.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What an error's body says.
fn told(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let message = ["/error/message", "/message", "/detail", "/error"].iter().find_map(|at| value.pointer(at)?.as_str());
    beginning(message.unwrap_or(body))
}

/// The first words, on one line and without control characters.
fn beginning(text: &str) -> String {
    const MOST: usize = 160;
    let line = one_line(text);
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "nothing".into(),
        None => line,
    }
}

fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// One answer that is asked for.
pub(super) struct Call {
    pub number: usize,
    /// Texts that are asked for.
    pub lines: usize,
    pub question: Question,
    /// Set where nobody waits for it any more.
    pub cancel: [Arc<AtomicBool>; 2],
    pub reply: Sender<Answered>,
}

/// What is sent. Numbers go as they were written: a float that is widened first, as in a [`Value`], would not.
#[derive(Serialize)]
pub(super) struct Question {
    pub model: String,
    pub messages: Vec<Message>,
    pub temperature: f32,
    pub top_p: f32,
    pub max_tokens: u32,
    pub seed: u32,
}

#[derive(Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    pub content: String,
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Call {
    /// Makes it, and replies.
    pub(super) fn make(self, line: &Line, meter: &Meter) {
        let cancelled = || self.cancel.iter().any(|flag| flag.load(Ordering::SeqCst));
        if cancelled() {
            return;
        }
        let send = || {
            let mut request = line.agent.post(format!("{}/chat/completions", line.url));
            if let Some(key) = &line.key {
                request = request.header("Authorization", format!("Bearer {key}"));
            }
            request.send_json(&self.question)
        };
        let answer = meter
            .time(|| line.tried(&send, &cancelled, line.attempts))
            .and_then(|completion| self.proposals(completion));
        // Whoever asked may have seen enough.
        let _ = self.reply.send((self.number, answer));
    }

    fn proposals(&self, completion: Completion) -> Result<Proposals, Fault> {
        let Completion { choices, usage } = completion;
        let choice = choices.into_iter().next().ok_or_else(|| Fault {
            problem: "an answer without `choices`; is this an OpenAI-compatible endpoint?".into(),
            of: Of::Alike,
        })?;
        let cut_off = choice.finish_reason.as_deref() == Some("length");
        let parsed = parse_list(&choice.message.content.unwrap_or_default(), cut_off, self.lines);
        let tokens = usage.unwrap_or_default();
        let reused = tokens.prompt_tokens_details.unwrap_or_default().cached_tokens.unwrap_or_default();
        let usage = Usage {
            prompt_tokens: tokens.prompt_tokens,
            reused_tokens: reused.min(tokens.prompt_tokens),
            generated_tokens: tokens.completion_tokens,
        };
        Ok(Proposals { texts: parsed.texts, unusable: parsed.unusable, usage, ..Proposals::default() })
    }
}
