//! The generator as the loop sees it: options, errors, and the handle to the thread that owns llama.cpp.

use crate::devices::Placement;
use crate::engine::{self, Ask, Reply};
use crate::gguf;
use crate::meter::Meter;
use mils_optim::prompt::{PromptError, PromptTemplate};
use mils_optim::{BoxError, Generator, Proposals, Request};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most sequences of the KV cache, prompts and answers together: llama.cpp's `LLAMA_MAX_SEQ`.
pub const MOST_SEQUENCES: usize = 256;
/// Most requests that are answered side by side.
pub const MOST_PROMPTS: usize = 64;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct LlamaOptions {
    /// Tokens of prompt and one answer together.
    pub context: u32,
    /// Answers that are sampled side by side, over all requests.
    pub sequences: usize,
    /// Take fewer than [`LlamaOptions::sequences`] where the model and the machine are better off with them, or memory
    /// is short; [`ModelInfo::sequences`] says how many.
    pub fit: bool,
    /// Requests that are answered side by side; the KV cache keeps the last prompt of as many.
    pub prompts: usize,
    /// Texts that each answer is asked for.
    pub lines: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Nucleus sampling: the least set of tokens with this much probability.
    pub top_p: f32,
    /// Threads; `None` takes as many as there are cores.
    pub threads: Option<usize>,
    /// What it may run on.
    pub placement: Placement,
    /// Layers on the GPU, where there is one; the others stay on the CPU.
    pub gpu_layers: u32,
    /// Set by another thread to end the loading or a generation early; what is complete by then is returned.
    pub cancel: Arc<AtomicBool>,
}

impl Default for LlamaOptions {
    /// The paper's sampling (temperature 0.5, top-p 0.9) in 8 sequences of 7 lines.
    fn default() -> Self {
        Self {
            context: 4096,
            sequences: 8,
            fit: false,
            prompts: 1,
            lines: 7,
            temperature: 0.5,
            top_p: 0.9,
            threads: None,
            placement: Placement::Auto,
            gpu_layers: 999,
            cancel: Arc::default(),
        }
    }
}

/// What a model says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// `general.name`, or the file's name.
    pub name: String,
    /// Number of weights.
    pub parameters: u64,
    /// Answers that are sampled side by side.
    pub sequences: usize,
    /// What it runs on, for people.
    pub device: String,
}

/// Why a model cannot be opened or used. Messages are one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// The file cannot be used.
    #[error("{}: {problem}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// llama.cpp could not be set up.
    #[error("llama.cpp: {0}")]
    Backend(String),
    /// The prompt and an answer do not fit.
    #[error(
        "the prompt has {prompt} tokens and an answer may take {answer}, more than the context of {context}; keep \
         fewer texts (--keep) or raise `context` in the pack"
    )]
    ContextTooSmall {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that are set aside for an answer.
        answer: usize,
        /// Tokens there are.
        context: usize,
    },
    /// The model's chat template cannot be filled.
    #[error("the model's chat template: {0}")]
    ChatTemplate(String),
    /// The prompt template cannot be filled.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// [`LlamaOptions::cancel`] was set while the model was loaded.
    #[error("cancelled")]
    Cancelled,
    /// The thread that owns the model has ended.
    #[error("the generator's thread has ended")]
    Gone,
}

/// A GGUF chat model as a [`Generator`], whose texts are streamed: each answer comes as soon as it ends.
///
/// # What is reproducible
/// A request's answers are sampled with states of their own, from its seed and their numbers alone. As long as one
/// request is answered at a time, an engine that was asked the same gives the same, bit by bit. Requests that are
/// answered side by side share batches, and in which ones is a matter of time: the shape of a batch and the places in
/// the cache decide in which order floats are added, so that logits differ in their last bits. Now and then that turns
/// a choice between tokens that are as good as equally likely, and the answer goes on differently from there. The same
/// holds for another number of sequences or threads, and for another device.
pub struct LlamaGenerator {
    // Dropped before the thread is waited for: it ends when all of these are gone.
    asks: Sender<Ask>,
    thread: Arc<Thread>,
    owner: u64,
    template: Arc<PromptTemplate>,
}

/// What the handles to one model share.
struct Thread {
    handle: Option<JoinHandle<()>>,
    info: ModelInfo,
    options: LlamaOptions,
    meter: Arc<Meter>,
    owners: AtomicU64,
}

impl LlamaGenerator {
    /// Loads a model on a thread of its own.
    ///
    /// # Errors
    /// If the file is missing, is no GGUF, is damaged, has no chat template, or an option makes no sense; or if it was
    /// cancelled.
    pub fn open(
        path: &Path,
        options: LlamaOptions,
        template: impl Into<Arc<PromptTemplate>>,
    ) -> Result<Self, LlamaError> {
        check(&options)?;
        let architecture = check_file(path)?;
        let (asks, inbox) = channel();
        let (ready, opened) = channel();
        let meter = Arc::new(Meter::new());
        let (path, own, timer) = (path.to_owned(), options.clone(), Arc::clone(&meter));
        let thread = std::thread::Builder::new()
            .name("llama".into())
            .spawn(move || engine::run(&path, &architecture, &own, &timer, &ready, &inbox))
            .map_err(|e| LlamaError::Backend(e.to_string()))?;
        let info = opened.recv().map_err(|_| LlamaError::Gone)??;
        let owners = AtomicU64::new(1);
        let thread = Thread { handle: Some(thread), info, options, meter, owners };
        Ok(Self { asks, thread: Arc::new(thread), owner: 0, template: template.into() })
    }

    /// What the model says of itself.
    pub fn info(&self) -> &ModelInfo {
        &self.thread.info
    }

    /// Another handle to the same model, for another thread: what both ask at a time is decoded together. The KV cache
    /// keeps the last prompt of each, up to [`LlamaOptions::prompts`].
    #[must_use]
    pub fn another(&self) -> Self {
        let owner = self.thread.owners.fetch_add(1, Ordering::Relaxed);
        let (thread, template) = (Arc::clone(&self.thread), Arc::clone(&self.template));
        Self { asks: self.asks.clone(), thread, owner, template }
    }

    /// Asks in other words from now on; other handles go on with theirs.
    pub fn set_template(&mut self, template: Arc<PromptTemplate>) {
        self.template = template;
    }

    /// How long the model has been at work so far, whoever asked.
    pub fn busy(&self) -> Duration {
        self.thread.meter.read()
    }

    fn ask(&self, request: &Request<'_>) -> Result<Receiver<Reply>, LlamaError> {
        let messages = self.template.render(request.pool, self.thread.options.lines)?;
        let (reply, answers) = channel();
        let Request { count, seed, .. } = *request;
        let ask = Ask { messages, count, seed, owner: self.owner, reply };
        self.asks.send(ask).map_err(|_| LlamaError::Gone)?;
        Ok(answers)
    }
}

/// What makes sense for any generator.
pub(crate) fn check_sampling(lines: usize, temperature: f32, top_p: f32) -> Result<(), String> {
    if !(1..=1000).contains(&lines) {
        return Err(format!("lines is {lines}; expected 1 to 1000"));
    }
    if !(0.0..=10.0).contains(&temperature) {
        return Err(format!("temperature is {temperature}; expected 0 to 10"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(format!("top-p is {top_p}; expected more than 0 and at most 1"));
    }
    Ok(())
}

fn check(options: &LlamaOptions) -> Result<(), LlamaError> {
    let LlamaOptions { sequences, prompts, lines, temperature, top_p, context, .. } = *options;
    let wrong = |problem: String| Err(LlamaError::Option(problem));
    if !(1..=MOST_PROMPTS).contains(&prompts) {
        return wrong(format!("prompts is {prompts}; expected 1 to {MOST_PROMPTS}"));
    }
    // One of llama.cpp's holds each prompt.
    let most = MOST_SEQUENCES - prompts;
    if !(1..=most).contains(&sequences) {
        return wrong(format!("sequences is {sequences}; expected 1 to {most}"));
    }
    check_sampling(lines, temperature, top_p).or_else(wrong)?;
    if !(64..=1 << 20).contains(&context) {
        return wrong(format!("context is {context}; expected 64 to 1048576"));
    }
    Ok(())
}

/// Tells a missing, foreign or damaged file before llama.cpp sees it, which would end the process over some. Returns
/// the architecture.
fn check_file(path: &Path) -> Result<String, LlamaError> {
    let wrong = |problem: String| LlamaError::Model { path: path.to_owned(), problem };
    // llama.cpp takes paths as UTF-8.
    if path.to_str().is_none() {
        return Err(wrong("llama.cpp cannot open a path that is not UTF-8; rename it".into()));
    }
    // Opening a pipe would wait for its writer.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(wrong("is not a file; name a GGUF model".into()));
    }
    let file = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => wrong("no such file; name a GGUF model".into()),
        _ => wrong(e.to_string()),
    })?;
    gguf::check(&mut std::io::BufReader::new(file)).map_err(wrong)
}

impl Generator for LlamaGenerator {
    fn propose(&mut self, request: &Request<'_>) -> Result<Proposals, BoxError> {
        Proposals::streamed(self, request)
    }

    fn stream(
        &mut self,
        request: &Request<'_>,
        take: &mut dyn FnMut(usize, Proposals) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        for reply in self.ask(request)? {
            match reply {
                Reply::Piece(number, piece) => {
                    if take(number, piece).is_break() {
                        // Without a receiver the engine drops the rest.
                        return Ok(());
                    }
                }
                Reply::Done => return Ok(()),
                Reply::Failed(error) => return Err(error.into()),
            }
        }
        Err(LlamaError::Gone.into())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Waiting for it frees the model before the process goes on.
        if let Some(handle) = self.handle.take() {
            // A panic over there was reported already, as a closed channel.
            let _ = handle.join();
        }
    }
}
