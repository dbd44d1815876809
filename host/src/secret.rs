//! The text of a token on the host's side: wiped when dropped, absent from every log and `Debug` output.

#[cfg(feature = "server")]
use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

/// The text of a token, presented or issued.
///
/// It is not a `String` so that showing it takes a visible [`expose`](Secret::expose).
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself, for the one place that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Replaces whatever looks like a token by `[token]`, for text that comes from outside and is on its way to a screen or a log.
/// Percent-encoded as in a URL, however often, it looks like one as well.
#[cfg(feature = "server")]
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some((before, behind)) = split_at_token(rest) {
        redacted = redacted + before + "[token]";
        rest = behind;
    }
    // A token is more than nothing.
    if rest.len() == text.len() { Cow::Borrowed(text) } else { (redacted + rest).into() }
}

/// What stands before the first token, and what behind it.
#[cfg(feature = "server")]
fn split_at_token(text: &str) -> Option<(&str, &str)> {
    let begins = text.match_indices(['a', '%']);
    begins.filter_map(|(at, _)| text.split_at_checked(at)).find_map(|(before, token)| {
        let random = TOKEN_PREFIX.chars().try_fold(token, |rest, expected| match decoded(rest)? {
            (character, rest) if character == expected => Some(rest),
            _ => None,
        })?;
        let mut behind = random;
        while let Some((character, rest)) = decoded(behind)
            && is_token_char(character)
        {
            behind = rest;
        }
        // The bare prefix is no secret, and errors name it.
        (behind.len() < random.len()).then_some((before, behind))
    })
}

/// The first character, and what comes behind it. `%5F` is `_`, and so is `%255F`.
#[cfg(feature = "server")]
fn decoded(text: &str) -> Option<(char, &str)> {
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

/// What every token begins with (COMPAT 1.1).
pub const TOKEN_PREFIX: &str = "apiv3_";

/// Whether a token may have this after its prefix (COMPAT 1.2).
#[cfg(feature = "server")]
pub(crate) fn is_token_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_token_is_redacted() {
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
    fn a_secret_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Secret::from("apiv3_x".to_owned())), "Secret(..)");
    }
}
