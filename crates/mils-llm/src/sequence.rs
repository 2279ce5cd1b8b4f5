//! One answer in the making: its sampler, what it has said, and when it is done.

use crate::generator::LlamaOptions;
use crate::parse::{complete_items, parse_list};
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::vocab::LlamaVocab;
use mils_optim::{Proposals, Usage};

/// Tokens that a line may take, and an answer beside its lines.
const TOKENS_PER_LINE: usize = 64;
const TOKENS_AROUND: usize = 32;

/// Tokens that an answer may take.
pub(crate) fn answer_tokens(lines: usize) -> usize {
    lines * TOKENS_PER_LINE + TOKENS_AROUND
}

/// An answer in progress.
pub(crate) struct Sequence {
    /// The request that it is of, and its number there.
    pub request: u64,
    pub number: usize,
    /// Its sequence in the cache.
    pub id: usize,
    /// Tokens of its prompt.
    prompt: usize,
    sampler: LlamaSampler,
    /// The sampler's table of tokens, kept: a vocabulary of 150,000 takes megabytes.
    candidates: LlamaTokenDataArray,
    bytes: Vec<u8>,
    tokens: usize,
    /// What was said last, and is to be decoded.
    pub next: LlamaToken,
    /// Where in the batch that is being decoded its logits are.
    pub logits: i32,
    pub finished: bool,
    cut_off: bool,
}

impl Sequence {
    pub(crate) fn new(
        request: u64,
        number: usize,
        id: usize,
        prompt: usize,
        seed: u64,
        options: &LlamaOptions,
    ) -> Self {
        Self {
            request,
            number,
            id,
            prompt,
            sampler: sampler(options, mix(seed, number as u64)),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            bytes: Vec::new(),
            tokens: 0,
            next: LlamaToken(0),
            logits: -1,
            finished: false,
            cut_off: false,
        }
    }

    /// Where `next` stands.
    pub(crate) fn position(&self) -> usize {
        self.prompt + self.tokens - 1
    }

    /// Samples a token by the logits, takes it in and decides whether the answer is done. False if the sampler fails.
    pub(crate) fn advance(&mut self, logits: &[f32], vocab: &LlamaVocab<'_>, lines: usize) -> bool {
        let of = |(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0);
        self.candidates.data.clear();
        self.candidates.data.extend((0..).zip(logits).map(of));
        self.candidates.sorted = false;
        self.candidates.selected = None;
        self.sampler.apply(&mut self.candidates);
        let Some(token) = self.candidates.selected_token() else { return false };
        self.sampler.accept(token);
        self.take(token, vocab, lines);
        true
    }

    fn take(&mut self, token: LlamaToken, vocab: &LlamaVocab<'_>, lines: usize) {
        self.next = token;
        self.tokens += 1;
        if vocab.is_eog(token) {
            self.finished = true;
            return;
        }
        let before = self.bytes.len();
        vocab.token_to_piece_into(token, &mut self.bytes, false, None);
        let line_ended = self.bytes[before..].contains(&b'\n');
        if line_ended && complete_items(&String::from_utf8_lossy(&self.bytes)) >= lines {
            self.finished = true;
        } else if self.tokens >= answer_tokens(lines) {
            self.cut();
        }
    }

    /// Ends it where it is.
    pub(crate) fn cut(&mut self) {
        self.finished = true;
        self.cut_off = true;
    }

    /// What it said.
    pub(crate) fn proposals(&self, lines: usize) -> Proposals {
        let parsed = parse_list(&String::from_utf8_lossy(&self.bytes), self.cut_off, lines);
        let usage = Usage { generated_tokens: self.tokens as u64, ..Usage::default() };
        Proposals { texts: parsed.texts, unusable: parsed.unusable, usage, ..Proposals::default() }
    }
}

fn sampler(options: &LlamaOptions, seed: u32) -> LlamaSampler {
    let LlamaOptions { temperature, top_p, .. } = *options;
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

/// A sampler's seed from the request's and the answer's number, and nothing else: it does not matter what else is
/// decoded with it. The request's seed is scattered first: seeds that are a fixed distance apart must not give the same
/// samplers, one answer further on.
pub(crate) fn mix(seed: u64, number: u64) -> u32 {
    scatter(scatter(seed).wrapping_add(number)) as u32
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
