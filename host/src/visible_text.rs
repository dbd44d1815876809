//! Text of others on a terminal: of servers, of files and of file names.
//!
//! A terminal obeys control characters, reorders text after bidirectional ones, and displays some
//! characters as nothing. None of them reaches a terminal as it is.

use std::borrow::Cow;
use std::fmt::Write as _;

use optoken_protocol::visible::is_invisible;

/// Returns the text in one line, without its invisible characters. A line feed becomes a space, so
/// that the text cannot pass for a line of this program.
pub(crate) fn one_line(text: &str) -> String {
    let text = text.trim().replace('\n', " ");
    text.chars().filter(|&character| !is_invisible(character)).collect()
}

/// Escapes the invisible characters as `\u{202e}`. Line feeds stay.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    replace(
        text,
        |character| character == '\n',
        |escaped, character| {
            let _ = write!(escaped, "{}", character.escape_unicode());
        },
    )
}

/// Escapes the invisible characters of JSON as JSON does. Outside a string JSON has no such
/// character but white space, and inside a string it forbids those below U+0020: the latter are
/// removed. Line feeds stay.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    replace(
        json,
        |character| character == '\n',
        |escaped, character| {
            if character < ' ' {
                return;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        },
    )
}

/// Escapes the invisible characters of a text with colours. The sequences for colours stay.
pub(crate) fn escape_styled(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        escaped += &escape(before);
        let parameters = sequence.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == ';');
        if let Some(behind) = parameters.strip_prefix('m') {
            let length = sequence.len() - behind.len();
            escaped = escaped + "\u{1b}[" + sequence.get(..length).unwrap_or_default();
            rest = behind;
        } else {
            escaped += &escape("\u{1b}[");
            rest = sequence;
        }
    }
    escaped + &escape(rest)
}

fn replace(text: &str, keep: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let is_bad = |character| is_invisible(character) && !keep(character);
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_bad(character) {
            escape(&mut escaped, character);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind of invisible character: C0, DEL, C1, bidirectional, zero-width, separators, tags.
    const INVISIBLE: &str = "\0\u{1b}\r\t\u{7f}\u{9b}\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\
         \u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{2028}\u{2029}\u{e0001}\u{e0041}\u{ad}\u{fe0f}";

    #[test]
    fn invisible_characters_never_pass() {
        for character in INVISIBLE.chars() {
            let text = format!("a{character}b");
            assert_eq!(one_line(&text), "ab", "{character:?}");
            assert_eq!(escape(&text), format!("a{}b", character.escape_unicode()));
            assert_eq!(escape_styled(&text), escape(&text));
            let json = escape_json(&text).into_owned();
            assert!(!json.contains(is_invisible), "{json:?}");
            if character >= ' ' {
                let text: String = serde_json::from_str(&format!("\"{json}\"")).unwrap();
                assert_eq!(text, format!("a{character}b"));
            }
        }
    }

    #[test]
    fn visible_text_stays() {
        for text in ["", "plain", "Grüße, 東京 שלום", "two\nlines", r#"{"a": "\u202e"}"#] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(escape_json(text), Cow::Borrowed(same) if same == text));
            assert_eq!(escape_styled(text), text);
        }
        assert_eq!(one_line("warning: a\nb\n"), "warning: a b");
    }

    #[test]
    fn only_colours_are_kept() {
        for text in ["\u{1b}[31mred\u{1b}[0m", "\u{1b}[1;33m\u{1b}[m", "a\u{1b}[4mb"] {
            assert_eq!(escape_styled(text), text);
        }
        for (text, escaped) in [
            ("\u{1b}[2Jx", "\\u{1b}[2Jx"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}[31", "\\u{1b}[31"),
            ("\u{1b}[\u{1b}[1mx", "\\u{1b}[\u{1b}[1mx"),
        ] {
            assert_eq!(escape_styled(text), escaped);
        }
    }
}
