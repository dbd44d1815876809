//! A secret as users paste it: with what files, shells, headers and documents put around it.
//!
//! White space and a byte order mark are removed, whatever the secret comes from. Anything else is
//! an error before a request: a server could only refuse it.

use thiserror::Error;

/// What is around a secret, or in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Surroundings {
    #[error("has quotes around it: give it without them (docker --env-file keeps them)")]
    Quotes,
    #[error("begins with the word {0}, as a header does: give what follows that word alone")]
    Scheme(&'static str),
    #[error("begins with {0:?}, the name of a header: give its value alone")]
    Header(&'static str),
    #[error("begins with the name of a variable and =: give the value alone")]
    Variable,
    #[error("is a JSON object: give the value of its \"token\" alone, or the whole file with --token-file")]
    Json,
    #[error("is empty")]
    Empty,
    #[error("holds characters that it cannot have; was it copied whole?")]
    Characters,
}

/// The words before a credential in a header.
const SCHEMES: [&str; 3] = ["Bearer", "Token", "Basic"];

/// The headers and labels that stand before a secret.
const HEADERS: [&str; 3] = ["Authorization:", "Token:", "X-Recovery-Code:"];

/// The quotes of shells and of text processors.
const QUOTES: [char; 7] = ['"', '\'', '`', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}'];

/// Returns the token in a text.
pub(crate) fn token(text: &str) -> Result<&str, Surroundings> {
    let text = alone(text)?;
    if text.starts_with('{') {
        return Err(Surroundings::Json);
    }
    if text.bytes().all(|byte| byte.is_ascii_graphic()) { Ok(text) } else { Err(Surroundings::Characters) }
}

/// Returns the recovery code in a text. Its digits may stand in groups.
pub(crate) fn recovery_code(text: &str) -> Result<&str, Surroundings> {
    let text = alone(text)?;
    let is_of_code = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.bytes().all(is_of_code) { Ok(text) } else { Err(Surroundings::Characters) }
}

/// Returns whether a text is this secret, with nothing around it but what is removed.
pub(crate) fn is_same(text: &str, secret: &str) -> bool {
    alone(text).is_ok_and(|text| text == secret)
}

/// Removes white space and byte order marks. Names anything else that is no part of a secret.
fn alone(text: &str) -> Result<&str, Surroundings> {
    let text = text.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}');
    if text.is_empty() {
        return Err(Surroundings::Empty);
    }
    if text.starts_with(QUOTES) || text.ends_with(QUOTES) {
        return Err(Surroundings::Quotes);
    }
    let begins_with =
        |word: &str| text.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word));
    if let Some(header) = HEADERS.into_iter().find(|header| begins_with(header)) {
        return Err(Surroundings::Header(header));
    }
    let follows_space = |scheme: &&str| {
        begins_with(scheme)
            && text.get(scheme.len()..).is_some_and(|rest| rest.starts_with(char::is_whitespace))
    };
    if let Some(scheme) = SCHEMES.into_iter().find(follows_space) {
        return Err(Surroundings::Scheme(scheme));
    }
    if let Some((name, value)) = text.split_once('=')
        && is_assignment(name, value)
    {
        return Err(Surroundings::Variable);
    }
    Ok(text)
}

/// Returns whether this is the name of a variable, and the `=` behind it no part of a token. A
/// token can hold letters and `=`, so that only names in capitals, or before a whole token, count.
fn is_assignment(name: &str, value: &str) -> bool {
    let name = name.trim();
    let name = name.strip_prefix("export ").map_or(name, str::trim);
    let is_capital = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'$');
    let value = value.trim_start().trim_start_matches(QUOTES);
    !name.is_empty() && name.bytes().all(is_capital)
        || name.bytes().all(is_name) && value.starts_with("apiv3_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surroundings_of_token_are_trimmed_or_named() {
        for text in [
            "apiv3_x",
            " apiv3_x",
            "apiv3_x\n",
            "apiv3_x\r\n",
            "apiv3_x\r",
            "\t apiv3_x \t",
            "\u{feff}apiv3_x\n",
            "\n\u{feff} apiv3_x\u{a0}",
        ] {
            assert_eq!(token(text), Ok("apiv3_x"), "{text:?}");
        }
        // A token can hold these characters.
        for text in ["apiv3_a+b/c==", "apiv3_=", "a=b", "Bearer", "apiv3_x=apiv3", "token"] {
            assert_eq!(token(text), Ok(text));
        }
        for (text, surroundings) in [
            ("\"apiv3_x\"", Surroundings::Quotes),
            ("'apiv3_x'\n", Surroundings::Quotes),
            ("apiv3_x\"", Surroundings::Quotes),
            ("\u{201c}apiv3_x\u{201d}", Surroundings::Quotes),
            ("\u{feff}\"apiv3_x\"", Surroundings::Quotes),
            ("Bearer apiv3_x", Surroundings::Scheme("Bearer")),
            ("token\tapiv3_x", Surroundings::Scheme("Token")),
            ("BASIC dTp4", Surroundings::Scheme("Basic")),
            ("Authorization: Bearer apiv3_x", Surroundings::Header("Authorization:")),
            ("Token: apiv3_x", Surroundings::Header("Token:")),
            ("INFLUXDB3_AUTH_TOKEN=apiv3_x", Surroundings::Variable),
            ("export INFLUXDB3_AUTH_TOKEN=\u{feff}", Surroundings::Variable),
            ("export TOKEN='apiv3_x", Surroundings::Variable),
            ("token=apiv3_x", Surroundings::Variable),
            ("$env:TOKEN = apiv3_x", Surroundings::Variable),
            ("{\"token\": \"apiv3_x\"}", Surroundings::Json),
            ("apiv3_x apiv3_y", Surroundings::Characters),
            ("apiv3_x\napiv3_y", Surroundings::Characters),
            ("apiv3_\u{200b}x", Surroundings::Characters),
            ("\n", Surroundings::Empty),
            ("\u{feff}", Surroundings::Empty),
        ] {
            assert_eq!(token(text), Err(surroundings), "{text:?}");
            assert!(!surroundings.to_string().contains("apiv3"), "{surroundings}");
        }
    }

    #[test]
    fn surroundings_of_recovery_code_are_trimmed_or_named() {
        for text in ["01-23-AB", " 01-23-AB\r\n", "\u{feff}01-23-AB"] {
            assert_eq!(recovery_code(text), Ok("01-23-AB"), "{text:?}");
        }
        assert_eq!(recovery_code("01 23 AB"), Ok("01 23 AB"));
        for (text, surroundings) in [
            ("\"01-23-AB\"", Surroundings::Quotes),
            ("X-Recovery-Code: 01-23-AB", Surroundings::Header("X-Recovery-Code:")),
            ("INFLUXDB3_RECOVERY_CODE=01-23-AB", Surroundings::Variable),
            ("01-23-AB\n01-23", Surroundings::Characters),
            ("", Surroundings::Empty),
        ] {
            assert_eq!(recovery_code(text), Err(surroundings), "{text:?}");
        }
    }
}
