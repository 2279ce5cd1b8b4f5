//! One call of an endpoint, tried until it answers or there is no hope.

use super::{Answered, EndpointError, EndpointOptions};
use crate::meter::Meter;
use crate::parse::parse_list;
use mils_http::{Client, Fault, FaultKind, Options};
use mils_optim::{Proposals, Usage};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

/// A way to the endpoint.
pub(super) struct Line {
    client: Client,
    url: String,
}

impl Line {
    pub(super) fn new(options: &EndpointOptions) -> Self {
        let client = Client::new(Options {
            key: options.key.clone(),
            connections: options.calls,
            timeout: options.timeout,
            attempts: options.attempts,
            pause: options.pause,
            ..Options::default()
        });
        Self { client, url: options.url.trim_end_matches('/').to_owned() }
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
        let get = || self.client.get(&format!("{}/models", self.url)).call();
        let models: Result<Models, Fault> = self.client.json_within(2, &get, &|| cancel.load(Ordering::SeqCst));
        let models = models.map_err(|fault| match fault.kind {
            FaultKind::Cancelled => EndpointError::Cancelled,
            _ => self.error(fault.problem),
        })?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }
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
        let send = || line.client.post(&format!("{}/chat/completions", line.url)).send_json(&self.question);
        let answer =
            meter.time(|| line.client.json(&send, &cancelled)).and_then(|completion| self.proposals(completion));
        // Whoever asked may have seen enough.
        let _ = self.reply.send((self.number, answer));
    }

    fn proposals(&self, completion: Completion) -> Result<Proposals, Fault> {
        let Completion { choices, usage } = completion;
        let choice = choices.into_iter().next().ok_or_else(|| Fault {
            kind: FaultKind::Answer,
            problem: "an answer without `choices`; is this an OpenAI-compatible endpoint?".into(),
            fatal: true,
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
