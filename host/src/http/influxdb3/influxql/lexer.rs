//! The lexemes of `InfluxQL`, where Core's parser cannot find others.
//!
//! That parser has no lexer of its own: what a character means depends on its place. So this one
//! refuses each text in which a character could mean something else. It accepts no comment, no
//! keyword without a separator behind it, and no white space but blank, tab and line feed.

use std::borrow::Cow;

use super::super::target::Refusal;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lexeme<'a> {
    /// A reserved word, in lower case.
    Keyword(&'static str),
    /// Another name, with or without quotes, and without escapes.
    Name(Cow<'a, str>),
    /// A number, a duration, a text, a parameter that stands for one of them, or the type behind a
    /// name. All of them end an operand.
    Literal,
    /// A regular expression.
    Regex,
    /// Any other character.
    Symbol(u8),
}

impl Lexeme<'_> {
    pub(super) fn is_symbol(&self, symbol: u8) -> bool {
        *self == Self::Symbol(symbol)
    }
}

/// The keywords that a query may have.
const KEYWORDS: [&str; 29] = [
    "and",
    "as",
    "asc",
    "by",
    "desc",
    "distinct",
    "field",
    "from",
    "group",
    "in",
    "key",
    "keys",
    "limit",
    "measurement",
    "measurements",
    "offset",
    "on",
    "or",
    "order",
    "policies",
    "retention",
    "select",
    "show",
    "slimit",
    "soffset",
    "tag",
    "values",
    "where",
    "with",
];

/// The other keywords. They are of statements that change something, that show several databases,
/// or that Core does not have.
const REFUSED: [&str; 49] = [
    "all",
    "alter",
    "analyze",
    "any",
    "begin",
    "cardinality",
    "continuous",
    "create",
    "database",
    "databases",
    "default",
    "delete",
    "destinations",
    "diagnostics",
    "drop",
    "duration",
    "end",
    "every",
    "exact",
    "explain",
    "for",
    "grant",
    "grants",
    "groups",
    "inf",
    "insert",
    "into",
    "kill",
    "name",
    "password",
    "policy",
    "privileges",
    "queries",
    "query",
    "read",
    "replication",
    "resample",
    "revoke",
    "series",
    "set",
    "shard",
    "shards",
    "stats",
    "subscription",
    "subscriptions",
    "to",
    "user",
    "users",
    "write",
];

/// The characters that may follow a keyword. Before any other one, Core reads a name.
const BEHIND_KEYWORD: &[u8] = b" \n\t;(),=!><+-/*|&^%";

/// The units of durations, each before those that begin like it.
const UNITS: [&[u8]; 8] = [b"ns", b"ms", b"u", b"s", b"m", b"h", b"d", b"w"];

/// The types of fields.
const TYPES: [&str; 7] = ["boolean", "field", "float", "integer", "string", "tag", "unsigned"];

/// Splits a text into its lexemes.
pub(super) fn lexemes(text: &str) -> Result<Vec<Lexeme<'_>>, Refusal> {
    let mut lexemes = Vec::new();
    let mut rest = text.as_bytes();
    let mut is_adjacent = false;
    while let [first, behind @ ..] = rest {
        if matches!(first, b' ' | b'\t' | b'\n') {
            (rest, is_adjacent) = (behind, false);
            continue;
        }
        let (lexeme, length) = lexeme(rest, Before { last: lexemes.last(), is_adjacent })?;
        lexemes.push(lexeme);
        (rest, is_adjacent) = (rest.get(length..).unwrap_or_default(), true);
    }
    Ok(lexemes)
}

/// What precedes a lexeme.
#[derive(Clone, Copy)]
struct Before<'a> {
    last: Option<&'a Lexeme<'a>>,
    /// Whether no white space lies between.
    is_adjacent: bool,
}

impl<'a> Before<'a> {
    fn adjacent(self) -> Option<&'a Lexeme<'a>> {
        self.last.filter(|_| self.is_adjacent)
    }
}

/// Reads the first lexeme, and returns its length, too.
fn lexeme<'a>(rest: &'a [u8], before: Before<'_>) -> Result<(Lexeme<'a>, usize), Refusal> {
    let [first, behind @ ..] = rest else { return Err("the query ends too early") };
    match first {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => word(rest, before),
        b'0'..=b'9' => number(rest).map(|length| (Lexeme::Literal, length)),
        b'"' => quoted(rest, b'"').map(|(name, length)| (Lexeme::Name(Cow::Owned(name)), length)),
        b'\'' => quoted(rest, b'\'').map(|(_, length)| (Lexeme::Literal, length)),
        b'$' => {
            let length = match behind {
                [b'"', ..] => quoted(behind, b'"')?.1,
                _ => word_length(behind),
            };
            if length == 0 { Err("a parameter has no name") } else { Ok((Lexeme::Literal, 1 + length)) }
        }
        b'/' => slash(rest, before),
        b'-' if behind.first() == Some(&b'-') => Err("the query has a comment"),
        // The parts of a name stand without white space.
        b'.' => match (before.adjacent(), behind.first()) {
            (
                Some(Lexeme::Name(_) | Lexeme::Symbol(b'.')),
                Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'"' | b'.' | b'/'),
            ) => Ok((Lexeme::Symbol(b'.'), 1)),
            _ => Err("a dot stands outside of a name"),
        },
        b':' => data_type(rest, before).map(|length| (Lexeme::Literal, length)),
        b'~' => match before.adjacent() {
            Some(Lexeme::Symbol(b'=' | b'!')) => Ok((Lexeme::Symbol(b'~'), 1)),
            _ => Err("a tilde stands outside of an operator"),
        },
        b'(' | b')' | b',' | b';' | b'=' | b'!' | b'<' | b'>' | b'+' | b'-' | b'*' | b'%' | b'&' | b'|'
        | b'^' => Ok((Lexeme::Symbol(*first), 1)),
        _ => Err("the query has an unknown character"),
    }
}

fn word<'a>(rest: &'a [u8], before: Before<'_>) -> Result<(Lexeme<'a>, usize), Refusal> {
    let length = word_length(rest);
    let word = rest.get(..length).unwrap_or_default();
    let behind = rest.get(length);
    if REFUSED.iter().any(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes())) {
        return Err("the query has a keyword that no query of one database has: put names in double quotes");
    }
    let Some(keyword) = KEYWORDS.into_iter().find(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes()))
    else {
        return match behind {
            Some(b'"' | b'\'' | b'$') => Err("a quote follows a name"),
            _ => Ok((Lexeme::Name(String::from_utf8_lossy(word)), length)),
        };
    };
    if behind.is_some_and(|behind| !BEHIND_KEYWORD.contains(behind))
        || matches!(before.adjacent(), Some(Lexeme::Symbol(b'.')))
    {
        return Err("a keyword stands where a name could stand");
    }
    Ok((Lexeme::Keyword(keyword), length))
}

/// Returns the length of a type, as in `name::field`.
fn data_type(rest: &[u8], before: Before<'_>) -> Result<usize, Refusal> {
    let length = 2 + word_length(rest.get(2..).unwrap_or_default());
    let is_type = rest
        .strip_prefix(b"::")
        .and_then(|name| name.get(..length - 2))
        .is_some_and(|name| TYPES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())));
    let is_behind_name = matches!(before.adjacent(), Some(Lexeme::Name(_) | Lexeme::Symbol(b'*')));
    let is_complete = rest.get(length).is_none_or(|behind| BEHIND_KEYWORD.contains(behind));
    if is_type && is_behind_name && is_complete {
        Ok(length)
    } else {
        Err("a colon stands outside of a type")
    }
}

fn word_length(rest: &[u8]) -> usize {
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    rest.iter().position(|byte| !is_of_word(byte)).unwrap_or(rest.len())
}

/// Returns the length of `1`, `1.5` or `1h30m`.
fn number(rest: &[u8]) -> Result<usize, Refusal> {
    let digits = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits(rest);
    match rest.get(length..) {
        Some([b'.', behind @ ..]) if digits(behind) > 0 => length += 1 + digits(behind),
        _ => {
            while let Some(unit) = unit(rest.get(length..).unwrap_or_default()) {
                length += unit;
                let more = digits(rest.get(length..).unwrap_or_default());
                length += more;
                if more > 0 && self::unit(rest.get(length..).unwrap_or_default()).is_none() {
                    return Err("a number has an unknown unit");
                }
            }
        }
    }
    match rest.get(length) {
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'"' | b'\'' | b'$') => {
            Err("a number has an unknown unit")
        }
        _ => Ok(length),
    }
}

fn unit(rest: &[u8]) -> Option<usize> {
    UNITS.into_iter().find(|unit| rest.starts_with(unit)).map(<[u8]>::len)
}

/// Reads a text in quotes, and returns its length, too.
fn quoted(rest: &[u8], quote: u8) -> Result<(String, usize), Refusal> {
    const UNCERTAIN: Refusal = "a text in quotes has no certain end";
    let mut text = Vec::new();
    let mut bytes = rest.iter().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match *byte {
            b'\n' => return Err(UNCERTAIN),
            b'\\' => match bytes.next() {
                Some((_, b'n')) => text.push(b'\n'),
                Some((_, escaped)) if *escaped == quote || *escaped == b'\\' => text.push(*escaped),
                _ => return Err(UNCERTAIN),
            },
            byte if byte == quote => {
                return match rest.get(at + 1) {
                    Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'"' | b'\'' | b'$') => {
                        Err(UNCERTAIN)
                    }
                    _ => String::from_utf8(text).map(|text| (text, at + 1)).map_err(|_| UNCERTAIN),
                };
            }
            byte => text.push(byte),
        }
    }
    Err(UNCERTAIN)
}

/// Reads a division, or a regular expression where no operand precedes.
fn slash(rest: &[u8], before: Before<'_>) -> Result<(Lexeme<'static>, usize), Refusal> {
    if rest.get(1) == Some(&b'*') {
        return Err("the query has a comment");
    }
    match before.last {
        Some(Lexeme::Name(_) | Lexeme::Literal | Lexeme::Symbol(b')')) => Ok((Lexeme::Symbol(b'/'), 1)),
        Some(Lexeme::Symbol(b'~')) => regex(rest, true),
        Some(Lexeme::Keyword("from" | "by" | "select") | Lexeme::Symbol(b',' | b'(')) => regex(rest, false),
        Some(Lexeme::Symbol(b'.')) if before.is_adjacent => regex(rest, false),
        _ => Err("a slash is neither a division nor a regular expression"),
    }
}

/// Reads a regular expression. Were it none, its content would still name nothing.
fn regex(rest: &[u8], may_have_blanks: bool) -> Result<(Lexeme<'static>, usize), Refusal> {
    const UNCERTAIN: Refusal = "a regular expression has no certain end";
    let mut bytes = rest.iter().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'/' if at > 1 => return Ok((Lexeme::Regex, at + 1)),
            b' ' if may_have_blanks => {}
            // Before a slash, a second backslash escapes for one parser and is escaped for another.
            b'\\' if matches!(bytes.next(), Some((_, b'!'..=b'[' | b']'..=b'~'))) => {}
            b'/' | b'\'' | b'"' | b';' | b'\\' | ..=b' ' | 0x7f => return Err(UNCERTAIN),
            _ => {}
        }
    }
    Err(UNCERTAIN)
}
