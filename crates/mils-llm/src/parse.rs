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
    let Items { items, open } = json_array(&body, &mut out).unwrap_or_else(|| list(&body, &mut out));
    let count = items.len();
    for (i, item) in items.into_iter().enumerate() {
        let text = clean(&item);
        let unfinished = cut_off && open && i + 1 == count;
        // Brackets and rules ("---") hold no text.
        if !text.contains(char::is_alphanumeric) {
            out.reject(&item, UnusableReason::Empty);
        } else if unfinished {
            out.reject(&text, UnusableReason::Truncated);
        } else if text.chars().count() > MOST_CHARACTERS {
            out.reject(&text, UnusableReason::TooLong);
        } else if out.texts.len() >= most {
            out.reject(&text, UnusableReason::Surplus);
        } else {
            out.texts.push(text);
        }
    }
    // An answer that says nothing is one too.
    if out.texts.is_empty() && out.unusable.is_empty() {
        out.reject(answer.trim(), UnusableReason::Empty);
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
    if let Some((thought, later)) = kept.rsplit_once("</think>") {
        if !thought.trim().is_empty() {
            out.reject(thought.trim(), UnusableReason::Thinking);
        }
        return later.to_owned();
    }
    kept
}

/// The items of a list, uncleaned. `open`: nothing was said that ends the last of them.
struct Items {
    items: Vec<String>,
    open: bool,
}

/// Splits into items with their wrapped lines joined; what stands around the list is chatter.
fn list(body: &str, out: &mut Parsed) -> Items {
    let lines: Vec<&str> = body.lines().filter(|l| !is_fence(l)).map(unquoted).collect();
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
            open = true;
        } else if let (true, false, Some(last)) = (open, is_talk(text), items.last_mut()) {
            last.push(' ');
            last.push_str(text);
        } else {
            out.reject(text, UnusableReason::Chatter);
            open = false;
        }
    }
    Items { items, open }
}

/// A line without the mark that quotes it in mail and in Markdown.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(|c: char| c == '>' || c.is_whitespace())
}

/// "```" or "```json": no text.
fn is_fence(line: &str) -> bool {
    line.trim().strip_prefix("```").is_some_and(|rest| rest.chars().all(char::is_alphanumeric))
}

/// The items of an answer that holds a JSON array of strings; what stands around it is chatter.
fn json_array(body: &str, out: &mut Parsed) -> Option<Items> {
    let (from, to) = (body.find('[')?, body.rfind(']')?);
    let (before, inner, after) = (&body[..from], body.get(from + 1..to)?, &body[to + 1..]);
    // Brackets within a line belong to a sentence.
    let begins = before.trim_end_matches([' ', '\t']);
    let ends = after.trim_start_matches([' ', '\t', '`', '.']);
    let alone =
        (begins.is_empty() || begins.ends_with(['\n', ':', '`'])) && (ends.is_empty() || ends.starts_with('\n'));
    alone.then_some(())?;
    let items = json_strings(inner.trim())?;
    for line in before.lines().chain(after.lines()).map(str::trim) {
        if !line.is_empty() && !is_fence(line) {
            out.reject(line, UnusableReason::Chatter);
        }
    }
    Some(Items { items, open: false })
}

/// Quoted strings between commas. Anything else is read as lines.
fn json_strings(inner: &str) -> Option<Vec<String>> {
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

/// What follows a list mark: `1.` `1)` `(1)` `1:` `1 -` `#1` `a)` `Caption 1:` `-` `*` `•` `–`, also inside bold.
fn marker(line: &str) -> Option<&str> {
    let text = unquoted(line);
    // "**1.** text" and "**1. text**"
    if let Some(rest) = numbered(text.trim_start_matches('*')) {
        return Some(rest.strip_prefix("**").unwrap_or(rest));
    }
    let rest = bullet(text)?;
    // "- 1. text" has two marks.
    Some(numbered(rest.trim_start()).unwrap_or(rest))
}

fn bullet(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    let mark = chars.next()?;
    let rest = chars.as_str();
    let always = "•●○◦▪▫■□‣⁃►▶→".contains(mark) || matches!(mark, '①'..='⑳');
    // These are punctuation too, and mark an item only before a space.
    let spaced = "-*+–—−·∙".contains(mark) && rest.starts_with(char::is_whitespace);
    (always || spaced).then_some(rest)
}

fn numbered(text: &str) -> Option<&str> {
    let text = text.strip_prefix("Caption ").or_else(|| text.strip_prefix("caption ")).unwrap_or(text);
    let inner = text.strip_prefix(['(', '#', '[']).unwrap_or(text);
    if inner.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return inner[1..].strip_prefix(')');
    }
    let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 || digits > 4 {
        return None;
    }
    let rest = &inner[digits..];
    // A keycap: a digit and two characters that put it into a box.
    if let Some(rest) = rest.trim_start_matches('\u{fe0f}').strip_prefix('\u{20e3}') {
        return Some(rest);
    }
    let spaced = rest.trim_start();
    if let Some(rest) = spaced.strip_prefix(['.', ')', ':', ']', '．', '、']) {
        // "3.5 metres" is no list mark.
        return (!rest.starts_with(|c: char| c.is_ascii_digit())).then(|| rest.strip_prefix(':').unwrap_or(rest));
    }
    spaced.strip_prefix("- ").or_else(|| spaced.strip_prefix("– "))
}

/// Talk that announces, closes or refuses a list, where a list mark does not tell.
fn is_talk(line: &str) -> bool {
    let lower = line.to_lowercase().replace('’', "'");
    let opens = [
        "sure",
        "certainly",
        "absolutely!",
        "of course",
        "here are",
        "here is",
        "here's",
        "below are",
        "okay",
        "i cannot",
        "i can't",
        "i'm sorry",
        "i am sorry",
        "i'm unable",
        "i am unable",
        "i apologi",
        "sorry",
        "as an ai",
        "unfortunately",
        "please provide",
        "please let me",
        "let me know",
        "feel free",
        "i hope",
        "hope that",
        "hope this",
        "hope these",
        "note:",
        "note that",
        "#",
    ];
    lower.ends_with(':') || opens.iter().any(|o| lower.starts_with(o))
}

/// Takes off bold, quotes, and the punctuation of lists; keeps the text's own.
fn clean(item: &str) -> String {
    // Control characters would reach a terminal.
    let printable = item.replace(char::is_control, " ");
    let mut text = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    text = text.replace("**", "").replace("__", "");
    let mut text = text.trim();
    loop {
        let before = text;
        for (open, close) in
            [('"', '"'), ('“', '”'), ('„', '“'), ('\'', '\''), ('‘', '’'), ('`', '`'), ('*', '*'), ('«', '»')]
        {
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
    use UnusableReason::{Chatter, Empty, Surplus, Thinking, TooLong, Truncated};
    use proptest::prelude::*;

    fn texts(answer: &str) -> Vec<String> {
        parse_list(answer, false, 50).texts
    }

    fn reasons(parsed: &Parsed) -> Vec<UnusableReason> {
        parsed.unusable.iter().map(|u| u.reason).collect()
    }

    #[test]
    fn every_kind_of_list_mark() {
        let marks = [
            "1.",
            "1)",
            "(1)",
            "1:",
            "12.",
            "#1.",
            "[1]",
            "1 -",
            "-",
            "*",
            "•",
            "–",
            "**1.**",
            " 3 .",
            "●",
            "▪",
            "-\t",
            "·",
            "\u{2022}\u{a0}",
            "①",
            "1\u{fe0f}\u{20e3}",
            "1、",
            "a)",
            "(b)",
            "Caption 2:",
            "**Caption 2:**",
            "- 1.",
            "> 1.",
            ">  *",
        ];
        for mark in marks {
            assert_eq!(texts(&format!("{mark} a red car (old)!")), ["a red car (old)!"], "{mark}");
            let said = format!("Captions follow.\n{mark} a red car\n{mark} a dog\n  in snow");
            let parsed = parse_list(&said, false, 9);
            assert_eq!(parsed.texts, ["a red car", "a dog in snow"], "{mark}");
            assert_eq!(reasons(&parsed), [Chatter], "{mark}");
        }
        assert_eq!(texts("•a red car\n•a dog"), ["a red car", "a dog"]);
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
        assert_eq!(reasons(&parsed), [Chatter, Chatter]);
        let parsed = parse_list("# Captions\n1. a dog\nLet me know if you’d like more.\nBye.", false, 9);
        assert_eq!((&parsed.texts[..], reasons(&parsed)), (&["a dog".to_owned()][..], vec![Chatter; 3]));
        assert_eq!(texts("> a quoted dog\n> a quoted car"), ["a quoted dog", "a quoted car"]);
    }

    #[test]
    fn the_unfinished_last_item_is_not_used() {
        let parsed = parse_list("1. whole\n2. cut in the mid", true, 9);
        assert_eq!(parsed.texts, ["whole"]);
        assert_eq!(parsed.unusable[0].reason, Truncated);
        assert_eq!(parse_list("1. whole\n2. also whole", false, 9).texts.len(), 2);
        // A line break alone may be a wrapped line's; a blank line or talk ends an item.
        assert_eq!(parse_list("1. whole\n2. cut\n", true, 9).texts, ["whole"]);
        assert_eq!(parse_list("1. whole\n2. also whole\n\nI ho", true, 9).texts, ["whole", "also whole"]);
        assert_eq!(parse_list("a dog\na car on the", true, 9).texts, ["a dog"]);
    }

    #[test]
    fn thinking_is_cut_out() {
        let parsed = parse_list("<think>1. not this\n</think>\n1. this", false, 9);
        assert_eq!((parsed.texts, parsed.unusable[0].reason), (vec!["this".to_owned()], Thinking));
        assert_eq!(parse_list("<think>never ends 1. x", true, 9).texts, [""; 0]);
        assert_eq!(parse_list("hm\n</think>1. this", false, 9).texts, ["this"]);
        assert_eq!(parse_list("hm\n</think>so</think>1. this", false, 9).texts, ["this"]);
    }

    #[test]
    fn answers_without_marks() {
        assert_eq!(texts("a red car"), ["a red car"]);
        assert_eq!(texts("a red car\na dog"), ["a red car", "a dog"]);
        assert_eq!(texts("I cannot see the picture."), [""; 0]);
        assert_eq!(texts("[\"a red car\", \"a \\\"dog\\\"\"]"), ["a red car", "a \"dog\""]);
        assert_eq!(texts("```json\n[\"a\", \"b\"]\n```"), ["a", "b"]);
        let parsed = parse_list("Here you are:\n```json\n[\"a\", \"b\"]\n```\nEnjoy!", false, 9);
        assert_eq!((&parsed.texts[..], reasons(&parsed)), (&["a".to_owned(), "b".to_owned()][..], vec![Chatter; 2]));
        assert_eq!(texts("a sign [\"old\"] on a wall"), ["a sign [\"old\"] on a wall"]);
        assert_eq!(parse_list("[\n\"a\",\n\"unfin", true, 9).texts, ["a"], "no bracket is a caption");
        assert_eq!(texts("[\"a caf\\u00e9\"]"), ["a café"]);
        assert_eq!(texts("1.\n\na red car\n\n2.\n\na dog"), ["a red car", "a dog"]);
    }

    #[test]
    fn surplus_and_endless_items_are_counted() {
        let parsed = parse_list(&format!("1. a\n2. {}\n3. b\n4. c", "x".repeat(700)), false, 2);
        assert_eq!(parsed.texts, ["a", "b"]);
        assert_eq!(reasons(&parsed), [TooLong, Surplus]);
    }

    #[test]
    fn an_answer_without_a_word_is_counted() {
        for said in ["", " \n", "```\n```", "---", "<think></think>"] {
            assert_eq!(reasons(&parse_list(said, false, 9)), [Empty], "{said:?}");
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(texts("1. a \u{1b}[31mred\u{7} car"), ["a [31mred car"]);
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
            prop_assert!(parsed.texts.len() + parsed.unusable.len() > 0);
            prop_assert!(parsed.texts.iter().all(|t| !t.contains(char::is_control)));
            // Every letter is somewhere, but for list marks and the word that opens a fence.
            let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).count();
            let kept: usize = parsed.texts.iter().map(|t| letters(t)).sum();
            let told: usize = parsed.unusable.iter().map(|u| letters(&u.text)).sum();
            let plain = !answer.contains(['`', ')', '<', '\\', '[']);
            prop_assert!(!plain || kept + told == letters(&answer), "{parsed:?}");
        }
    }
}
