//! The thread that owns llama.cpp: model, context, KV cache.
//!
//! Sequence 0 of the cache holds the prompt. A new prompt keeps what it shares with the one before and decodes only
//! the rest; its cells are then shared (not copied: the cache is unified) with sequences 1..=S, which are decoded
//! together, one batch a token.

use crate::chat;
use crate::generator::{LlamaError, LlamaOptions, ModelInfo};
use crate::parse::{complete_items, parse_list};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use mils_optim::prompt::Messages;
use mils_optim::{Proposals, Usage};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};

/// Tokens that a line may take, and an answer beside its lines.
const TOKENS_PER_LINE: usize = 64;
const TOKENS_AROUND: usize = 32;
/// Tokens of the prompt that are decoded in one call.
const BATCH: usize = 512;

pub(crate) enum Command {
    Ask(Box<Ask>),
}

pub(crate) struct Ask {
    pub messages: Messages,
    pub count: usize,
    pub seed: u64,
    pub reply: Sender<Result<Proposals, LlamaError>>,
}

/// llama.cpp is initialised once a process.
fn backend() -> Result<&'static LlamaBackend, LlamaError> {
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
    ready: &Sender<Result<ModelInfo, LlamaError>>,
    inbox: &Receiver<Command>,
) {
    let opened = open(path, architecture, options);
    let (backend, model, template) = match opened {
        Ok(parts) => parts,
        Err(e) => {
            // Nobody is left to tell if this fails.
            let _ = ready.send(Err(e));
            return;
        }
    };
    let context = match new_context(backend, &model, options) {
        Ok(context) => context,
        Err(problem) => {
            let _ = ready.send(Err(LlamaError::Model { path: path.to_owned(), problem }));
            return;
        }
    };
    let mut worker = Worker { model: &model, context, template, options, cached: Vec::new() };
    let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = model.meta_val_str("general.name").unwrap_or(file);
    if ready.send(Ok(ModelInfo { name, parameters: model.n_params() })).is_err() {
        return;
    }
    while let Ok(Command::Ask(ask)) = inbox.recv() {
        let answer = worker.answer(&ask);
        if answer.is_err() {
            worker.forget();
        }
        if ask.reply.send(answer).is_err() {
            return;
        }
    }
}

type Opened = (&'static LlamaBackend, LlamaModel, String);

fn open(path: &Path, architecture: &str, options: &LlamaOptions) -> Result<Opened, LlamaError> {
    let wrong = |problem: String| LlamaError::Model { path: path.to_owned(), problem };
    let backend = backend()?;
    let cancel = Arc::clone(&options.cancel);
    let params = LlamaModelParams::default()
        .with_n_gpu_layers(options.gpu_layers)
        .with_progress_callback(move |_| !cancel.load(Ordering::Relaxed));
    let model = LlamaModel::load_from_file(backend, path, &params).map_err(|_| {
        if options.cancel.load(Ordering::Relaxed) {
            return LlamaError::Cancelled;
        }
        wrong(format!(
            "llama.cpp cannot load it: a damaged file, or an architecture (`{architecture}`) newer than this build; \
             get it again"
        ))
    })?;
    let template = model
        .chat_template(None)
        .map_err(|_| wrong("has no chat template; use the model's instruct or chat version".into()))?;
    let template = template.to_string().map_err(|e| wrong(format!("chat template: {e}")))?;
    Ok((backend, model, template))
}

fn answer_tokens(options: &LlamaOptions) -> usize {
    options.lines * TOKENS_PER_LINE + TOKENS_AROUND
}

fn new_context<'m>(
    backend: &LlamaBackend,
    model: &'m LlamaModel,
    options: &LlamaOptions,
) -> Result<LlamaContext<'m>, String> {
    // Cells for one prompt and every sequence's answer.
    let cells = options.context as usize + options.sequences * answer_tokens(options);
    let cells = u32::try_from(cells).map_err(|_| "the context is too large".to_owned())?;
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let threads = threads.and_then(|t| i32::try_from(t).ok()).unwrap_or(1);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(BATCH as u32)
        .with_n_seq_max(options.sequences as u32 + 1)
        .with_kv_unified(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    model
        .new_context(backend, params)
        .map_err(|_| format!("no memory for a context of {cells} tokens; lower `context` or `sequences` in the pack"))
}

struct Worker<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    template: String,
    options: &'m LlamaOptions,
    /// What sequence 0 of the cache holds.
    cached: Vec<LlamaToken>,
}

/// One answer in progress.
struct Sequence {
    id: i32,
    sampler: LlamaSampler,
    bytes: Vec<u8>,
    tokens: usize,
    next: LlamaToken,
    /// Where in the last batch its logits are.
    logits: i32,
    finished: bool,
    cut_off: bool,
}

impl Worker<'_> {
    /// After an error the cache's content is unknown.
    fn forget(&mut self) {
        self.context.clear_kv_cache();
        self.cached.clear();
    }

    fn answer(&mut self, ask: &Ask) -> Result<Proposals, LlamaError> {
        let prompt = self.tokenize(&ask.messages)?;
        let (room, answer) = (self.options.context as usize, answer_tokens(self.options));
        if prompt.len() + answer > room {
            return Err(LlamaError::ContextTooSmall { prompt: prompt.len(), answer, context: room });
        }
        let mut out = Proposals::default();
        let mut wanted = ask.count.div_ceil(self.options.lines);
        let mut round = 0;
        while wanted > 0 && !self.cancelled() {
            let now = wanted.min(self.options.sequences);
            wanted -= now;
            let reused = self.prefill(&prompt)?;
            out.usage +=
                Usage { prompt_tokens: self.cached.len() as u64, reused_tokens: reused as u64, generated_tokens: 0 };
            if self.cached.len() < prompt.len() {
                break;
            }
            let seeds = (0..now).map(|i| mix(ask.seed, round * 1000 + i as u64)).collect();
            for sequence in self.sample(prompt.len(), seeds)? {
                out.usage.generated_tokens += sequence.tokens as u64;
                let said = String::from_utf8_lossy(&sequence.bytes);
                let parsed = parse_list(&said, sequence.cut_off, self.options.lines);
                out.texts.extend(parsed.texts);
                out.unusable.extend(parsed.unusable);
            }
            round += 1;
        }
        Ok(out)
    }

    fn cancelled(&self) -> bool {
        self.options.cancel.load(Ordering::Relaxed)
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
        if tokens.is_empty() { Err(LlamaError::ChatTemplate("it gives an empty prompt".into())) } else { Ok(tokens) }
    }

    /// Brings `prompt` into sequence 0. Returns how many of its tokens were there already. Cancelled between batches,
    /// it leaves the beginning of the prompt there.
    fn prefill(&mut self, prompt: &[LlamaToken]) -> Result<usize, LlamaError> {
        let shared = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is decoded in any case: its logits begin every answer.
        let keep = shared.min(prompt.len() - 1);
        let removed = self.context.clear_kv_cache_seq(Some(0), Some(keep as u32), None);
        let keep = if matches!(removed, Ok(true)) { keep } else { 0 };
        if keep == 0 {
            self.forget();
        }
        let mut batch = LlamaBatch::new(BATCH, 1);
        self.cached.truncate(keep);
        for (start, chunk) in prompt.chunks_at(keep, BATCH) {
            if self.cancelled() {
                break;
            }
            batch.clear();
            for (i, &token) in chunk.iter().enumerate() {
                let at = start + i;
                batch.add(token, at as i32, &[0], at + 1 == prompt.len()).map_err(failed)?;
            }
            self.context.decode(&mut batch).map_err(failed)?;
            self.cached.extend_from_slice(chunk);
        }
        Ok(keep)
    }

    /// Samples one answer a seed off the prompt, all together.
    fn sample(&mut self, prompt: usize, seeds: Vec<u32>) -> Result<Vec<Sequence>, LlamaError> {
        // Where the last prefill batch has its only logits: -1 is the last one.
        let mut all: Vec<Sequence> = Vec::with_capacity(seeds.len());
        for (i, seed) in seeds.into_iter().enumerate() {
            let id = i as i32 + 1;
            self.context.copy_kv_cache_seq(0, id, None, None).map_err(failed)?;
            all.push(Sequence {
                id,
                sampler: self.sampler(seed),
                bytes: Vec::new(),
                tokens: 0,
                next: LlamaToken(0),
                logits: -1,
                finished: false,
                cut_off: false,
            });
        }
        let most = answer_tokens(self.options);
        let mut batch = LlamaBatch::new(all.len(), 1);
        loop {
            batch.clear();
            let stop = self.cancelled();
            for s in all.iter_mut().filter(|s| !s.finished) {
                s.next = s.sampler.sample(&self.context, s.logits);
                self.take(s, most, stop);
                if !s.finished {
                    s.logits = batch.n_tokens();
                    let position = prompt + s.tokens - 1;
                    batch.add(s.next, position as i32, &[s.id], true).map_err(failed)?;
                }
            }
            if batch.n_tokens() == 0 {
                break;
            }
            self.context.decode(&mut batch).map_err(failed)?;
        }
        for s in &all {
            self.context.clear_kv_cache_seq(Some(s.id as u32), None, None).map_err(failed)?;
        }
        Ok(all)
    }

    /// Takes in the sampled token and decides whether the answer is done.
    fn take(&self, s: &mut Sequence, most: usize, stop: bool) {
        let vocab = self.model.vocab();
        s.tokens += 1;
        if vocab.is_eog(s.next) {
            s.finished = true;
            return;
        }
        let before = s.bytes.len();
        vocab.token_to_piece_into(s.next, &mut s.bytes, false, None);
        let line_ended = s.bytes[before..].contains(&b'\n');
        if line_ended && complete_items(&String::from_utf8_lossy(&s.bytes)) >= self.options.lines {
            s.finished = true;
        } else if s.tokens >= most || stop {
            s.finished = true;
            s.cut_off = true;
        }
    }

    fn sampler(&self, seed: u32) -> LlamaSampler {
        let LlamaOptions { temperature, top_p, .. } = *self.options;
        if temperature == 0.0 {
            return LlamaSampler::greedy();
        }
        // Temperature before top-p, as in the reference's sampler. The top 1,000 hold all the mass that top-p can
        // want, and keep a vocabulary of 150,000 from being sorted for every token.
        LlamaSampler::chain_simple([
            LlamaSampler::top_k(1000),
            LlamaSampler::temp(temperature),
            LlamaSampler::top_p(top_p, 1),
            LlamaSampler::dist(seed),
        ])
    }
}

/// Slices from `start` on, `size` at a time, with their positions.
trait ChunksAt {
    fn chunks_at(&self, start: usize, size: usize) -> impl Iterator<Item = (usize, &[LlamaToken])>;
}

impl ChunksAt for [LlamaToken] {
    fn chunks_at(&self, start: usize, size: usize) -> impl Iterator<Item = (usize, &[LlamaToken])> {
        self[start..].chunks(size).enumerate().map(move |(i, c)| (start + i * size, c))
    }
}

fn failed(error: impl std::fmt::Display) -> LlamaError {
    LlamaError::Backend(error.to_string())
}

/// A sampler's seed from the step's and the sequence's number. The step's seed is scattered first: seeds that are a
/// fixed distance apart must not give the same samplers, one sequence further on.
fn mix(seed: u64, sequence: u64) -> u32 {
    scatter(scatter(seed).wrapping_add(sequence)) as u32
}

/// One output of SplitMix64.
fn scatter(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn runs_steps_and_sequences_have_samplers_of_their_own() {
        // As the loop makes its steps' seeds, and as plain neighbours.
        for stride in [0x9E37_79B9_7F4A_7C15_u64, 1, 1000] {
            let mut seen = HashSet::new();
            for run in 0..64_u64 {
                seen.extend((0..32).map(|sequence| mix(run.wrapping_mul(stride).wrapping_add(1), sequence)));
            }
            assert_eq!(seen.len(), 64 * 32);
        }
    }
}
