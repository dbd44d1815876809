//! Removes tokens from text that repeats a part of a request, before it reaches a log, a screen or
//! the catalog.
//!
//! Any visible ASCII behind the prefix may belong to a token (`docs/compatibility.md` 1.5). So a
//! token ends at white space, a control character or another script, and nowhere else: a quote, a
//! comma or a slash may be a part of it.

use alloc::borrow::Cow;
use alloc::string::{String, ToString as _};

use crate::token::{PREFIX, is_token_char};

/// What replaces a token.
pub const REDACTED: &str = "[token]";

/// The prefix in base64, at each of its three positions in a longer text, as far as other bytes do
/// not change it. Credentials of the scheme Basic are base64.
const PREFIX_IN_BASE64: [&str; 3] = ["YXBpdjNf", "FwaXYzX", "hcGl2M1"];

/// The most marks at the end of a token that stay. They are those of the text around it, or the
/// last ones of the token, of which they reveal nothing.
const MAX_MARKS: usize = 3;

/// Replaces every token in `text` by [`REDACTED`], percent-encoded tokens included, however often
/// they are encoded, and tokens in base64. The bare prefix is no secret and stays: error texts name
/// it.
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

/// Replaces the first token in `text` and everything behind it by [`REDACTED`]. For text that holds
/// a decoded part of a query string: a `+` in a token that is not encoded has become a space there.
pub fn redact_rest(text: &str) -> Cow<'_, str> {
    match split_at_token(text) {
        Some((before, _)) => (String::from(before) + REDACTED).into(),
        None => Cow::Borrowed(text),
    }
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
    // The first characters of a prefix in each form.
    let begins = text.match_indices(['a', '%', 'Y', 'F', 'h']);
    begins.filter_map(|(at, _)| text.split_at_checked(at)).find_map(|(before, token)| {
        let random = strip_prefix(token)?;
        let end = random.find(|next| !is_token_char(next)).unwrap_or(random.len());
        let without_marks = random.get(..end)?.trim_end_matches(is_closing_mark).len();
        let (random, behind) = random.split_at_checked(without_marks.max(end.saturating_sub(MAX_MARKS)))?;
        (!random.is_empty()).then_some((before, behind))
    })
}

/// Returns the text behind the prefix of a token, if `text` begins with one in any form.
fn strip_prefix(text: &str) -> Option<&str> {
    let decoded = PREFIX.chars().try_fold(text, |rest, expected| match percent_decode_char(rest)? {
        (character, rest) if character == expected => Some(rest),
        _ => None,
    });
    decoded.or_else(|| PREFIX_IN_BASE64.iter().find_map(|prefix| text.strip_prefix(prefix)))
}

/// Returns whether a text that quotes a token has this mark behind it.
const fn is_closing_mark(character: char) -> bool {
    matches!(character, '"' | '\'' | '`' | ',' | '.' | ';' | ':' | ')' | ']' | '}' | '>')
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
    use alloc::vec::Vec;

    use base64ct::{Base64, Base64Url, Encoding as _};

    use super::*;
    use crate::percent;

    #[test]
    fn tokens_are_redacted_in_every_encoding() {
        for (text, redacted) in [
            ("", ""),
            ("no token here, apiv3 and _ are not one", "no token here, apiv3 and _ are not one"),
            ("apiv3_", "apiv3_"),
            ("it starts with 'apiv3_'", "it starts with 'apiv3_'"),
            ("it starts with \"apiv3_\", or not", "it starts with \"apiv3_\", or not"),
            ("token 'apiv3_Jk-a_9' found", "token '[token]' found"),
            ("at (apiv3_x), or [apiv3_y]: {apiv3_z};", "at ([token]), or [[token]]: {[token]};"),
            ("apiv3_a apiv3_b,\tapiv3_c/", "[token] [token],\t[token]"),
            ("apiv3_a,apiv3_b", "[token]"),
            ("é apiv3_xé", "é [token]é"),
            ("apiv3_x\u{1b}[0m", "[token]\u{1b}[0m"),
            ("apiv3_apiv3_x", "[token]"),
            ("/apiv3%5Fx/apiv3%5fx", "/[token]"),
            ("/%61%70%69%76%33%5F%78%2d?", "/[token]"),
            ("/apiv3%255Fx%25255F.", "/[token]."),
            ("?token_name=apiv3_x%2B%2f==&db=y", "?token_name=[token]"),
            ("http://me:apiv3_x@localhost/ refused", "http://me:[token] refused"),
            ("apiv3%5F%2F %5", "[token] %5"),
            ("100% apiv3%é%", "100% apiv3%é%"),
            ("apiv3_x\"\"\"\"\"", "[token]\"\"\""),
            ("apiv3_\"\"\"\"\"", "[token]\"\"\""),
            ("Basic dTphcGl2M194 ok", "Basic dTp[token] ok"),
        ] {
            assert_eq!(redact(text), redacted, "{text:?}");
        }
    }

    #[test]
    fn no_character_of_a_token_ends_it() {
        let every: String = ('!'..='~').collect();
        for mark in '!'..='~' {
            let token = format!("apiv3_secret{mark}Tail{every}Tail");
            for text in [
                format!("at {token} failed"),
                format!("at {token:?} failed"),
                format!("at {} failed", percent::encode(&token)),
                format!("at {} failed", percent::encode(&percent::encode(&token))),
                format!("at {} failed", Base64::encode_string(format!("u:{token}").as_bytes())),
                format!("at {} failed", Base64Url::encode_string(format!("us:{token}").as_bytes())),
                format!("at {} failed", Base64::encode_string(token.as_bytes())),
            ] {
                let redacted = redact(&text);
                let rest: Vec<_> = redacted.split(REDACTED).collect();
                assert!(rest.len() == 2 && rest[0].starts_with("at "), "{text} as {redacted}");
                assert!(rest[0].len() <= "at ".len() + 6, "{text} as {redacted}");
                assert!(rest[1].trim_start_matches('"') == " failed", "{text} as {redacted}");
            }
        }
    }

    #[test]
    fn rest_behind_a_token_is_redacted() {
        for (text, redacted) in [
            ("", ""),
            ("a b apiv3_ c", "a b apiv3_ c"),
            ("no token named \"apiv3_x y/z==\"", "no token named \"[token]"),
            ("a apiv3%5Fx b apiv3_y c", "a [token]"),
        ] {
            assert_eq!(redact_rest(text), redacted, "{text:?}");
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
