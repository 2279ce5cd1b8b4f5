//! What is a token. As in any scanner generator, the longest match wins, counted with what a rule looks ahead at, and of
//! several as long the one that stands first.

/// What becomes of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A token as it stands.
    Word,
    /// A token that may have spaces and brackets in it.
    Spaced,
    /// This in its place.
    As(&'static str),
    /// Curly quotation marks.
    Quotes,
    /// Words with an ampersand that was written for HTML.
    Entity,
    /// Nothing.
    Space,
}

/// A token, if this comes after it.
pub(super) struct Rule {
    pub(super) token: &'static str,
    pub(super) ahead: &'static str,
    pub(super) kind: Kind,
}

const fn rule(token: &'static str, ahead: &'static str, kind: Kind) -> Rule {
    Rule { token, ahead, kind }
}

/// Names for parts of patterns.
const NAMES: &[(&str, &str)] = &[
    // White space, but for the end of a line.
    ("{S}", r"[ \t\x{a0}\x{2000}-\x{200a}\x{3000}]"),
    // A word of letters and digits; a full stop, ! and ? may be in it. What came into Unicode late is no letter.
    ("{W}", r"{L}(?:{L}|{D})*(?:[.!?]{L}(?:{L}|{D})*)*"),
    // Words and numbers with hyphens, underscores and slashes between them.
    // O'Neil, and a letter or digit.
    ("{O}", r"[dloDLO]{Q}[A-Za-z]{C}+"),
    ("{C}", r"[\pL\p{Nd}]"),
    // A word with at most two hyphens, of those that have slashes between them.
    ("{P}", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"),
    ("{L}", r"[\pL\p{Mn}\p{Mc}\p{Sk}\x{ad}\x{6de}\x{6e9}&&[^\x60^\x{a8}\x{af}\x{b4}\x{b8}]]"),
    ("{D}", r"\p{Nd}"),
    ("{Q}", r"(?:['\x{2019}\x{92}]|&apos;)"),
    ("{N}", r"(?:{D}+(?:[.:,]{D}+)*|(?:[.:,]{D}+)+)"),
    // What a contraction ends with.
    ("{AUX}", r"{Q}(?:[sSdDmM]|[lL][lL]|[rR][eE]|[vV][eE])"),
    ("{NOT}", r"[nN]{Q}[tT]"),
    // What a token ends at.
    ("{B}", r"[^A-Za-z]"),
    // An address's characters, and those that it may end with.
    ("{U}", r#"[^\s"<>|(){}]"#),
    ("{V}", r#"[^\s"<>|(){}.!?,\-]"#),
    ("{H}", r#"[^\s"`'<>|.!?(){},\-_$/:@&=+]"#),
    // A sentence begins so, after what may be an initial.
    (
        "{START}",
        r"(?:A|About|According|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You)",
    ),
    // What keeps its full stop, whatever comes after it.
    (
        "{ABBR}",
        r"(?i:adj|adm|adv|alex|asst|atty|ave|brig|capt|cf|cie|cmdr|col|comdr|cpl|det|dr|drs|ens|ft|gen|gov|govs|hon|insp|jos|lt|maj|messrs|mlle|mme|mr|mrs|ms|msgr|mt|pfc|ph|pres|prof|profs|pvt|rep|reps|rev|sen|sens|sfc|sgt|spc|st|ste|supt|vs|wm|{ENDS})",
    ),
    (
        "{ENDS}",
        r"(?:al|ala|apr|ariz|assn|assoc|aug|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|dept|elec|esq|est|etc|ext|feb|fla|fri|ga|inc|ind|intl|jan|jr|jul|jun|kan|kans|ky|ltd|mar|md|mfg|mich|minn|mo|mon|mont|mtg|natl|neb|nev|nov|oct|okla|penn|ph\.d|plc|pte|pty|rd|rt|sep|sept|seq|sq|sr|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vt|wed|wis|wyo)",
    ),
    // States that are words too, unless they are capitalised.
    (
        "{STATE}",
        r"(?:A[rR][kK]|A[zZ]|D[eE][lL]|I[lL][lL]|L[aA]|M[aA][sS][sS]|M[iI][sS][sS]|O[rR][eE]|P[aA]|T[eE][xX]|W[aA][sS][hH])",
    ),
];

/// A pattern with its names filled in.
pub(super) fn expand(pattern: &str) -> String {
    let mut out = pattern.to_owned();
    // Names stand in others' patterns, two deep.
    for _ in 0..3 {
        for (name, pattern) in NAMES {
            out = out.replace(name, pattern);
        }
    }
    out
}

use Kind::{As, Entity, Quotes, Space, Spaced, Word};

/// All rules.
pub(super) const RULES: &[Rule] = &[
    // Contractions that are written as one word. They come before words, which are as long.
    rule("[cC][aA][nN]", "[nN][oO][tT]", Word),
    rule("[gG][oO][nN]", "[nN][aA]", Word),
    rule("[gG][oO][tT]", "[tT][aA]", Word),
    rule("[lL][eE][mM]", "[mM][eE]", Word),
    rule("[gG][iI][mM]", "[mM][eE]", Word),
    rule("[wW][aA][nN]", "[nN][aA]", Word),
    // What comes before n't and 's is a word of its own.
    rule("{W}", "{NOT}", Word),
    rule("{W}", "{AUX}", Word),
    rule("{Q}[tT]", "(?:[iI][sS]|[wW][aA][sS])", Word),
    rule("{NOT}", "{B}", Word),
    rule("{AUX}", "{B}", Word),
    rule("{Q}[nN]{Q}", "", Word),
    rule("{Q}[nN]", "{B}", Word),
    rule("{Q}(?:[eE][mM]|[tT][iI][lL][lL]?|[cC][aA][uU][sS][eE])", "", Word),
    rule("{Q}[0-9][0-9][sS]?", "[ \t\n,;]", Word),
    rule("{Q}[0-9][0-9][sS]", "", Word),
    // d'oh, o'clock, y'all, ma'am.
    rule("{L}+[aeiouyAEIOUY]{Q}[aeiouA-Z]{L}*", "", Word),
    rule("(?:[dloDLO]|[qQ][uU]){Q}[A-Za-z](?:{L}|{D})+", "", Word),
    rule("[nN]{Q}[A-Za-z]{L}+", "", Word),
    rule("[djlDJL]{Q}", "", Word),
    rule("[yY]{Q}", "[A-Za-z]", Word),
    rule("(?i:c{Q}mon|ma{Q}ams?|s{Q}mores|ne{Q}er|e{Q}er|o{Q}er|ev{Q}ry|hallowe{Q}en|nat{Q}l|int{Q}l)", "", Word),
    // Words, names, numbers.
    rule("{W}", "", Word),
    // What keeps its full stop and ends sentences too, with something short after it.
    rule(r"(?i:{ENDS})\.", "(?s:..?)", Word),
    rule(
        r"(?:{C}(?:{C}|\.)*|{D}+(?:[.,]{D}+)+|{O})(?:[-\x{2010}\x{2011}_](?:{C}+|{O}))*[-_](?:{C}+|{O}|(?:[A-Za-z]\.){2,})",
        "",
        Word,
    ),
    rule("{D}(?:{L}|{D})*", "", Word),
    rule(r"{P}(?:\\?/{P}){1,2}", "", Word),
    rule(r"[A-Z]+(?:&[A-Z]+)+", "", Word),
    rule(r"(?i:[A-Z]+&amp;[A-Z]+)", "", Entity),
    rule(r"[cC](?:\+\+|#)", "", Word),
    rule(r"[-+]?{N}", "", Word),
    rule(r"(?:{D}{1,4}[- \x{a0}])?{D}{1,4}(?:\\?/|\x{2044}){D}{1,4}", "", Spaced),
    rule(
        r"(?:\({D}{2,3}\)[ \x{a0}]?|\+?(?:{D}{2,4}[- \x{a0}])?{D}{2,4}[- \x{a0}]){D}{3,4}[- \x{a0}]{D}{3,5}",
        "",
        Spaced,
    ),
    rule(r"(?:\({D}{2,3}\)[ \x{a0}]?|{D}{2,4}[- \x{a0}]){D}{3,4}[- \x{a0}]{D}{3,5}", "", Spaced),
    // Abbreviations.
    rule(r"[A-Za-z]\.(?:[A-Za-z]\.)*", "", Word),
    rule(r"[A-Za-z]", r"\.{S}+{START}{S}", Word),
    rule(r"{ABBR}\.", "", Word),
    rule(r"{STATE}\.", "", Word),
    rule(r"(?i:art|ca|figs?|nos?|op|prop|pp)\.", "(?:{S}?{D}|[,;:])", Word),
    // Addresses and names of the net.
    rule(r"(?i:https?)://{U}+\.{U}*{V}", "", Word),
    rule(r"(?i:www)\.(?:{H}+\.)+[a-zA-Z]{2,4}", "", Word),
    rule(r"(?:{H}+\.)+(?:com|net|org|edu)", "", Word),
    rule(r"(?:{H}+\.)+(?:com|net|org|edu)/{U}+{V}", "", Word),
    rule(r#"[A-Za-z0-9][^\s"<>|(){}]*@(?:[^\s"<>|().{}]+\.)*[^\s"<>|().{}]+"#, "", Word),
    rule(r"@[A-Za-z_][A-Za-z_0-9]*", "", Word),
    rule(r"#{L}+", "", Word),
    rule(
        r#"<(?:[?!][^>\n]*|/?[A-Za-z][-A-Za-z0-9:.@]*(?:[ ]+[A-Za-z][-A-Za-z0-9:]*(?:[ ]*=[ ]*(?:"[^">\n]*"|'[^'>\n]*'))?)*[ ]*/?)>"#,
        "",
        Word,
    ),
    // Smileys.
    rule(r"[<>]?[:;=](?:['o\-])?[)(DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", Spaced),
    rule(r"8-D", "", Word),
    rule(r"\([\^x=~<>'\-][_.]?[\^x=~<>'\-]\)", "", Spaced),
    rule(r"(?:[\^x=~<>'\-]_[\^x=~<>'\-])", "", Word),
    // Money.
    rule(r"[A-Z]*\$", "", Word),
    rule("£", "", As("#")),
    rule("[€¤₠]", "", As("$")),
    rule("¢", "", As("cents")),
    rule("½", "", As("1/2")),
    rule("¼", "", As("1/4")),
    rule("¾", "", As("3/4")),
    rule("⅓", "", As("1/3")),
    rule("⅔", "", As("2/3")),
    // Quotation marks.
    rule("\"", "[A-Za-z0-9$]", As("``")),
    rule("(?:\"|&quot;)", "", As("''")),
    rule("&quot;", "[A-Za-z0-9$]", As("``")),
    rule("'", r"[A-Za-z][^\s\x{a0}]", As("`")),
    rule("{Q}", "", As("'")),
    rule("``", "", Word),
    rule("''", "", Word),
    rule("`", "", Word),
    rule("[‘’“”‛«»‹›]{1,2}", "", Quotes),
    rule("„", "", Word),
    // Brackets.
    rule(r"\(", "", As("-lrb-")),
    rule(r"\)", "", As("-rrb-")),
    rule(r"\[", "", As("-lsb-")),
    rule(r"\]", "", As("-rsb-")),
    rule(r"\{", "", As("-lcb-")),
    rule(r"\}", "", As("-rcb-")),
    rule(r"(?i:-(?:[LR][RCS]B)-)", "", Word),
    // Dashes, dots and other marks.
    rule("--{1,3}", "", As("--")),
    rule("-", "", Word),
    rule("-{5,}", "", Word),
    rule("(?:[–—―]|&mdash;|&MDASH;)", "", As("--")),
    rule(r"(?:\.{3,5}|\.(?:[ \x{a0}]\.){2,4}|…)", "", As("...")),
    rule("[?!]+", "", Word),
    rule("[.,;:]", "", Word),
    rule("(?:&amp;|&AMP;)", "", As("&")),
    rule("&lt;", "", As("<")),
    rule("&gt;", "", As(">")),
    rule("&(?:[A-Za-z]*(?:acute|grave|uml|circ|tilde|cedil|ring|slash|lig)|#[0-9]+);", "", Word),
    rule(r"(?:{L}|{D})+&(?:[A-Za-z](?:acute|grave|uml|circ|tilde|cedil|ring|slash));(?:{L}|{D})*", "", Word),
    rule("(?:<<|>>)", "", Word),
    rule(r"(?:\*+|\\\*|#+|@+|_+)", "", Word),
    rule(r"[²³¹]+", "", Word),
    // What else there is, a character at a time.
    rule(r"[$%&*+/<=>@\\^_|~]", "", Word),
    rule(
        r"[\x{a1}\x{a5}-\x{a9}\x{ac}\x{ae}-\x{b1}\x{b4}\x{b6}-\x{b9}\x{bf}\x{d7}\x{f7}\x{37e}\x{387}\x{589}\x{5be}\x{5c0}\x{5c3}\x{5c6}\x{5f3}\x{5f4}\x{606}-\x{60c}\x{614}\x{61b}\x{61e}\x{61f}\x{66a}\x{66d}\x{6d4}\x{700}-\x{70d}\x{7f6}-\x{7f8}\x{964}\x{965}\x{e3f}\x{e4f}\x{1fbd}\x{2016}\x{2017}\x{201a}\x{2020}-\x{2023}\x{2030}-\x{2038}\x{203b}\x{203e}-\x{2042}\x{2044}\x{2070}\x{2074}-\x{207e}\x{2080}-\x{208e}\x{20a4}\x{2100}\x{2101}\x{2103}-\x{2106}\x{2108}\x{2109}\x{2114}\x{2116}-\x{2118}\x{211e}-\x{2123}\x{2125}\x{2127}\x{2129}\x{212e}\x{213a}\x{213b}\x{2140}-\x{2144}\x{214a}-\x{214d}\x{214f}\x{2155}-\x{215e}\x{2190}-\x{2426}\x{2440}-\x{244a}\x{2460}-\x{2bff}\x{3001}\x{3002}\x{3012}\x{30fb}\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff20}\x{ff3b}-\x{ff40}\x{ff5b}-\x{ff65}\x{ffe0}\x{ffe1}\x{ffe5}\x{ffe6}\x{a8}\x{af}\x{2e}]",
        "",
        Word,
    ),
    rule(r"(?:{S}|&nbsp;|[\x00-\x20])+", "", Space),
];

/// A token with the treebank's names of brackets.
pub(super) fn bracketed(token: &str) -> String {
    let mut out = String::with_capacity(token.len());
    for c in token.chars() {
        match c {
            '(' => out.push_str("-lrb-"),
            ')' => out.push_str("-rrb-"),
            c => out.push(c),
        }
    }
    out
}

/// Curly quotation marks as the treebank has them.
pub(super) fn quotes(token: &str) -> String {
    let one = |c| match c {
        '‘' | '‛' | '‹' => "`",
        '’' | '›' => "'",
        '“' | '«' => "``",
        _ => "''",
    };
    token.chars().map(one).collect()
}

/// Words with an ampersand.
pub(super) fn entity(token: &str) -> String {
    token.to_lowercase().replace("&amp;", "&")
}
