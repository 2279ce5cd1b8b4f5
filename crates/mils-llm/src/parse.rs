//! Lists in the answers of chat models: numbered, dashed, bold, quoted, wrapped, with talk around them.

use mils_optim::{Unusable, UnusableReason};

/// Captions longer than this (in characters) are not captions.
const MOST_CHARACTERS: usize = 600;

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The items.
    pub texts: Vec<String>,
    /// Everything else, with the reason. Nothing that was said is dropped in silence.
    pub unusable: Vec<Unusable>,
}

impl Parsed {
    fn reject(&mut self, text: &str, reason: UnusableReason) {
        self.unusable.push(Unusable { text: text.to_owned(), reason });
    }
}

/// Reads an answer. `cut_off`: the answer ended by the token limit, so that its last line is not whole. `most`: how
/// many items were asked for; more are surplus.
pub fn parse_list(answer: &str, cut_off: bool, most: usize) -> Parsed {
    let mut out = Parsed::default();
    let body = without_thinking(answer, &mut out);
    let items = items(&body, &mut out);
    let count = items.len();
    for (i, item) in items.into_iter().enumerate() {
        let text = clean(&item);
        let last = i + 1 == count;
        // Brackets and rules ("---") hold no text.
        if !text.contains(char::is_alphanumeric) {
            out.reject(&item, UnusableReason::Empty);
        } else if cut_off && last {
            out.reject(&text, UnusableReason::Truncated);
        } else if text.chars().count() > MOST_CHARACTERS {
            out.reject(&text, UnusableReason::TooLong);
        } else if out.texts.len() >= most {
            out.reject(&text, UnusableReason::Surplus);
        } else {
            out.texts.push(text);
        }
    }
    out
}

/// How many list items of an answer in progress have had their line ended. A list in a reasoning block is none.
pub fn complete_items(answer: &str) -> usize {
    let body = without_thinking(answer, &mut Parsed::default());
    let whole = body.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter(|line| marker(line).is_some()).count()
}

/// Cuts out `<think>…</think>`; an unclosed block goes to the end.
fn without_thinking(answer: &str, out: &mut Parsed) -> String {
    let mut rest = answer;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("<think>") {
        kept.push_str(before);
        let (thought, later) = after.split_once("</think>").unwrap_or((after, ""));
        if !thought.trim().is_empty() {
            out.reject(thought.trim(), UnusableReason::Thinking);
        }
        rest = later;
    }
    kept.push_str(rest);
    // Some templates open the block in the prompt, so that the answer holds only its end.
    if let Some((thought, later)) = kept.split_once("</think>") {
        out.reject(thought.trim(), UnusableReason::Thinking);
        return later.to_owned();
    }
    kept
}

/// Splits into items with their wrapped lines joined; what stands around the list is chatter.
fn items(body: &str, out: &mut Parsed) -> Vec<String> {
    if let Some(items) = json_array(body) {
        return items;
    }
    let lines: Vec<&str> = body.lines().filter(|l| !l.trim_start().starts_with("```")).collect();
    let marked = lines.iter().filter(|l| marker(l).is_some()).count();
    let mut items: Vec<String> = Vec::new();
    let mut open = false;
    for line in &lines {
        let text = line.trim();
        if text.is_empty() {
            // A blank line ends a wrapped item; what follows without a mark is talk, unless the mark stood alone.
            open &= items.last().is_some_and(String::is_empty);
        } else if let Some(rest) = marker(line) {
            items.push(rest.trim().to_owned());
            open = true;
        } else if marked == 0 && !is_talk(text) {
            // No list at all: every line is an item.
            items.push(text.to_owned());
        } else if let (true, Some(last)) = (open, items.last_mut()) {
            last.push(' ');
            last.push_str(text);
        } else {
            out.reject(text, UnusableReason::Chatter);
        }
    }
    items
}

/// The items of an answer that is a JSON array of strings, possibly fenced.
fn json_array(body: &str) -> Option<Vec<String>> {
    let text = body.trim().trim_start_matches("```json").trim_matches('`').trim();
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    // Only the plain shape is taken: quoted strings between commas. Anything else is read as lines.
    let inner = inner.strip_prefix('"')?.strip_suffix('"')?;
    let mut items = vec![String::new()];
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        let item = items.last_mut()?;
        match c {
            '\\' => match chars.next()? {
                'n' | 't' | 'r' => item.push(' '),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    item.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?).unwrap_or('\u{fffd}'));
                }
                other => item.push(other),
            },
            '"' => {
                // The end of one string: a comma and the next quote must follow.
                let mut between = String::new();
                while chars.peek().is_some_and(|&c| c != '"') {
                    between.extend(chars.next());
                }
                chars.next()?;
                (between.trim() == ",").then_some(())?;
                items.push(String::new());
            }
            other => item.push(other),
        }
    }
    Some(items)
}

/// What follows a list mark: `1.` `1)` `(1)` `1:` `1 -` `#1` `-` `*` `•` `–`, also inside bold.
fn marker(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let bare = text.trim_start_matches('*');
    // "**1.** text" and "**1. text**"
    if let Some(rest) = numbered(bare) {
        return Some(rest.strip_prefix("**").unwrap_or(rest));
    }
    ["- ", "* ", "• ", "– ", "— ", "+ "].iter().find_map(|mark| text.strip_prefix(mark))
}

fn numbered(text: &str) -> Option<&str> {
    let inner = text.strip_prefix(['(', '#', '[']).unwrap_or(text);
    let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 || digits > 4 {
        return None;
    }
    let rest = &inner[digits..];
    let spaced = rest.trim_start();
    if let Some(rest) = spaced.strip_prefix(['.', ')', ':', ']']) {
        // "3.5 metres" is no list mark.
        return (!rest.starts_with(|c: char| c.is_ascii_digit())).then(|| rest.strip_prefix(':').unwrap_or(rest));
    }
    spaced.strip_prefix("- ").or_else(|| spaced.strip_prefix("– "))
}

/// Talk that announces or refuses a list, in an answer without list marks.
fn is_talk(line: &str) -> bool {
    let lower = line.to_lowercase();
    let opens = [
        "sure",
        "certainly",
        "of course",
        "here are",
        "here is",
        "here's",
        "okay",
        "i cannot",
        "i can't",
        "i'm sorry",
        "i am sorry",
        "sorry",
        "as an ai",
        "unfortunately",
    ];
    line.ends_with(':') || opens.iter().any(|o| lower.starts_with(o))
}

/// Takes off bold, quotes, and the punctuation of lists; keeps the text's own.
fn clean(item: &str) -> String {
    let mut text = item.split_whitespace().collect::<Vec<_>>().join(" ");
    text = text.replace("**", "").replace("__", "");
    let mut text = text.trim();
    loop {
        let before = text;
        for (open, close) in [('"', '"'), ('“', '”'), ('\'', '\''), ('`', '`'), ('*', '*'), ('«', '»')] {
            if let Some(inner) = text.strip_prefix(open).and_then(|t| t.strip_suffix(close)) {
                // "a" and "b" is not one quotation.
                if !inner.contains(open) {
                    text = inner.trim();
                }
            }
        }
        if let Some(unclosed) = text.strip_suffix("\",").or_else(|| text.strip_suffix("\".")) {
            text = unclosed.strip_prefix('"').unwrap_or(text);
        }
        if text == before {
            return text.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use UnusableReason::{Chatter, Surplus, Thinking, TooLong, Truncated};
    use proptest::prelude::*;

    fn texts(answer: &str) -> Vec<String> {
        parse_list(answer, false, 50).texts
    }

    #[test]
    fn every_kind_of_list_mark() {
        for mark in ["1.", "1)", "(1)", "1:", "12.", "#1.", "[1]", "1 -", "-", "*", "•", "–", "**1.**", " 3 ."] {
            assert_eq!(texts(&format!("{mark} a red car (old)!")), ["a red car (old)!"], "{mark}");
        }
        assert_eq!(texts("**1. a red car**\n**2. a dog**"), ["a red car", "a dog"]);
    }

    #[test]
    fn quotes_and_bold_go_and_punctuation_stays() {
        assert_eq!(texts("1. \"A sign that says \"stop\"\""), ["\"A sign that says \"stop\"\""]);
        assert_eq!(texts("1. **\"A dog!\"**"), ["A dog!"]);
        assert_eq!(texts("1. “A dog.”"), ["A dog."]);
        assert_eq!(texts("- 3.5 metres of rope"), ["3.5 metres of rope"]);
    }

    #[test]
    fn wrapped_lines_are_joined_and_talk_is_counted() {
        let parsed = parse_list("Sure! Here you are:\n\n1. a long\n   caption\n2. short\n\nHope that helps!", false, 9);
        assert_eq!(parsed.texts, ["a long caption", "short"]);
        assert_eq!(parsed.unusable.iter().map(|u| u.reason).collect::<Vec<_>>(), [Chatter, Chatter]);
    }

    #[test]
    fn the_unfinished_last_item_is_not_used() {
        let parsed = parse_list("1. whole\n2. cut in the mid", true, 9);
        assert_eq!(parsed.texts, ["whole"]);
        assert_eq!(parsed.unusable[0].reason, Truncated);
        assert_eq!(parse_list("1. whole\n2. also whole", false, 9).texts.len(), 2);
    }

    #[test]
    fn thinking_is_cut_out() {
        let parsed = parse_list("<think>1. not this\n</think>\n1. this", false, 9);
        assert_eq!((parsed.texts, parsed.unusable[0].reason), (vec!["this".to_owned()], Thinking));
        assert_eq!(parse_list("<think>never ends 1. x", true, 9).texts, [""; 0]);
        assert_eq!(parse_list("hm\n</think>1. this", false, 9).texts, ["this"]);
    }

    #[test]
    fn answers_without_marks() {
        assert_eq!(texts("a red car"), ["a red car"]);
        assert_eq!(texts("a red car\na dog"), ["a red car", "a dog"]);
        assert_eq!(texts("I cannot see the picture."), [""; 0]);
        assert_eq!(texts("[\"a red car\", \"a \\\"dog\\\"\"]"), ["a red car", "a \"dog\""]);
        assert_eq!(texts("```json\n[\"a\", \"b\"]\n```"), ["a", "b"]);
        assert_eq!(parse_list("[\n\"a\",\n\"unfin", true, 9).texts, ["a"], "no bracket is a caption");
        assert_eq!(texts("[\"a caf\\u00e9\"]"), ["a café"]);
        assert_eq!(texts("1.\n\na red car\n\n2.\n\na dog"), ["a red car", "a dog"]);
    }

    #[test]
    fn surplus_and_endless_items_are_counted() {
        let parsed = parse_list(&format!("1. a\n2. {}\n3. b\n4. c", "x".repeat(700)), false, 2);
        assert_eq!(parsed.texts, ["a", "b"]);
        assert_eq!(parsed.unusable.iter().map(|u| u.reason).collect::<Vec<_>>(), [TooLong, Surplus]);
    }

    #[test]
    fn items_in_progress() {
        assert_eq!(complete_items("1. a\n2. b"), 1);
        assert_eq!(complete_items("1. a\n"), 1);
        assert_eq!(complete_items("Sure:\n1. a"), 0);
        assert_eq!(complete_items("<think>\n1. red?\n2. blue?\n"), 0);
        assert_eq!(complete_items("<think>\n1. red?\n</think>\n1. a red car\n"), 1);
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_nothing_is_lost(answer in "\\PC{0,80}(\n[0-9*.\\-() \"a-z<>/]{0,40}){0,6}", cut in any::<bool>()) {
            let parsed = parse_list(&answer, cut, 3);
            prop_assert!(parsed.texts.len() <= 3);
            let said = answer.split_whitespace().next().is_some_and(|w| w.chars().any(char::is_alphanumeric));
            let fenced = answer.contains("```") || answer.contains("think>");
            prop_assert!(!said || fenced || parsed.texts.len() + parsed.unusable.len() > 0);
        }
    }
}
