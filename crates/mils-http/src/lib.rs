//! Requests to servers that models run on, as language models and renderers of pictures are asked.
//!
//! A request that fails is sent again after growing pauses, or as long as the server asks for, until it is answered or it
//! is known that it never will be. What is wrong is said on one line, with what to do. A key is sent as a bearer token and
//! never shown; an answer has a limit.
//!
//! It is no HTTP library (that is `ureq`), and it fetches no large files: `mils-models` does.
//!
//! ```
//! use mils_http::{Client, FaultKind, Options};
//! let client = Client::new(Options { attempts: 1, ..Options::default() });
//! // Nobody listens there.
//! let answer = client.json::<serde_json::Value>(&|| client.get("http://127.0.0.1:9/v1/models").call(), &|| false);
//! assert_eq!(answer.unwrap_err().kind, FaultKind::Down);
//! ```

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, Instant};
pub use ureq;
use ureq::http::{HeaderMap, Response};
use ureq::typestate::{WithBody, WithoutBody};
use ureq::{Agent, Body, RequestBuilder};

/// Longest pause between two attempts, and the longest that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a pause is looked up from.
const GLANCE: Duration = Duration::from_millis(50);

/// How a server is asked.
#[derive(Clone)]
pub struct Options {
    /// Sent as a bearer token. Never shown.
    pub key: Option<String>,
    /// Connections that are kept open.
    pub connections: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Whether what took too long is tried again.
    pub again_when_slow: bool,
    /// How often an answer is tried for, where the network or the server fails.
    pub attempts: usize,
    /// The first pause before it is tried again; each further one is twice as long, up to a minute. What the server asks
    /// for comes first.
    pub pause: Duration,
    /// Most bytes of an answer: a server may not fill the memory.
    pub most_bytes: u64,
    /// How the server is spoken of.
    pub words: Words,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key: None,
            connections: 8,
            timeout: Duration::from_secs(300),
            again_when_slow: true,
            attempts: 6,
            pause: Duration::from_secs(1),
            most_bytes: 8 << 20,
            words: Words::default(),
        }
    }
}

/// How a server is spoken of in errors.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// What it should be: "this is no answer of …".
    pub server: &'static str,
    /// What to do where it refuses the key.
    pub key: &'static str,
    /// What to look at where there is nothing at the address.
    pub path: &'static str,
}

impl Default for Words {
    /// Those of an OpenAI-compatible endpoint.
    fn default() -> Self {
        Self {
            server: "an OpenAI-compatible endpoint",
            key: "set MILS_API_KEY or OPENAI_API_KEY",
            path: "there is no such model or path; the URL ends with /v1, as a rule",
        }
    }
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// It was cancelled; there is no problem to tell.
    Cancelled,
    /// Nobody answers there.
    Down,
    /// It took longer than it may.
    Slow,
    /// The server says no, with this status.
    Status(u16),
    /// The answer is none that can be read.
    Answer,
    /// The address is none that can be asked.
    Address,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What sort of failure it was.
    pub kind: FaultKind,
    /// One line. Empty where it was cancelled.
    pub problem: String,
    /// The same request will never be answered, nor will others like it.
    pub fatal: bool,
}

/// What to do after an attempt.
struct Attempt {
    kind: FaultKind,
    problem: String,
    again: bool,
    /// How long the server asks to wait.
    after: Option<Duration>,
}

impl Attempt {
    fn again(kind: FaultKind, problem: String) -> Self {
        Self { kind, problem, again: true, after: None }
    }

    fn never(kind: FaultKind, problem: String) -> Self {
        Self { kind, problem, again: false, after: None }
    }
}

/// Sends one attempt.
pub type Send<'a> = dyn Fn() -> Result<Response<Body>, ureq::Error> + 'a;

/// A way to a server.
pub struct Client {
    agent: Agent,
    options: Options,
}

impl Client {
    /// Asks nobody yet.
    pub fn new(options: Options) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .timeout_connect(Some(options.timeout.min(Duration::from_secs(30))))
            .http_status_as_error(false)
            .max_idle_connections_per_host(options.connections)
            .user_agent(concat!("mils/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().new_agent(), options }
    }

    /// A GET request, with the key.
    pub fn get(&self, url: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(url);
        match &self.options.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    /// A GET request to somewhere that the server has named: without the key, which is for the server alone.
    pub fn get_elsewhere(&self, url: &str) -> RequestBuilder<WithoutBody> {
        self.agent.get(url)
    }

    /// A POST request, with the key.
    pub fn post(&self, url: &str) -> RequestBuilder<WithBody> {
        let request = self.agent.post(url);
        match &self.options.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Sends until there is an answer that can be read as JSON.
    ///
    /// # Errors
    /// If there is none, or it was cancelled meanwhile.
    pub fn json<T: DeserializeOwned>(&self, send: &Send<'_>, cancelled: &dyn Fn() -> bool) -> Result<T, Fault> {
        self.json_within(self.options.attempts, send, cancelled)
    }

    /// As [`Client::json`], tried so often at most: where somebody waits for it.
    ///
    /// # Errors
    /// As there.
    pub fn json_within<T: DeserializeOwned>(
        &self,
        attempts: usize,
        send: &Send<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<T, Fault> {
        let no_answer = |body: &str| format!("this is no answer of {}: {}", self.options.words.server, beginning(body));
        let read = |body: Vec<u8>| {
            let body = String::from_utf8_lossy(&body);
            serde_json::from_str(&body).map_err(|_| Attempt::never(FaultKind::Answer, no_answer(&body)))
        };
        self.tried(attempts.min(self.options.attempts), send, cancelled, &read)
    }

    /// Sends until there is an answer, whatever is in it.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub fn bytes(&self, send: &Send<'_>, cancelled: &dyn Fn() -> bool) -> Result<Vec<u8>, Fault> {
        self.tried(self.options.attempts, send, cancelled, &Ok)
    }

    fn tried<T>(
        &self,
        attempts: usize,
        send: &Send<'_>,
        cancelled: &dyn Fn() -> bool,
        read: &dyn Fn(Vec<u8>) -> Result<T, Attempt>,
    ) -> Result<T, Fault> {
        let mut pause = self.options.pause;
        for attempt in 1.. {
            if cancelled() {
                break;
            }
            let Attempt { kind, problem, again, after } = match self.body(send()).and_then(read) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if !again {
                return Err(Fault { kind, problem, fatal: true });
            }
            if attempt >= attempts || kind == FaultKind::Slow && !self.options.again_when_slow {
                let problem = if attempt == 1 { problem } else { format!("{problem} ({attempt} attempts)") };
                return Err(Fault { kind, problem, fatal: false });
            }
            let end = Instant::now() + after.unwrap_or(pause).min(LONGEST_PAUSE);
            while Instant::now() < end && !cancelled() {
                std::thread::sleep(GLANCE.min(end.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Fault { kind: FaultKind::Cancelled, problem: String::new(), fatal: false })
    }

    /// What an answer has in it, or what is wrong with it.
    fn body(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, Attempt> {
        let Words { key, path, .. } = self.options.words;
        let mut response = response.map_err(|error| self.unanswered(&error))?;
        let (status, after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = response.body_mut().with_config().limit(self.options.most_bytes).read_to_vec();
        let body = body.map_err(|error| match error {
            ureq::Error::Timeout(_) => self.unanswered(&error),
            error => {
                Attempt::again(FaultKind::Answer, format!("the answer broke off: {}", one_line(&error.to_string())))
            }
        })?;
        let said = || told(&String::from_utf8_lossy(&body));
        let never = |problem: String| Err(Attempt::never(FaultKind::Status(status), problem));
        match status {
            200..=299 => Ok(body),
            // What the server says comes last: it may say anything.
            401 | 403 => never(format!("it refuses the key ({status}); {key}: {}", said())),
            404 | 405 => never(format!("{path} ({status}): {}", said())),
            408 | 425 | 429 | 500..=599 => {
                let problem = format!("it failed ({status}): {}", said());
                Err(Attempt { after, ..Attempt::again(FaultKind::Status(status), problem) })
            }
            _ => never(format!("it refuses ({status}): {}", said())),
        }
    }

    /// Why nothing came.
    fn unanswered(&self, error: &ureq::Error) -> Attempt {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Attempt::never(FaultKind::Address, format!("is no URL that can be asked ({error})"))
            }
            ureq::Error::HostNotFound => {
                Attempt::never(FaultKind::Address, "there is no such host; check the URL".into())
            }
            ureq::Error::Timeout(ureq::Timeout::Global) => {
                let seconds = self.options.timeout.as_secs_f32();
                Attempt::again(FaultKind::Slow, format!("no whole answer in {seconds} s; is the server busy?"))
            }
            error => {
                let error = one_line(&error.to_string());
                Attempt::again(FaultKind::Down, format!("no answer: {error}; is the server up?"))
            }
        }
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

/// The first words of what somebody else says, on one line and without control characters.
pub fn beginning(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_http::{Response, Server};

    #[test]
    fn what_is_too_slow_is_told_from_what_is_down() {
        let server = Server::http("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", server.server_addr().to_ip().unwrap());
        std::thread::spawn(move || {
            for request in server.incoming_requests() {
                std::thread::sleep(Duration::from_millis(600));
                let _ = request.respond(Response::from_string("{}"));
            }
        });
        let (pause, timeout) = (Duration::from_millis(1), Duration::from_millis(100));
        let options = Options { timeout, pause, attempts: 3, again_when_slow: false, ..Options::default() };
        let client = Client::new(options);
        let fault = client.bytes(&|| client.get(&url).call(), &|| false).unwrap_err();
        assert_eq!((fault.kind, fault.fatal), (FaultKind::Slow, false));
        assert_eq!(fault.problem, "no whole answer in 0.1 s; is the server busy?", "once is enough");
        let fault = client.bytes(&|| client.get("http://").call(), &|| false).unwrap_err();
        assert_eq!((fault.kind, fault.fatal), (FaultKind::Address, true));
        let fault = client.bytes(&|| client.get(&url).call(), &|| true).unwrap_err();
        assert_eq!((fault.kind, fault.problem.as_str()), (FaultKind::Cancelled, ""));
    }

    #[test]
    fn what_servers_say_is_one_short_line() {
        assert_eq!(told(r#"{"error":{"message":"no\nroom"}}"#), "no room");
        assert_eq!(told("  \u{1b}[2J "), "[2J");
        assert_eq!(told(""), "nothing");
        assert_eq!(beginning(&"x".repeat(500)).chars().count(), 161);
    }
}
