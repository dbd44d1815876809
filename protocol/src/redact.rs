//! Removes tokens from text that repeats a part of a request, before it reaches a log, a screen or
//! the catalog.

use alloc::borrow::Cow;
use alloc::string::{String, ToString as _};

use crate::token::{PREFIX, is_token_char};

/// What replaces a token.
pub const REDACTED: &str = "[token]";

/// Replaces every token in `text` by [`REDACTED`], percent-encoded tokens included, however often
/// they are encoded. The bare prefix is no secret and stays: error texts name it.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some((before, behind)) = split_at_token(rest) {
        redacted = redacted + before + REDACTED;
        rest = behind;
    }
    // Every token has a length, so the rest is as long as the text only if there is none.
    if rest.len() == text.len() { Cow::Borrowed(text) } else { (redacted + rest).into() }
}

/// Returns `text` without tokens and control characters, in at most `max_bytes` bytes before
/// characters are escaped: a client cannot fill a log or forge a line of it.
pub fn sanitize(text: &str, max_bytes: usize) -> String {
    let text = redact(text);
    let text = text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(&text);
    text.escape_debug().to_string()
}

/// Returns the text before the first token and the text behind it.
fn split_at_token(text: &str) -> Option<(&str, &str)> {
    let begins = text.match_indices(['a', '%']);
    begins.filter_map(|(at, _)| text.split_at_checked(at)).find_map(|(before, token)| {
        let random = PREFIX.chars().try_fold(token, |rest, expected| match percent_decode_char(rest)? {
            (character, rest) if character == expected => Some(rest),
            _ => None,
        })?;
        let mut behind = random;
        while let Some((character, rest)) = percent_decode_char(behind)
            && is_token_char(character)
        {
            behind = rest;
        }
        (behind.len() < random.len()).then_some((before, behind))
    })
}

/// Returns the first character, decoded, and the text behind it. `%5F` is `_`, and so is `%255F`.
fn percent_decode_char(text: &str) -> Option<(char, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    if first == '%' {
        let code = characters.as_str().trim_start_matches("25");
        if let Some((digits, behind)) = code.split_at_checked(2)
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            && let Ok(byte) = u8::from_str_radix(digits, 16)
        {
            return Some((char::from(byte), behind));
        }
    }
    Some((first, characters.as_str()))
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn tokens_are_redacted_in_every_encoding() {
        for (text, redacted) in [
            ("", ""),
            ("no token here, apiv3 and _ are not one", "no token here, apiv3 and _ are not one"),
            ("apiv3_", "apiv3_"),
            ("it starts with 'apiv3_'", "it starts with 'apiv3_'"),
            ("token 'apiv3_Jk-a_9' found", "token '[token]' found"),
            ("apiv3_a apiv3_b,apiv3_c/", "[token] [token],[token]/"),
            ("é apiv3_xé", "é [token]é"),
            ("apiv3_apiv3_x", "[token]"),
            ("/apiv3%5Fx/apiv3%5fx", "/[token]/[token]"),
            ("/%61%70%69%76%33%5F%78%2d?", "/[token]?"),
            ("/apiv3%255Fx%25255F.", "/[token]."),
            ("apiv3%5F%2F %5", "apiv3%5F%2F %5"),
            ("100% apiv3%é%", "100% apiv3%é%"),
        ] {
            assert_eq!(redact(text), redacted, "{text:?}");
        }
    }

    #[test]
    fn sanitized_text_is_short_and_one_line() {
        for (text, sanitized) in [
            ("", ""),
            ("/apiv3_x", "/[token]"),
            ("a\nb\u{1b}[0m", "a\\nb\\u{1b}[0m"),
            ("0123456789abcdef-", "0123456789abcdef"),
            ("0123456789abcdeé", "0123456789abcde"),
            // Redacted before it is cut: a part of a token looks like none.
            ("0123456789apiv3_x", "0123456789[token"),
        ] {
            assert_eq!(sanitize(text, 16), sanitized, "{text:?}");
        }
        assert_eq!(sanitize(&format!("{}\n", "x".repeat(256)), 256).len(), 256);
    }
}
