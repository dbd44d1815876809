//! Writes the strings of JSON objects straight into the buffer of an answer.
//!
//! A general serialiser grows its buffer, and every growth leaves a copy behind that is not wiped;
//! answers hold tokens.

use core::fmt;

/// A text that is displayed as a JSON string, byte for byte as `serde_json` writes it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

/// The most bytes that one byte of a text takes: `\u001f`.
pub(crate) const MAX_ESCAPED_BYTES: usize = 6;

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        let mut rest = self.0;
        while let Some((plain, character, behind)) = split_at_escape(rest) {
            f.write_str(plain)?;
            match character {
                b'\x08' => f.write_str("\\b")?,
                b'\t' => f.write_str("\\t")?,
                b'\n' => f.write_str("\\n")?,
                b'\x0c' => f.write_str("\\f")?,
                b'\r' => f.write_str("\\r")?,
                b'"' | b'\\' => write!(f, "\\{}", char::from(character))?,
                _ => write!(f, "\\u{character:04x}")?,
            }
            rest = behind;
        }
        write!(f, "{rest}\"")
    }
}

/// Returns the text before the first character that JSON escapes, that character and the text
/// behind it.
fn split_at_escape(text: &str) -> Option<(&str, u8, &str)> {
    let at = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    let (plain, behind) = text.split_at_checked(at)?;
    Some((plain, *behind.as_bytes().first()?, behind.get(1..)?))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::*;

    #[test]
    fn strings_are_quoted_as_serde_json_quotes_them() {
        let controls: String = ('\0'..='\u{9f}').collect();
        for text in ["", "_admin", "a \"quoted\" \\ name", "\\", "\"", "Zürich 東京 🗝", "\\u0041", &controls]
        {
            let quoted = format!("{}", Quoted(text));
            assert_eq!(quoted, serde_json::to_string(text).unwrap());
            assert!(quoted.len() <= 2 + text.len() * MAX_ESCAPED_BYTES);
        }
    }
}
