//! Reads and writes the lines of a stored catalog: JSON in exactly one form. Any tool reads the
//! JSON that is written here. The reader accepts that text only, key for key and without white
//! space. So a catalog has one text, and every other text is damaged. A general parser would take a
//! fifth of the component, and most of the time of a command. Knows the forms of values, and
//! nothing of their meaning.

use alloc::string::String;
use core::fmt::Write as _;

use crate::token::TokenHash;

/// No number of so many digits overflows. To check each step takes a multiple of the time.
const MAX_SAFE_DIGITS: usize = 19;

/// Reads a line from its begin. Every method returns `None` if the text differs; the results before
/// are then invalid.
#[derive(Debug)]
pub(crate) struct LineReader<'a> {
    rest: &'a str,
}

impl<'a> LineReader<'a> {
    pub(crate) const fn new(line: &'a str) -> Self {
        Self { rest: line }
    }

    /// Reads this text.
    pub(crate) fn literal(&mut self, literal: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(literal)?;
        Some(())
    }

    /// Reads `value`, if this text precedes it.
    #[expect(clippy::option_option, reason = "an absent value is no error")]
    pub(crate) fn optional<T>(
        &mut self,
        literal: &str,
        value: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.literal(literal) {
            Some(()) => value(self).map(Some),
            None => Some(None),
        }
    }

    /// Reads a whole number without sign and leading zeros.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.rest.split_at_checked(digits)?;
        if number.is_empty() || number.len() > 1 && number.starts_with('0') {
            return None;
        }
        self.rest = rest;
        if number.len() > MAX_SAFE_DIGITS {
            return number.parse().ok();
        }
        Some(number.bytes().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// Reads a string of [`push_string`]. It accepts the escapes of quote and backslash only: no
    /// value that is read contains a control character.
    pub(crate) fn string(&mut self) -> Option<String> {
        self.literal("\"")?;
        let mut string = String::new();
        loop {
            // A string without an escape, as nearly all are, is copied once.
            let end = self.rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
            let (plain, rest) = self.rest.split_at_checked(end)?;
            string.push_str(plain);
            self.rest = rest;
            if self.literal("\"").is_some() {
                return Some(string);
            }
            self.literal("\\")?;
            let escaped = self.rest.chars().next().filter(|character| matches!(character, '"' | '\\'))?;
            string.push(escaped);
            self.rest = self.rest.get(1..)?;
        }
    }

    /// Reads a string of [`push_plain_string`]. An escape in it is a part of the text.
    pub(crate) fn plain_string(&mut self) -> Option<&'a str> {
        self.literal("\"")?;
        let (string, rest) = self.rest.split_once('"')?;
        self.rest = rest;
        Some(string)
    }

    /// Reads the hash of a token, which is a string.
    pub(crate) fn hash(&mut self) -> Option<TokenHash> {
        self.literal("\"")?;
        let (digits, rest) = self.rest.split_at_checked(TokenHash::HEX_DIGITS)?;
        self.rest = rest;
        self.literal("\"")?;
        digits.parse().ok()
    }

    /// Reads the end of the line.
    pub(crate) fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

/// Appends a whole number.
pub(crate) fn push_number(text: &mut String, number: u64) {
    // The machinery of formatting takes several times as long, for some numbers of each line.
    let mut digits = [0; 20];
    let mut begin = digits.len();
    let mut rest = number;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        begin = place;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.push_str(
        digits.get(begin..).and_then(|digits| core::str::from_utf8(digits).ok()).unwrap_or_default(),
    );
}

/// Appends the hash of a token, as a string.
pub(crate) fn push_hash(text: &mut String, hash: &TokenHash) {
    text.push('"');
    hash.write_hex(text);
    text.push('"');
}

/// Appends a text in which no character needs an escape, as a JSON string.
pub(crate) fn push_plain_string(text: &mut String, string: &str) {
    text.push('"');
    text.push_str(string);
    text.push('"');
}

/// Appends a JSON string.
pub(crate) fn push_string(text: &mut String, string: &str) {
    if !string.bytes().any(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
        return push_plain_string(text, string);
    }
    text.push('"');
    for character in string.chars() {
        match character {
            '"' | '\\' => {
                text.push('\\');
                text.push(character);
            }
            '\0'..' ' => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back_and_are_json() {
        for string in ["", "ci", "a \"quoted\" \\ name", "\\", "\"", "Zürich 東京 🗝", "\\u0041"] {
            let mut text = String::new();
            push_string(&mut text, string);
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), string);
            text.push('x');
            let mut line = LineReader::new(&text);
            assert_eq!(line.string().as_deref(), Some(string));
            assert_eq!(line.rest, "x");
        }
        let mut text = String::new();
        push_string(&mut text, "\0\n\u{1b}\u{7f}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), "\0\n\u{1b}\u{7f}");
    }

    #[test]
    fn other_forms_of_json_are_rejected() {
        for bad in ["", "ci", "\"", "\"ci", "\"\\", "\"\\n\"", "\"\\u0041\"", "\"\n\"", " \"ci\"", "\"\\é\""]
        {
            assert_eq!(LineReader::new(bad).string(), None, "{bad:?}");
        }
        for bad in ["", "-1", "+1", "01", "00", "18446744073709551616", "x", " 1"] {
            assert_eq!(LineReader::new(bad).number(), None, "{bad:?}");
        }
        for (good, number) in [
            ("0", 0),
            ("10,", 10),
            ("9999999999999999999", 9_999_999_999_999_999_999),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(LineReader::new(good).number(), Some(number));
        }
        for number in [0, 1, 9, 10, 99, 100, 1_700_000_000_000, u64::MAX - 1, u64::MAX] {
            let mut text = String::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string());
        }
        let hash = TokenHash::of("x").to_string();
        assert!(LineReader::new(&format!("\"{hash}\"")).hash().is_some());
        for bad in [
            hash.clone(),
            format!("\"{}\"", &hash[1..]),
            format!("\"{hash}"),
            format!("\"{}\"", hash.to_uppercase()),
        ] {
            assert!(LineReader::new(&bad).hash().is_none(), "{bad}");
        }
    }
}
