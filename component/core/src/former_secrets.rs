//! The former secrets of the operator token. A configuration that is rolled back must not bring one
//! of them back. Knows hashes and their stored form, nothing of commands.

use alloc::string::String;

use crate::json_line::{LineReader, push_string};
use crate::token::TokenHash;

/// The most former secrets of a catalog; the oldest go first. A daily rotation takes five years to
/// get there, an hourly one twelve weeks.
pub const MAX_FORMER_SECRETS: usize = 2048;

/// The digits of each hash that are retained. 128 bits distinguish two secrets, and a whole hash
/// would quadruple the document.
const DIGITS: usize = 32;

/// The beginnings of the hashes that the operator token had before its current one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormerSecrets {
    /// [`DIGITS`] for each secret, oldest first.
    digits: String,
    /// Whether there were others.
    incomplete: bool,
}

const COMPLETE: &str = ",\"former\":";
const NEWEST: &str = ",\"newest_former\":";

impl FormerSecrets {
    /// None of them is known, of a token that was replaced.
    pub(crate) fn unknown() -> Self {
        Self { incomplete: true, ..Self::default() }
    }

    /// Whether these are all former secrets.
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Whether this is the hash of one of them.
    pub fn contains(&self, hash: &TokenHash) -> bool {
        let digits = digits(hash);
        self.digits.as_bytes().chunks_exact(DIGITS).any(|former| former == digits.as_bytes())
    }

    /// Adds one.
    pub(crate) fn push(&mut self, hash: &TokenHash) {
        if self.digits.len() >= MAX_FORMER_SECRETS * DIGITS {
            self.digits = self.digits.get(DIGITS..).unwrap_or_default().into();
            self.incomplete = true;
        }
        self.digits.push_str(&digits(hash));
    }

    /// Reads what [`write`](Self::write) writes; `None` in the result if it has written nothing.
    #[expect(clippy::option_option, reason = "an absent value is no error")]
    pub(crate) fn read(line: &mut LineReader<'_>) -> Option<Option<Self>> {
        let (digits, incomplete) = match line.optional(COMPLETE, LineReader::string)? {
            Some(digits) => (digits, false),
            None => match line.optional(NEWEST, LineReader::string)? {
                Some(digits) => (digits, true),
                None => return Some(None),
            },
        };
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let valid = digits.len() % DIGITS == 0
            && digits.len() <= MAX_FORMER_SECRETS * DIGITS
            && digits.bytes().all(is_digit);
        valid.then_some(Some(Self { digits, incomplete }))
    }

    /// Writes a field, unless there is no former secret.
    pub(crate) fn write(&self, document: &mut String) {
        if self.incomplete || !self.digits.is_empty() {
            document.push_str(if self.incomplete { NEWEST } else { COMPLETE });
            push_string(document, &self.digits);
        }
    }
}

/// The digits of a hash that are retained.
fn digits(hash: &TokenHash) -> String {
    let mut digits = String::with_capacity(TokenHash::HEX_DIGITS);
    hash.write_hex(&mut digits);
    digits.get(..DIGITS).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(former: &FormerSecrets) -> Option<FormerSecrets> {
        let mut text = String::new();
        former.write(&mut text);
        let mut line = LineReader::new(&text);
        let read = FormerSecrets::read(&mut line).unwrap();
        line.end().unwrap();
        read
    }

    #[test]
    fn oldest_goes_first_and_the_rest_is_incomplete() {
        let hash = |n: usize| TokenHash::of(&format!("secret {n}"));
        let mut former = FormerSecrets::default();
        assert_eq!(read_back(&former), None);
        for n in 0..MAX_FORMER_SECRETS {
            assert!(!former.contains(&hash(n)));
            former.push(&hash(n));
            assert!(former.contains(&hash(n)));
        }
        assert!(former.is_complete());
        assert_eq!(read_back(&former), Some(former.clone()));
        former.push(&hash(MAX_FORMER_SECRETS));
        assert!(!former.is_complete());
        let kept = [0, 1, MAX_FORMER_SECRETS].map(|n| former.contains(&hash(n)));
        assert_eq!(kept, [false, true, true]);
        assert_eq!(read_back(&former), Some(former));
        let unknown = FormerSecrets::unknown();
        assert_eq!(read_back(&unknown), Some(unknown));
    }

    #[test]
    fn other_texts_are_rejected() {
        let one = digits(&TokenHash::of("x"));
        let many = one.repeat(MAX_FORMER_SECRETS + 1);
        for bad in
            [&one[1..], &one.to_uppercase().replace(char::is_numeric, "A"), &one.replace('a', "g"), &many]
        {
            let text = format!("{COMPLETE}\"{bad}\"");
            assert_eq!(FormerSecrets::read(&mut LineReader::new(&text)), None, "{text}");
        }
    }
}
