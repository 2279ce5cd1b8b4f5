//! The thread that owns llama.cpp: model, context, KV cache, and everything that is being answered.
//!
//! Several requests can be outstanding, each for several answers to one prompt. Every step is one batch: a token of
//! each answer in progress, whosever it is, and as much as fits of the prompts that are still to be computed. An
//! answer is given away as soon as it ends, and its sequence is the next answer's.
//!
//! The first sequences of the cache hold prompts (see [`crate::prompts`]), the others answers. A prompt's cells are
//! shared (not copied: the cache is unified) with the sequences of its answers. There are cells for as many whole
//! prompts as there are sequences for them, and for an answer in each other: they cannot run out.

use crate::chat;
use crate::devices::{Device, DeviceKind, Placement, chosen, devices};
use crate::generator::{LlamaError, LlamaOptions, ModelInfo};
use crate::meter::Meter;
use crate::plan::{Machine, Room, Weight, suiting};
use crate::prompts::Prompts;
use crate::sequence::{Sequence, answer_tokens};
use crate::threads::{Threads, timed};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use mils_optim::prompt::Messages;
use mils_optim::{Proposals, Usage};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};

/// Tokens that are decoded in one call.
const BATCH: usize = 512;
/// Sampling from a vocabulary of this size takes long enough to be shared among threads.
const LARGE_VOCABULARY: usize = 16_384;

/// What is asked of the thread.
pub(crate) struct Ask {
    pub messages: Messages,
    /// Texts that are wanted.
    pub count: usize,
    pub seed: u64,
    /// Who asks: the prompt is likely to be like this one's last.
    pub owner: u64,
    pub reply: Sender<Reply>,
}

/// What comes back, until `Done` or `Failed`.
pub(crate) enum Reply {
    /// An answer with its number; the last piece holds what the prompt cost.
    Piece(usize, Proposals),
    Done,
    Failed(LlamaError),
}

/// llama.cpp is initialised once a process.
pub(crate) fn backend() -> Result<&'static LlamaBackend, LlamaError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let made = BACKEND.get_or_init(|| {
        let mut backend = LlamaBackend::init().map_err(|e| e.to_string())?;
        backend.void_logs();
        Ok(backend)
    });
    made.as_ref().map_err(|e| LlamaError::Backend(e.clone()))
}

/// Loads the model, reports, and answers until the channel closes.
pub(crate) fn run(
    path: &Path,
    architecture: &str,
    options: &LlamaOptions,
    meter: &Meter,
    ready: &Sender<Result<ModelInfo, LlamaError>>,
    inbox: &Receiver<Ask>,
) {
    let (backend, model, template) = match open(path, architecture, options) {
        Ok(parts) => parts,
        Err(e) => {
            // Nobody is left to tell if this fails.
            let _ = ready.send(Err(e));
            return;
        }
    };
    let mut options = options.clone();
    // It was asked once already, and has answered.
    let all = devices().unwrap_or_default();
    let on = if options.gpu_layers == 0 { Placement::Cpu } else { options.placement };
    let on = chosen(&all, on);
    if options.fit {
        options.sequences = sequences(&model, architecture, &options, &on);
    }
    let context = match new_context(backend, &model, &options, threads(&options)) {
        Ok(context) => context,
        Err(problem) => {
            let _ = ready.send(Err(LlamaError::Model { path: path.to_owned(), problem }));
            return;
        }
    };
    let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = model.meta_val_str("general.name").unwrap_or(file);
    let device = on.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ");
    let info = ModelInfo { name, parameters: model.n_params(), sequences: options.sequences, device };
    if ready.send(Ok(info)).is_err() {
        return;
    }
    let mut engine = Engine::new(backend, &model, context, template, &options);
    // A number that was asked for is kept, and what a GPU computes needs no cores.
    if options.threads.is_none() && on.iter().all(|d| d.kind == DeviceKind::Cpu) {
        engine.threads = Some(Threads::new(threads(&options)));
    }
    engine.serve(meter, inbox);
}

type Opened = (&'static LlamaBackend, LlamaModel, String);

fn open(path: &Path, architecture: &str, options: &LlamaOptions) -> Result<Opened, LlamaError> {
    let wrong = |problem: String| LlamaError::Model { path: path.to_owned(), problem };
    let backend = backend()?;
    let cancel = Arc::clone(&options.cancel);
    let params = match options.placement {
        Placement::Auto => LlamaModelParams::default().with_n_gpu_layers(options.gpu_layers),
        // An empty list: large products go to no GPU either.
        Placement::Cpu => LlamaModelParams::default()
            .with_n_gpu_layers(0)
            .with_devices(&[])
            .map_err(|e| LlamaError::Backend(e.to_string()))?,
    };
    let params = params.with_progress_callback(move |_| !cancel.load(Ordering::Relaxed));
    let model = LlamaModel::load_from_file(backend, path, &params).map_err(|_| {
        if options.cancel.load(Ordering::Relaxed) {
            return LlamaError::Cancelled;
        }
        wrong(format!(
            "llama.cpp cannot load it: a damaged file, an architecture (`{architecture}`) newer than this build, or no \
             memory for it; get it again, or take a smaller one"
        ))
    })?;
    let template = model
        .chat_template(None)
        .map_err(|_| wrong("has no chat template; use the model's instruct or chat version".into()))?;
    let template = template.to_string().map_err(|e| wrong(format!("chat template: {e}")))?;
    Ok((backend, model, template))
}

fn threads(options: &LlamaOptions) -> usize {
    options.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1)
}

/// As many sequences as suit the model and the devices.
fn sequences(model: &LlamaModel, architecture: &str, options: &LlamaOptions, on: &[&Device]) -> usize {
    let length = |what: &str| {
        let told = model.meta_val_str(&format!("{architecture}.attention.{what}_length")).ok();
        let usual = f64::from(model.n_embd()) / f64::from(model.n_head().max(1));
        told.and_then(|t| t.parse().ok()).unwrap_or(usual)
    };
    // Keys and values of 16 bits.
    let cell = f64::from(model.n_layer()) * f64::from(model.n_head_kv()) * (length("key") + length("value")) * 2.0;
    let weight = Weight { bytes: model.size() as f64, parameters: model.n_params() as f64, cell };
    let free: f64 = on.iter().map(|d| d.free as f64).sum();
    let machine = match on.first().map(|d| d.kind) {
        // The weights are on it by now. Some of the rest is for what is computed, and for the encoder.
        Some(DeviceKind::Gpu) => Machine::gpu(free * 0.6),
        Some(DeviceKind::IntegratedGpu) => Machine::integrated_gpu(free * 0.4),
        // A file that is mapped counts as available until it is read.
        _ => Machine::cpu(threads(options), (free - weight.bytes) * 0.5),
    };
    let room = Room { prompts: options.prompts * options.context as usize, answer: answer_tokens(options.lines) };
    suiting(options.sequences, weight, machine, room)
}

fn new_context<'m>(
    backend: &LlamaBackend,
    model: &'m LlamaModel,
    options: &LlamaOptions,
    threads: usize,
) -> Result<LlamaContext<'m>, String> {
    // Cells for each prompt and every sequence's answer.
    let cells = options.prompts * options.context as usize + options.sequences * answer_tokens(options.lines);
    let cells = u32::try_from(cells).map_err(|_| "the context is too large".to_owned())?;
    let threads = i32::try_from(threads).unwrap_or(i32::MAX);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(BATCH as u32)
        .with_n_seq_max((options.prompts + options.sequences) as u32)
        .with_kv_unified(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    model.new_context(backend, params).map_err(|_| {
        format!(
            "no memory for a context of {cells} tokens; take fewer at a time (--in-flight, --sequences), or lower \
             `context` in the pack"
        )
    })
}

/// A request whose prompt has its place.
struct Request {
    /// The prompt's sequence.
    prompt: usize,
    seed: u64,
    /// Answers wanted, begun and given away.
    wanted: usize,
    begun: usize,
    given: usize,
    reused: usize,
    reply: Sender<Reply>,
    /// Nobody waits for the rest.
    dropped: bool,
}

struct Engine<'m> {
    backend: &'static LlamaBackend,
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    template: String,
    options: &'m LlamaOptions,
    prompts: Prompts,
    /// In the order in which they came.
    waiting: VecDeque<(Ask, Vec<LlamaToken>)>,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    answers: Vec<Sequence>,
    /// Sequences of the cache that no answer has.
    free: BTreeSet<usize>,
    batch: LlamaBatch<'static>,
    /// Where their number may change.
    threads: Option<Threads>,
    /// The number that there should be from the next step on.
    wanted_threads: Option<usize>,
}

/// A stretch of a prompt in the batch: the request, how many tokens, and where its last token's logits are, if it ends
/// there.
type Stretch = (u64, usize, Option<i32>);

impl<'m> Engine<'m> {
    fn new(
        backend: &'static LlamaBackend,
        model: &'m LlamaModel,
        context: LlamaContext<'m>,
        template: String,
        options: &'m LlamaOptions,
    ) -> Self {
        let whole = model.is_recurrent() || model.is_hybrid();
        let (prompts, sequences) = (options.prompts, options.sequences);
        Self {
            backend,
            model,
            context,
            template,
            options,
            prompts: Prompts::new(prompts, whole),
            waiting: VecDeque::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            answers: Vec::new(),
            free: (prompts..prompts + sequences).collect(),
            batch: LlamaBatch::new(BATCH, 1),
            threads: None,
            wanted_threads: None,
        }
    }

    /// Answers until the channel closes.
    fn serve(&mut self, meter: &Meter, inbox: &Receiver<Ask>) {
        loop {
            if self.waiting.is_empty() && self.requests.is_empty() {
                let Ok(ask) = inbox.recv() else { return };
                self.take_in(ask);
            }
            loop {
                match inbox.try_recv() {
                    Ok(ask) => self.take_in(ask),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if let Err(problem) = meter.time(|| self.step()) {
                self.fail(&problem);
            }
        }
    }

    /// A new request; one that cannot be answered is told so.
    fn take_in(&mut self, ask: Ask) {
        match self.tokenize(&ask.messages) {
            Ok(prompt) => self.waiting.push_back((ask, prompt)),
            // Who does not wait for it need not know.
            Err(error) => drop(ask.reply.send(Reply::Failed(error))),
        }
    }

    fn tokenize(&self, messages: &Messages) -> Result<Vec<LlamaToken>, LlamaError> {
        let vocab = self.model.vocab();
        let text = |t: LlamaToken| {
            let known = t.0 >= 0;
            known.then(|| vocab.text(t)).flatten().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
        let prompt = chat::render(&self.template, messages, &bos, &eos).map_err(LlamaError::ChatTemplate)?;
        // Templates that write the begin token themselves must not get it twice.
        let begins = !bos.is_empty() && prompt.starts_with(&bos);
        let tokens = vocab.tokenize(prompt.as_bytes(), !begins, true);
        if tokens.is_empty() {
            return Err(LlamaError::ChatTemplate("it gives an empty prompt".into()));
        }
        let (room, answer) = (self.options.context as usize, answer_tokens(self.options.lines));
        if tokens.len() + answer > room {
            return Err(LlamaError::ContextTooSmall { prompt: tokens.len(), answer, context: room });
        }
        Ok(tokens)
    }

    /// One batch. An error is of llama.cpp, and everything's.
    fn step(&mut self) -> Result<(), String> {
        if self.options.cancel.load(Ordering::Relaxed) {
            return self.cut();
        }
        self.change_threads();
        self.place_prompts()?;
        self.begin_answers()?;
        let stretches = self.fill_batch()?;
        if self.batch.n_tokens() > 0 {
            let (decoded, seen) = timed(|| self.context.decode(&mut self.batch));
            decoded.map_err(failed)?;
            if let Some(((passed, used), threads)) = seen.zip(self.threads.as_mut()) {
                self.wanted_threads = threads.saw(passed, used).or(self.wanted_threads);
            }
            for (request, count, logits) in stretches {
                let Some(request) = self.requests.get(&request) else { continue };
                self.prompts.computed(request.prompt, count);
                if let Some(at) = logits {
                    self.prompts.complete(request.prompt, self.context.get_logits_ith(at));
                }
            }
            self.sample()?;
        }
        self.give_away()
    }

    /// Takes another number of threads. llama.cpp's context has one for good, so everything moves into a new one; where
    /// there is no memory for that, it stays as it is.
    fn change_threads(&mut self) {
        let Some(threads) = self.wanted_threads.take() else { return };
        let Ok(mut context) = new_context(self.backend, self.model, self.options, threads) else { return };
        if moved(&self.context, &mut context) {
            self.context = context;
        }
    }

    /// Gives waiting prompts their places, in order: one that must wait does not hold up those after it.
    fn place_prompts(&mut self) -> Result<(), String> {
        let mut later = VecDeque::new();
        while let Some((ask, prompt)) = self.waiting.pop_front() {
            let Some(placed) = self.prompts.place(&prompt, ask.owner) else {
                later.push_back((ask, prompt));
                continue;
            };
            let sequence = placed.sequence as u32;
            let mut keep = placed.keep;
            if let Some(from) = placed.from {
                self.context.clear_kv_cache_seq(Some(sequence), None, None).map_err(failed)?;
                let end = Some(keep as u32);
                self.context.copy_kv_cache_seq(from as i32, sequence as i32, None, end).map_err(failed)?;
            } else if !matches!(self.context.clear_kv_cache_seq(Some(sequence), Some(keep as u32), None), Ok(true)) {
                self.context.clear_kv_cache_seq(Some(sequence), None, None).map_err(failed)?;
                self.prompts.lost(placed.sequence);
                keep = 0;
            }
            let Ask { count, seed, reply, .. } = ask;
            let wanted = count.div_ceil(self.options.lines);
            let request = Request {
                prompt: placed.sequence,
                seed,
                wanted,
                begun: 0,
                given: 0,
                reused: keep,
                reply,
                dropped: false,
            };
            self.requests.insert(self.next_request, request);
            self.next_request += 1;
        }
        self.waiting = later;
        Ok(())
    }

    /// Begins as many answers to computed prompts as there are sequences, those of the oldest request first: what it
    /// says is scored while the others are answered.
    fn begin_answers(&mut self) -> Result<(), String> {
        let vocab = self.model.vocab();
        for (&number, request) in &mut self.requests {
            let Some(logits) = self.prompts.logits(request.prompt) else { continue };
            let from = self.answers.len();
            while request.begun < request.wanted {
                let Some(id) = self.free.pop_first() else { break };
                self.context.copy_kv_cache_seq(request.prompt as i32, id as i32, None, None).map_err(failed)?;
                let prompt = self.prompts.len(request.prompt);
                self.answers.push(Sequence::new(number, request.begun, id, prompt, request.seed, self.options));
                request.begun += 1;
            }
            let lines = self.options.lines;
            let new = self.answers[from..].iter_mut().map(|a| (a, logits)).collect();
            advance(new, &vocab, lines)?;
        }
        Ok(())
    }

    /// The next token of each answer, then prompts as far as there is room.
    fn fill_batch(&mut self) -> Result<Vec<Stretch>, String> {
        self.batch.clear();
        for answer in self.answers.iter_mut().filter(|a| !a.finished) {
            answer.logits = self.batch.n_tokens();
            let (position, id) = (answer.position() as i32, answer.id as i32);
            self.batch.add(answer.next, position, &[id], true).map_err(failed)?;
        }
        let mut stretches = Vec::new();
        for (&number, request) in &self.requests {
            let room = BATCH - self.batch.n_tokens() as usize;
            let (from, tokens) = self.prompts.missing(request.prompt, room);
            if tokens.is_empty() {
                continue;
            }
            let (_, all) = self.prompts.missing(request.prompt, usize::MAX - from);
            let ends = tokens.len() == all.len();
            let last = tokens.len() - 1;
            for (i, &token) in tokens.iter().enumerate() {
                let at = (from + i) as i32;
                self.batch.add(token, at, &[request.prompt as i32], ends && i == last).map_err(failed)?;
            }
            stretches.push((number, tokens.len(), ends.then(|| self.batch.n_tokens() - 1)));
        }
        Ok(stretches)
    }

    /// The next token of every answer that was in the batch.
    fn sample(&mut self) -> Result<(), String> {
        let (context, vocab) = (&self.context, self.model.vocab());
        let open = self.answers.iter_mut().filter(|a| !a.finished);
        let rows = open.map(|a| (context.get_logits_ith(a.logits), a)).map(|(logits, a)| (a, logits)).collect();
        advance(rows, &vocab, self.options.lines)
    }

    /// Sends answers that have ended, and ends requests that have all theirs.
    fn give_away(&mut self) -> Result<(), String> {
        let (ended, open) = std::mem::take(&mut self.answers).into_iter().partition(|a| a.finished);
        self.answers = open;
        for answer in ended {
            self.end(&answer)?;
            if let Some(request) = self.requests.get_mut(&answer.request) {
                request.given += 1;
                let piece = Reply::Piece(answer.number, answer.proposals(self.options.lines));
                request.dropped |= request.reply.send(piece).is_err();
            }
        }
        let done = |r: &Request| r.dropped || r.given == r.wanted;
        let ended: Vec<u64> = self.requests.iter().filter(|(_, r)| done(r)).map(|(number, _)| *number).collect();
        for number in ended {
            self.finish(number)?;
        }
        Ok(())
    }

    /// Takes an answer out of the cache.
    fn end(&mut self, answer: &Sequence) -> Result<(), String> {
        self.context.clear_kv_cache_seq(Some(answer.id as u32), None, None).map_err(failed)?;
        self.free.insert(answer.id);
        Ok(())
    }

    /// Ends a request: tells what its prompt cost, and takes what it had.
    fn finish(&mut self, number: u64) -> Result<(), String> {
        let Some(request) = self.requests.remove(&number) else { return Ok(()) };
        let (left, others) = std::mem::take(&mut self.answers).into_iter().partition(|a| a.request == number);
        self.answers = others;
        for answer in left {
            self.end(&answer)?;
        }
        let prompt_tokens = self.prompts.len(request.prompt) as u64;
        let usage = Usage { prompt_tokens, reused_tokens: request.reused as u64, generated_tokens: 0 };
        self.prompts.release(request.prompt);
        if !request.dropped {
            // Whoever has gone does not miss it.
            let _ = request.reply.send(Reply::Piece(request.wanted, Proposals { usage, ..Proposals::default() }));
            let _ = request.reply.send(Reply::Done);
        }
        Ok(())
    }

    /// Cancelled: whatever was said by now is given away. Prompts stay as far as they were computed.
    fn cut(&mut self) -> Result<(), String> {
        for answer in &mut self.answers {
            answer.cut();
        }
        self.give_away()?;
        for number in self.requests.keys().copied().collect::<Vec<_>>() {
            self.finish(number)?;
        }
        for (ask, _) in self.waiting.drain(..) {
            let _ = ask.reply.send(Reply::Done);
        }
        Ok(())
    }

    /// llama.cpp has failed: so has everything that was being answered, and what the cache holds is unknown.
    fn fail(&mut self, problem: &str) {
        self.context.clear_kv_cache();
        self.prompts.forget();
        self.answers.clear();
        self.free = (self.options.prompts..self.options.prompts + self.options.sequences).collect();
        let replies = std::mem::take(&mut self.requests).into_values().map(|r| r.reply);
        for reply in replies.chain(self.waiting.drain(..).map(|(ask, _)| ask.reply)) {
            let _ = reply.send(Reply::Failed(LlamaError::Backend(problem.to_owned())));
        }
    }
}

/// Copies the whole cache, with all sequences in it, into a context of the same model and the same sizes. Returns whether
/// that went well.
#[expect(unsafe_code, reason = "llama.cpp's state is copied as bytes")]
fn moved(from: &LlamaContext<'_>, to: &mut LlamaContext<'_>) -> bool {
    let mut state = vec![0_u8; from.get_state_size()];
    // SAFETY: there are as many bytes as the context says that its state takes at most.
    let written = unsafe { from.copy_state_data(state.as_mut_ptr()) };
    if written == 0 || written > state.len() {
        return false;
    }
    // SAFETY: these bytes are a whole state, and the other context differs in the number of threads alone.
    (unsafe { to.set_state_data(&state) }) == written
}

/// Samples the next token of each answer by its logits.
fn advance(
    rows: Vec<(&mut Sequence, &[f32])>,
    vocab: &llama_cpp_2::vocab::LlamaVocab<'_>,
    lines: usize,
) -> Result<(), String> {
    let large = rows.len() > 1 && rows[0].1.len() >= LARGE_VOCABULARY;
    let all = if large {
        rows.into_par_iter().map(|(answer, logits)| answer.advance(logits, vocab, lines)).all(|sampled| sampled)
    } else {
        rows.into_iter().all(|(answer, logits)| answer.advance(logits, vocab, lines))
    };
    if all { Ok(()) } else { Err("no token can be sampled: the model computes no numbers".into()) }
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}
