//! Keeps tokens out of texts that repeat what was sent.

use alloc::string::String;

use crate::token::PREFIX;

/// Replaces whatever looks like a token.
pub fn redact(text: &str) -> String {
    let mut parts = text.split(PREFIX);
    let mut redacted = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let behind = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        // The bare prefix is no secret, and errors name it.
        redacted.push_str(if behind.len() == part.len() { PREFIX } else { "[token]" });
        redacted.push_str(behind);
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_token_is_redacted() {
        for (text, redacted) in [
            ("", ""),
            ("no token here, apiv3 and _ are not one", "no token here, apiv3 and _ are not one"),
            ("it starts with 'apiv3_'", "it starts with 'apiv3_'"),
            ("token 'apiv3_Jk-a_9' found", "token '[token]' found"),
            ("apiv3_a apiv3_b,apiv3_c/", "[token] [token],[token]/"),
            ("é apiv3_xé", "é [token]é"),
        ] {
            assert_eq!(redact(text), redacted, "{text:?}");
        }
    }
}
