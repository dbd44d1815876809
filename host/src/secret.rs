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
#[cfg(feature = "server")]
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let mut parts = text.split(TOKEN_PREFIX);
    let first = parts.next().unwrap_or_default();
    if first.len() == text.len() {
        return Cow::Borrowed(text);
    }
    parts
        .fold(first.to_owned(), |redacted, part| {
            let behind = part.trim_start_matches(is_token_char);
            // The bare prefix is no secret, and errors name it.
            let shown = if behind.len() == part.len() { TOKEN_PREFIX } else { "[token]" };
            redacted + shown + behind
        })
        .into()
}

/// What every token begins with (COMPAT 1.1).
pub const TOKEN_PREFIX: &str = "apiv3_";

/// Whether a token may have this after its prefix (COMPAT 1.2).
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
        ] {
            assert_eq!(redact(text), redacted, "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Secret::from("apiv3_x".to_owned())), "Secret(..)");
    }
}
