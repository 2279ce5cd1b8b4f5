//! A generator behind an OpenAI-compatible endpoint: llama-server, vLLM, SGLang, Ollama, LM Studio and others.
//!
//! What is wanted is asked for in several answers, each a call of `POST {url}/chat/completions`; a few calls are under way
//! at a time, over all handles, and the server decodes them together. Each answer has a seed of its own, from the request's.
//!
//! Reference: OpenAI's API reference, "Create chat completion".

mod call;
#[cfg(test)]
mod tests;

use crate::generator::check_sampling;
use crate::meter::Meter;
use crate::sequence::{answer_tokens, mix};
use call::{Call, Line, Message, Question};
use mils_http::{Fault, FaultKind};
use mils_optim::prompt::{Messages, PromptError, PromptTemplate};
use mils_optim::{BoxError, Generator, Proposals, Request, Unusable, UnusableReason};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most calls that are under way at a time.
pub const MOST_CALLS: usize = 256;
/// How often it is looked whether a run was cancelled while answers are waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// Which endpoint, and how it is asked.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Its base, as `http://localhost:8080/v1`.
    pub url: String,
    /// The model's name there; `None` asks the endpoint for its models and takes the only one.
    pub model: Option<String>,
    /// Sent as a bearer token. Never shown.
    pub key: Option<String>,
    /// Texts that each answer is asked for.
    pub lines: usize,
    /// Softmax temperature.
    pub temperature: f32,
    /// Nucleus sampling: the least set of tokens with this much probability.
    pub top_p: f32,
    /// Tokens of an answer, at most; `None` is 64 a line and some. Models that reason first need more.
    pub answer_tokens: Option<u32>,
    /// Calls that are under way at a time.
    pub calls: usize,
    /// How long one call may take.
    pub timeout: Duration,
    /// How often an answer is tried for, where the network or the server fails.
    pub attempts: usize,
    /// The first pause before it is tried again; each further one is twice as long, up to a minute. What the server asks
    /// for comes first.
    pub pause: Duration,
    /// Set by another thread to end a generation early; what is complete by then is returned.
    pub cancel: Arc<AtomicBool>,
}

impl Default for EndpointOptions {
    /// The paper's sampling, in answers of 7 lines, 8 at a time.
    fn default() -> Self {
        Self {
            url: String::new(),
            model: None,
            key: None,
            lines: 7,
            temperature: 0.5,
            top_p: 0.9,
            answer_tokens: None,
            calls: 8,
            timeout: Duration::from_secs(300),
            attempts: 6,
            pause: Duration::from_secs(1),
            cancel: Arc::default(),
        }
    }
}

/// Why an endpoint gives no texts. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// The endpoint does not answer, or refuses.
    #[error("{url}: {problem}")]
    Endpoint {
        /// What was asked.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Which model is meant is not clear.
    #[error("{url} has {}; name one with --generator-model", if known.is_empty() { "no models".to_owned() } else { format!("the models {known}") })]
    Model {
        /// The endpoint.
        url: String,
        /// Its models, for people.
        known: String,
    },
    /// The prompt template cannot be filled.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// [`EndpointOptions::cancel`] was set.
    #[error("cancelled")]
    Cancelled,
}

/// An endpoint as a [`Generator`], whose texts are streamed: each answer comes as soon as it is whole.
pub struct EndpointGenerator {
    shared: Arc<Shared>,
    template: Arc<PromptTemplate>,
}

/// What the handles to one endpoint share.
struct Shared {
    line: Arc<Line>,
    options: EndpointOptions,
    model: String,
    /// To the threads that call; they end with the last handle.
    calls: Mutex<Sender<Call>>,
    meter: Arc<Meter>,
}

impl EndpointGenerator {
    /// Finds out about the model. The endpoint must be up.
    ///
    /// # Errors
    /// If an option makes no sense, the endpoint does not answer, or it has several models and none is named.
    pub fn open(options: EndpointOptions, template: impl Into<Arc<PromptTemplate>>) -> Result<Self, EndpointError> {
        check(&options)?;
        let line = Arc::new(Line::new(&options));
        let model = match &options.model {
            Some(model) => model.clone(),
            None => only(&options.url, line.models(&options.cancel)?)?,
        };
        let (calls, inbox) = channel::<Call>();
        let (inbox, meter) = (Arc::new(Mutex::new(inbox)), Arc::new(Meter::new()));
        for _ in 0..options.calls {
            let (line, inbox, meter) = (Arc::clone(&line), Arc::clone(&inbox), Arc::clone(&meter));
            let work = move || {
                loop {
                    // The lock is held while a call is waited for, and by one thread at a time.
                    let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(call) = next else { return };
                    call.make(&line, &meter);
                }
            };
            std::thread::Builder::new()
                .name("endpoint".into())
                .spawn(work)
                .map_err(|e| EndpointError::Option(format!("cannot start a thread: {e}")))?;
        }
        let shared = Shared { line, options, model, calls: Mutex::new(calls), meter };
        Ok(Self { shared: Arc::new(shared), template: template.into() })
    }

    /// The model's name there.
    pub fn model(&self) -> &str {
        &self.shared.model
    }

    /// Another handle to the same endpoint, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), template: Arc::clone(&self.template) }
    }

    /// Asks in other words from now on; other handles go on with theirs.
    pub fn set_template(&mut self, template: Arc<PromptTemplate>) {
        self.template = template;
    }

    /// How long it was waited for answers so far, whoever asked.
    pub fn busy(&self) -> Duration {
        self.shared.meter.read()
    }

    /// Hands out the calls of a request; `drop` what comes back to let go of those that were not begun.
    fn ask(&self, request: &Request<'_>, given_up: &Arc<AtomicBool>) -> Result<Receiver<Answered>, EndpointError> {
        let Shared { options, model, .. } = &*self.shared;
        let (reply, answers) = channel();
        let mut left = request.count;
        let calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        for number in 0.. {
            if left == 0 {
                break;
            }
            let lines = left.min(options.lines);
            left -= lines;
            let Messages { system, user } = self.template.render(request.pool, lines)?;
            let messages = [("system", system), ("user", user)].map(|(role, content)| Message { role, content });
            let question = Question {
                model: model.clone(),
                messages: messages.into_iter().filter(|m| m.role != "system" || !m.content.is_empty()).collect(),
                temperature: options.temperature,
                top_p: options.top_p,
                max_tokens: options
                    .answer_tokens
                    .unwrap_or_else(|| answer_tokens(lines).try_into().unwrap_or(u32::MAX)),
                seed: mix(request.seed, number as u64),
            };
            let cancel = [Arc::clone(&options.cancel), Arc::clone(given_up)];
            let call = Call { number, lines, question, cancel, reply: reply.clone() };
            calls.send(call).map_err(|_| EndpointError::Cancelled)?;
        }
        Ok(answers)
    }
}

/// An answer's number, and what there is of it.
type Answered = (usize, Result<Proposals, Fault>);

/// The only one of an endpoint's models.
fn only(url: &str, mut models: Vec<String>) -> Result<String, EndpointError> {
    match (models.pop(), models.is_empty()) {
        (Some(model), true) => Ok(model),
        (last, _) => {
            models.extend(last);
            Err(EndpointError::Model { url: url.to_owned(), known: models.join(", ") })
        }
    }
}

fn check(options: &EndpointOptions) -> Result<(), EndpointError> {
    let EndpointOptions { url, lines, temperature, top_p, calls, attempts, .. } = options;
    let wrong = |problem: String| Err(EndpointError::Option(problem));
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return wrong(format!("{url} is no endpoint; it begins with http:// or https:// and ends with /v1, as a rule"));
    }
    check_sampling(*lines, *temperature, *top_p).or_else(wrong)?;
    if !(1..=MOST_CALLS).contains(calls) || *attempts == 0 {
        return wrong(format!("calls is {calls} and attempts {attempts}; expected 1 to {MOST_CALLS}, and at least 1"));
    }
    Ok(())
}

impl Generator for EndpointGenerator {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        Proposals::streamed(self, request)
    }

    /// Where some answers fail for good and others come, those that fail are among what is unusable; where all fail, the
    /// first one's error is the request's.
    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let given_up = Arc::new(AtomicBool::new(false));
        // However this ends, calls that were not begun are not made.
        let _end = Defer(&given_up);
        let answers = self.ask(request, &given_up)?;
        let (mut came, mut failed) = (0, Vec::new());
        loop {
            match answers.recv_timeout(PATIENCE) {
                Ok((number, Ok(piece))) => {
                    came += 1;
                    if take(number, piece).is_break() {
                        return Ok(());
                    }
                }
                // Nothing else will come of the others either.
                Ok((_, Err(Fault { fatal, kind, problem }))) if came == 0 && (fatal || kind == FaultKind::Down) => {
                    return Err(self.shared.line.error(problem).into());
                }
                Ok((number, Err(fault))) => {
                    let down = fault.kind == FaultKind::Down;
                    failed.push((number, fault));
                    if down {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) if !self.shared.options.cancel.load(Ordering::SeqCst) => {}
                Err(_) => break,
            }
        }
        if came == 0 && !self.shared.options.cancel.load(Ordering::SeqCst) {
            if let Some((_, fault)) = failed.into_iter().next() {
                return Err(self.shared.line.error(fault.problem).into());
            }
            return Ok(());
        }
        for (number, fault) in failed {
            let unusable = vec![Unusable { text: fault.problem, reason: UnusableReason::Failed }];
            if take(number, Proposals { unusable, ..Proposals::default() }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Sets a flag when it goes.
struct Defer<'a>(&'a AtomicBool);

impl Drop for Defer<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
