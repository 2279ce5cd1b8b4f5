//! The generator as the loop sees it: options, errors, and the handle to the thread that owns llama.cpp.

use crate::gguf;
use crate::worker::{self, Ask, Command};
use mils_optim::prompt::{PromptError, PromptTemplate};
use mils_optim::{BoxError, Generator, Proposals, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct LlamaOptions {
    /// Tokens of prompt and one answer together.
    pub context: u32,
    /// Answers that are sampled side by side.
    pub sequences: usize,
    /// Texts that each answer is asked for.
    pub lines: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Nucleus sampling: the least set of tokens with this much probability.
    pub top_p: f32,
    /// Threads; `None` takes as many as there are cores.
    pub threads: Option<usize>,
    /// Layers on the GPU, where llama.cpp was built for one.
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
            lines: 7,
            temperature: 0.5,
            top_p: 0.9,
            threads: None,
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

/// A GGUF chat model as a [`Generator`].
pub struct LlamaGenerator {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    info: ModelInfo,
    options: LlamaOptions,
    template: PromptTemplate,
}

impl LlamaGenerator {
    /// Loads a model on a thread of its own.
    ///
    /// # Errors
    /// If the file is missing, is no GGUF, is damaged, has no chat template, or an option makes no sense; or if it was
    /// cancelled.
    pub fn open(path: &Path, options: LlamaOptions, template: PromptTemplate) -> Result<Self, LlamaError> {
        check(&options)?;
        let architecture = check_file(path)?;
        let (commands, inbox) = channel();
        let (ready, opened) = channel();
        let (path, own) = (path.to_owned(), options.clone());
        let thread = std::thread::Builder::new()
            .name("llama".into())
            .spawn(move || worker::run(&path, &architecture, &own, &ready, &inbox))
            .map_err(|e| LlamaError::Backend(e.to_string()))?;
        let info = opened.recv().map_err(|_| LlamaError::Gone)??;
        Ok(Self { commands: Some(commands), thread: Some(thread), info, options, template })
    }

    /// What the model says of itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}

fn check(options: &LlamaOptions) -> Result<(), LlamaError> {
    let LlamaOptions { sequences, lines, temperature, top_p, context, .. } = *options;
    let wrong = |problem: String| Err(LlamaError::Option(problem));
    // llama.cpp has 256, and one holds the prompt.
    if !(1..=255).contains(&sequences) {
        return wrong(format!("sequences is {sequences}; expected 1 to 255"));
    }
    if !(1..=1000).contains(&lines) {
        return wrong(format!("lines is {lines}; expected 1 to 1000"));
    }
    if !(0.0..=10.0).contains(&temperature) {
        return wrong(format!("temperature is {temperature}; expected 0 to 10"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return wrong(format!("top-p is {top_p}; expected more than 0 and at most 1"));
    }
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
        let messages = self.template.render(request.pool, self.options.lines).map_err(LlamaError::from)?;
        let (reply, answer) = channel();
        let ask = Ask { messages, count: request.count, seed: request.seed, reply };
        let commands = self.commands.as_ref().ok_or(LlamaError::Gone)?;
        commands.send(Command::Ask(Box::new(ask))).map_err(|_| LlamaError::Gone)?;
        Ok(answer.recv().map_err(|_| LlamaError::Gone)??)
    }
}

impl Drop for LlamaGenerator {
    fn drop(&mut self) {
        // The thread ends when the channel closes; waiting for it frees the model before the process goes on.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there was reported already, as a closed channel.
            let _ = thread.join();
        }
    }
}
