//! How METEOR cuts texts into words (`-norm`): in lower case, with punctuation as words, hyphens within words opened, and
//! full stops only at abbreviations.
//!
//! What is handed on is nearly always tokenised already ([`crate::ptb`]); then only hyphens, apostrophes, abbreviations
//! and marks change.

use super::data::Prefixes;

/// Letters are those of European scripts; of any other each is a word.
fn alphabetic(c: char) -> bool {
    c.is_alphabetic() && (c as u32) < 0x530
}

fn alphanumeric(c: char) -> bool {
    alphabetic(c) || c.is_ascii_digit()
}

/// The words of a text.
pub(super) fn normalize(text: &str, prefixes: &Prefixes) -> Vec<String> {
    let text = marks(text);
    let text = apostrophes(&hyphens(&commas(&text)));
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut out = Vec::with_capacity(words.len() + 1);
    for (i, word) in words.iter().enumerate() {
        full_stop(word, words.get(i + 1).copied(), prefixes, &mut out);
    }
    out
}

/// One form of quotation marks and dashes; every other mark stands alone.
fn marks(text: &str) -> String {
    let text = text.to_lowercase().replace("''", "\"").replace("``", "\"");
    let mut out = String::with_capacity(text.len() + 8);
    let mut dots = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '.' {
            dots += 1;
            if chars.peek() == Some(&'.') {
                continue;
            }
            // Several full stops are one word.
            if dots > 1 {
                out.push(' ');
            }
            out.extend(std::iter::repeat_n('.', dots));
            if dots > 1 {
                out.push(' ');
            }
            dots = 0;
            continue;
        }
        match c {
            '‘' | '’' | '`' | '´' => out.push('\''),
            '“' | '”' | '„' | '«' | '»' => out.push_str(" \" "),
            '–' => out.push_str(" - "),
            c if alphanumeric(c) || c.is_whitespace() || "',-".contains(c) => out.push(c),
            c => out.extend([' ', c, ' ']),
        }
    }
    out
}

/// A comma is a word of its own, unless it stands between digits.
fn commas(text: &str) -> String {
    around(text, ',', |before, after| {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        if digit(before) && digit(after)
            || before.is_none_or(char::is_whitespace) && !after.is_none_or(char::is_whitespace)
        {
            ","
        } else {
            " , "
        }
    })
}

/// Puts something in place of a character, by what stands beside it.
fn around(text: &str, of: char, put: impl Fn(Option<char>, Option<char>) -> &'static str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == of {
            out.push_str(put(before, chars.peek().copied()));
        } else {
            out.push(c);
        }
        before = Some(c);
    }
    out
}

/// A hyphen between letters or digits opens. A letter that stands between two hyphens belongs to the first.
fn hyphens(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        if let [a, '-', b, ..] = chars[at..]
            && (alphanumeric(a) || a == '.')
            && alphanumeric(b)
        {
            out.extend([a, ' ', b]);
            at += 3;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out.replace("--", " -- ").replace(" --  -- ", " -- ")
}

/// What comes after an apostrophe stays with it, if there is a letter on either side.
fn apostrophes(text: &str) -> String {
    around(text, '\'', |before, after| {
        let letter = |c: Option<char>| c.is_some_and(alphabetic);
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        match (letter(before), letter(after)) {
            (true, true) => " '",
            (false, true) if digit(before) => "'",
            _ => " ' ",
        }
    })
}

/// A full stop at the end of a word is one of its own, unless it is an abbreviation's; those within abbreviations go.
fn full_stop(word: &str, next: Option<&str>, prefixes: &Prefixes, out: &mut Vec<String>) {
    let Some(stem) = word.strip_suffix('.').filter(|s| !s.is_empty() && !s.ends_with('.')) else {
        out.push(word.to_owned());
        return;
    };
    if stem.contains('.') && stem.chars().any(alphabetic) {
        out.push(stem.replace('.', ""));
        return;
    }
    let starts = |is: fn(&char) -> bool| next.and_then(|n| n.chars().next()).is_some_and(|c| is(&c));
    let keeps = prefixes.always.contains(stem)
        || prefixes.before_numbers.contains(stem) && starts(char::is_ascii_digit)
        || starts(char::is_ascii_lowercase);
    if keeps {
        out.push(word.to_owned());
    } else {
        out.extend([stem.to_owned(), ".".to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_as_the_jar_cuts_them() {
        let prefixes = Prefixes::default();
        for (text, words) in [
            ("u.s.-x", "us x"),
            (
                "it 's do n't isn't x's s' 'a' o'clock rock 'n' roll",
                "it ' s do n 't isn 't x 's s ' ' a ' o 'clock rock ' n ' roll",
            ),
            ("etc. x", "etc. x"),
            ("ab½ 20° 5¢", "ab ½ 20 ° 5 ¢"),
            ("a–b it’s “a”", "a - b it 's \" a \""),
            ("a . . . b ... c .... d.", "a . . . b ... c .... d ."),
            ("a-b-c x-1 1-2 -lrb- - --", "a b-c x 1 1 2 -lrb- - --"),
            ("1,000 a,b 1, 2", "1,000 a , b 1 , 2"),
            ("x_y a/b a:b a&b $5 #1", "x _ y a / b a : b a & b $ 5 # 1"),
            ("ph.d. p.m. x.y z. 12. 3", "phd pm x.y z . 12 . 3"),
            ("'90s 5'10 café's x`y", "' 90s 5 ' 10 café 's x 'y"),
            ("a..b a ?! b", "a .. b a ? ! b"),
        ] {
            assert_eq!(normalize(text, &prefixes).join(" "), words);
        }
    }
}
