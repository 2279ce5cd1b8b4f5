//! The Penn Treebank tokenizer of the COCO tools, without Java: what they make of a caption before anything is scored.
//!
//! The tools call Stanford's `PTBTokenizer` (CoreNLP 3.4.1, `-preserveLines -lowerCase`) and drop the tokens of a fixed
//! list of punctuation. This is a scanner of our own (`rules.rs`), written from the treebank's conventions and from what the
//! tokenizer answered to texts that were put to it; tests compare the two on thousands of them. Two quirks are kept, since
//! scores depend on them: brackets become `-lrb-` and the like, which the tools mean to drop but, as they are in lower
//! case, do not; and a pair of digits groups or a fraction may be one token with a no-break space in it.
//!
//! Taylor, Marcus and Santorini, *The Penn Treebank: an overview*, 2003.

mod rules;

use self::rules::{Kind, RULES};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use std::sync::LazyLock;

/// What the COCO tools drop (`PUNCTUATIONS` of `ptbtokenizer.py`).
pub const PUNCTUATION: [&str; 18] =
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""];

/// Finds the longest match at a place; of several that are as long, the rule that comes first.
struct Scanner {
    dfa: DFA,
    caches: Pool<Cache, Box<dyn Fn() -> Cache + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>>,
}

impl Scanner {
    fn new(patterns: &[String]) -> Self {
        let dfa = DFA::builder()
            .configure(DFA::config().match_kind(MatchKind::All).cache_capacity(16 << 20))
            .syntax(syntax::Config::new().unicode(true).utf8(true))
            .thompson(thompson::Config::new().utf8(true))
            .build_many(patterns);
        // The patterns are constants, and a test scans with all of them.
        #[allow(clippy::expect_used, reason = "the patterns are constants")]
        let dfa = dfa.expect("the rules are valid");
        let made = dfa.clone();
        let caches = Pool::new(Box::new(move || made.create_cache()) as Box<_>);
        Self { dfa, caches }
    }

    /// Where the match ends, and which pattern it is of.
    fn at(&self, text: &str, start: usize) -> Option<(usize, usize)> {
        let mut cache = self.caches.get();
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        // A search fails only where it gives up on purpose, which it was not told to.
        let found = self.dfa.try_search_fwd(&mut cache, &input).ok().flatten()?;
        Some((found.offset(), found.pattern().as_usize()))
    }
}

/// All rules in one scanner; and for those that look ahead, one of the token's part and one of what comes after it.
struct Lexer {
    whole: Scanner,
    parts: Vec<Option<(Scanner, Scanner)>>,
}

static LEXER: LazyLock<Lexer> = LazyLock::new(|| {
    let whole: Vec<String> = RULES.iter().map(|r| rules::expand(r.token) + &rules::expand(r.ahead)).collect();
    let scanner = |pattern: &str| Scanner::new(&[rules::expand(pattern)]);
    let parts = |r: &rules::Rule| (!r.ahead.is_empty()).then(|| (scanner(r.token), scanner(r.ahead)));
    Lexer { whole: Scanner::new(&whole), parts: RULES.iter().map(parts).collect() }
});

/// The end of a token whose rule looked ahead: the longest such that what follows is what it looked for.
fn end_of_part(lexer: &Lexer, rule: usize, text: &str, start: usize, end: usize) -> usize {
    let Some((token, ahead)) = &lexer.parts[rule] else { return end };
    let text = &text[..end];
    let fits = |cut: &usize| {
        text.is_char_boundary(*cut)
            && token.at(&text[..*cut], start).is_some_and(|found| found.0 == *cut)
            && ahead.at(text, *cut).is_some_and(|found| found.0 == end)
    };
    (start + 1..=end).rev().find(fits).unwrap_or(end)
}

/// The tokens of a text, in lower case, with punctuation.
///
/// ```
/// let tokens = mils_eval::ptb::tokens("The dog can't be \"seen\" (at all).");
/// assert_eq!(tokens, ["the", "dog", "ca", "n't", "be", "``", "seen", "''", "-lrb-", "at", "all", "-rrb-", "."]);
/// ```
pub fn tokens(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    scan(text, &mut |token| out.push(token));
    out
}

/// The words that the COCO tools score: [`tokens`] without punctuation, with spaces between them.
///
/// ```
/// assert_eq!(mils_eval::ptb::words("A man's dog, on grass."), "a man 's dog on grass");
/// ```
pub fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    scan(text, &mut |token| {
        if !PUNCTUATION.contains(&&*token) {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&token);
        }
    });
    out
}

fn scan(text: &str, take: &mut dyn FnMut(String)) {
    let lexer = &*LEXER;
    // The tokenizer is given lines: what ends one within a caption is white space, and all that it looks ahead at may be
    // the end of the line.
    let mut text = text.replace(['\n', '\r'], " ");
    text.push('\n');
    let mut at = 0;
    while at < text.len() {
        // Most captions are words with spaces between them.
        if text.as_bytes()[at] == b' ' {
            at += 1;
            continue;
        }
        let Some((end, rule)) = lexer.whole.at(&text, at).filter(|found| found.0 > at) else {
            // What no rule knows, the tokenizer leaves out.
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        let end = end_of_part(lexer, rule, &text, at, end).max(at + 1);
        let token = &text[at..end];
        at = end;
        match RULES[rule].kind {
            Kind::Word => take(token.to_lowercase().replace('\u{ad}', "")),
            Kind::Spaced => take(rules::bracketed(token).to_lowercase().replace(' ', "\u{a0}")),
            Kind::As(other) => take(other.into()),
            Kind::Quotes => take(rules::quotes(token)),
            Kind::Entity => take(rules::entity(token)),
            Kind::Space => {}
        }
    }
}
