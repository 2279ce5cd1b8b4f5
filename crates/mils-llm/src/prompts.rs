//! What the KV cache keeps of prompts, and where the next one goes: bookkeeping, without llama.cpp.
//!
//! Each of a few sequences of the cache holds one prompt: the one that is being answered, or the last one of its owner,
//! of which the next will share a beginning. What two prompts share is computed once: its cells are put into both
//! sequences.

use llama_cpp_2::token::LlamaToken;

/// Tokens that are worth waiting for while another prompt computes them.
const WORTH_WAITING: usize = 8;

/// What a sequence of the cache holds.
#[derive(Default)]
struct Held {
    /// The tokens whose cells it has.
    tokens: Vec<LlamaToken>,
    /// What will be there when it is computed; `tokens` is its beginning.
    goal: Vec<LlamaToken>,
    /// The logits after the last token of `goal`, once that is there.
    logits: Option<Vec<f32>>,
    owner: Option<u64>,
    busy: bool,
    /// When it was last placed.
    used: u64,
}

/// Where a prompt goes and what need not be computed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The sequence.
    pub sequence: usize,
    /// Another sequence that has the first `keep` tokens; `None`: they are in its own.
    pub from: Option<usize>,
    /// So many tokens are there already. The rest of the sequence is to be removed.
    pub keep: usize,
}

/// The sequences that hold prompts.
pub(crate) struct Prompts {
    held: Vec<Held>,
    /// Sequences cannot be cut: recurrent models have one state and not a cell a token.
    whole: bool,
    clock: u64,
}

fn shared(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prompts {
    /// `count` empty sequences. `whole`: they can be taken over whole only.
    pub(crate) fn new(count: usize, whole: bool) -> Self {
        Self { held: (0..count).map(|_| Held::default()).collect(), whole, clock: 0 }
    }

    /// Finds a place for an owner's next prompt, which is not empty, and takes it. `None`: there is none now, or what
    /// another prompt that is being computed shares with it is worth waiting for.
    pub(crate) fn place(&mut self, prompt: &[LlamaToken], owner: u64) -> Option<Placed> {
        let idle = |held: &Held| !held.busy;
        let own = self.held.iter().position(|h| idle(h) && h.owner == Some(owner));
        let oldest = || (0..self.held.len()).filter(|&i| idle(&self.held[i])).min_by_key(|&i| self.held[i].used);
        let sequence = own.or_else(oldest)?;
        let usable: Vec<usize> = self.held.iter().map(|h| self.usable(h, prompt)).collect();
        // Its own sequence among those that have as much.
        let best = (0..usable.len()).max_by_key(|&i| (usable[i], i == sequence))?;
        let to_come = |h: &Held| if h.busy && h.logits.is_none() { self.of_goal(h, prompt) } else { 0 };
        let keep = usable[best];
        if self.held.iter().map(to_come).any(|tokens| tokens >= keep + WORTH_WAITING) {
            return None;
        }
        self.clock += 1;
        let (tokens, logits) = {
            let source = &mut self.held[best];
            let logits = if keep == prompt.len() { source.logits.clone() } else { None };
            (source.tokens[..keep].to_vec(), logits)
        };
        self.held[sequence] =
            Held { tokens, goal: prompt.to_vec(), logits, owner: Some(owner), busy: true, used: self.clock };
        Some(Placed { sequence, from: (best != sequence && keep > 0).then_some(best), keep })
    }

    /// How many tokens of `prompt` need not be computed if it takes over what is held.
    fn usable(&self, held: &Held, prompt: &[LlamaToken]) -> usize {
        let shared = shared(&held.tokens, prompt);
        let all = shared == held.tokens.len();
        if shared == prompt.len() && all && held.logits.is_some() {
            return shared;
        }
        if self.whole && !all {
            return 0;
        }
        // The last token is computed in any case: its logits begin every answer.
        let most = prompt.len() - 1;
        if self.whole && shared > most { 0 } else { shared.min(most) }
    }

    /// The same of what is being computed, once it is there.
    fn of_goal(&self, held: &Held, prompt: &[LlamaToken]) -> usize {
        let shared = shared(&held.goal, prompt);
        // A state that goes on to become another prompt's is of no use.
        if self.whole && shared < held.goal.len() { 0 } else { shared.min(prompt.len() - 1) }
    }

    /// The sequence's prompt has been answered: others may take its place.
    pub(crate) fn release(&mut self, sequence: usize) {
        self.held[sequence].busy = false;
    }

    /// The next tokens to compute, at most `most`, with the position of the first.
    pub(crate) fn missing(&self, sequence: usize, most: usize) -> (usize, &[LlamaToken]) {
        let held = &self.held[sequence];
        let from = held.tokens.len();
        (from, &held.goal[from..held.goal.len().min(from + most)])
    }

    /// The next `count` tokens have been computed.
    pub(crate) fn computed(&mut self, sequence: usize, count: usize) {
        let held = &mut self.held[sequence];
        let from = held.tokens.len();
        held.tokens.extend_from_slice(&held.goal[from..from + count]);
    }

    /// The last token's logits.
    pub(crate) fn complete(&mut self, sequence: usize, logits: &[f32]) {
        self.held[sequence].logits = Some(logits.to_vec());
    }

    /// The logits that answers begin with, once the whole prompt is there.
    pub(crate) fn logits(&self, sequence: usize) -> Option<&[f32]> {
        self.held[sequence].logits.as_deref()
    }

    /// So many tokens are there.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.held[sequence].tokens.len()
    }

    /// The sequence could not be cut to what it should keep, and is empty now.
    pub(crate) fn lost(&mut self, sequence: usize) {
        let held = &mut self.held[sequence];
        held.tokens.clear();
        held.logits = None;
    }

    /// The cache is empty.
    pub(crate) fn forget(&mut self) {
        self.held.iter_mut().for_each(|h| *h = Held::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<LlamaToken> {
        text.bytes().map(|b| LlamaToken(b.into())).collect()
    }

    /// Places, computes and answers a prompt.
    fn answer(prompts: &mut Prompts, prompt: &str, owner: u64) -> Placed {
        let placed = prompts.place(&tokens(prompt), owner).unwrap();
        compute(prompts, placed.sequence);
        prompts.release(placed.sequence);
        placed
    }

    fn compute(prompts: &mut Prompts, sequence: usize) {
        let (_, missing) = prompts.missing(sequence, usize::MAX - 100_000);
        let count = missing.len();
        prompts.computed(sequence, count);
        prompts.complete(sequence, &[0.0]);
    }

    fn placed(sequence: usize, from: Option<usize>, keep: usize) -> Placed {
        Placed { sequence, from, keep }
    }

    #[test]
    fn an_owner_keeps_its_sequence_and_what_it_shares() {
        let mut prompts = Prompts::new(2, false);
        assert_eq!(answer(&mut prompts, "say: a b", 7), placed(0, None, 0));
        assert_eq!(answer(&mut prompts, "say: a c d", 7), placed(0, None, 7));
        // Another owner takes what is shared out of it, and leaves it as it is.
        assert_eq!(answer(&mut prompts, "say: x", 8), placed(1, Some(0), 5));
        assert_eq!(answer(&mut prompts, "say: a c e", 7), placed(0, None, 9));
        // The same again: not even its last token is computed.
        assert_eq!(answer(&mut prompts, "say: a c e", 7), placed(0, None, 10));
        assert_eq!(answer(&mut prompts, "say: a c e", 8), placed(1, Some(0), 10));
        // A beginning of it has no logits at its end.
        assert_eq!(answer(&mut prompts, "say: a", 7), placed(0, None, 5));
    }

    #[test]
    fn a_new_owner_takes_the_place_of_who_was_there_longest_ago() {
        let mut prompts = Prompts::new(3, false);
        for owner in [0, 1, 2, 0, 2] {
            answer(&mut prompts, &format!("{owner} tells"), owner);
        }
        assert_eq!(answer(&mut prompts, "3 tells", 3).sequence, 1);
        let busy = prompts.place(&tokens("4"), 4).unwrap();
        assert_eq!(busy.sequence, 0);
        // Its own is busy: another.
        assert_eq!(prompts.place(&tokens("5"), 4).unwrap().sequence, 2);
        assert_eq!(prompts.place(&tokens("6"), 5).unwrap().sequence, 1);
        assert_eq!(prompts.place(&tokens("7"), 6), None, "all are busy");
        prompts.release(0);
        assert_eq!(prompts.place(&tokens("7"), 6).unwrap().sequence, 0);
    }

    #[test]
    fn what_is_being_computed_is_waited_for_and_then_shared() {
        let mut prompts = Prompts::new(2, false);
        let first = prompts.place(&tokens("the instruction: a list"), 1).unwrap();
        prompts.computed(first.sequence, 5);
        assert_eq!(prompts.place(&tokens("the instruction: others"), 2), None);
        prompts.computed(first.sequence, 13);
        assert_eq!(prompts.place(&tokens("the instruction: others"), 2), Some(placed(1, Some(0), 17)));
        // What is not shared is not waited for.
        let mut prompts = Prompts::new(2, false);
        prompts.place(&tokens("abc"), 1).unwrap();
        assert_eq!(prompts.place(&tokens("xyz"), 2), Some(placed(1, None, 0)));
    }

    #[test]
    fn a_state_is_taken_over_whole_or_not() {
        let mut prompts = Prompts::new(2, true);
        answer(&mut prompts, "say: a", 1);
        assert_eq!(answer(&mut prompts, "say: a b", 1), placed(0, None, 6), "it goes on from the whole");
        assert_eq!(answer(&mut prompts, "say: a c", 1), placed(0, None, 0), "it cannot be cut");
        assert_eq!(answer(&mut prompts, "say: a c", 2), placed(1, Some(0), 8));
        let busy = prompts.place(&tokens("say: b and c"), 1).unwrap();
        assert_eq!(prompts.place(&tokens("say: b and c, d"), 2), None, "which will be a beginning of it");
        compute(&mut prompts, busy.sequence);
        assert_eq!(prompts.place(&tokens("say: b and c, d"), 2), Some(placed(1, Some(0), 12)));
    }

    #[test]
    fn what_is_missing_comes_in_parts() {
        let mut prompts = Prompts::new(1, false);
        prompts.place(&tokens("abcde"), 1).unwrap();
        assert_eq!(prompts.missing(0, 3), (0, &tokens("abc")[..]));
        prompts.computed(0, 3);
        assert_eq!((prompts.missing(0, 3), prompts.len(0)), ((3, &tokens("de")[..]), 3));
        assert!(prompts.logits(0).is_none());
        prompts.computed(0, 2);
        prompts.complete(0, &[1.0, 2.0]);
        assert_eq!((prompts.missing(0, 3).1.len(), prompts.logits(0)), (0, Some(&[1.0, 2.0][..])));
        prompts.lost(0);
        assert_eq!(prompts.missing(0, 9), (0, &tokens("abcde")[..]));
        prompts.forget();
        assert_eq!(prompts.place(&tokens("abcde"), 1), Some(placed(0, None, 0)));
    }
}
