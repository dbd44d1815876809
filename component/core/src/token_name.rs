//! The rules for the names of tokens. InfluxDB 3 accepts any text (docs/compatibility.md 2.5). Here
//! an operator can read a name and find it in a list, and no name looks like that of the operator
//! token.

use alloc::string::String;

use optoken_protocol::token::PREFIX;
use optoken_protocol::visible::is_invisible;
use thiserror::Error;

use crate::catalog::OPERATOR;

/// The longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a token name must not be empty")]
    Empty,
    /// The name exceeds [`MAX_NAME_BYTES`].
    #[error("a token name must not be longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The name has an invisible character, so two names could look the same.
    #[error("a token name must not contain control characters or invisible characters")]
    Invisible,
    /// The begin or the end of the name is invisible.
    #[error("a token name must not begin or end with a space")]
    LeadingOrTrailingSpace,
    /// An operator could mistake the token for the operator token.
    #[error("a token name must not look like {OPERATOR}, the name of the operator token")]
    LooksLikeOperator,
    /// The name looks like a token. Names are stored and printed, and a client may send a token as
    /// a name by mistake.
    #[error("a token name must not look like a token")]
    LooksLikeToken,
}

/// Checks a name. That of the operator token is valid.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Err(NameError::TooLong)
    } else if name.chars().any(|character| is_invisible(character) || is_private_use(character)) {
        Err(NameError::Invisible)
    } else if name.chars().next().is_some_and(is_space) || name.chars().next_back().is_some_and(is_space) {
        Err(NameError::LeadingOrTrailingSpace)
    } else if name != OPERATOR && skeleton(name) == OPERATOR {
        Err(NameError::LooksLikeOperator)
    } else if name.as_bytes().windows(PREFIX.len()).any(|text| text == PREFIX.as_bytes()) {
        Err(NameError::LooksLikeToken)
    } else {
        Ok(())
    }
}

/// Returns whether a text is one that an operator can read, and contains no token.
pub fn is_visible(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().any(|character| is_invisible(character) || is_private_use(character))
        && !text.as_bytes().windows(PREFIX.len()).any(|text| text == PREFIX.as_bytes())
}

/// Returns whether a character is for private use, and so differs between fonts, or is in a part of
/// Unicode without visible characters.
fn is_private_use(character: char) -> bool {
    matches!(character, '\u{e000}'..='\u{f8ff}' | '\u{e1000}'..)
}

/// Returns whether a character is in Unicode's `White_Space`, without the control characters.
fn is_space(character: char) -> bool {
    matches!(
        character,
        ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Returns the skeleton of a name, for the comparison with [`OPERATOR`]. A character that resembles
/// one of its six is replaced by that one (after Unicode's `confusables.txt`, UTS #39). Accents and
/// spaces are dropped.
fn skeleton(name: &str) -> String {
    let mut skeleton = String::with_capacity(name.len());
    for character in name.chars() {
        // The full-width forms are as far from ASCII as each other.
        let character = match character {
            '\u{ff01}'..='\u{ff5e}' => {
                char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character).to_ascii_lowercase()
            }
            _ => character.to_ascii_lowercase(),
        };
        skeleton.push(match character {
            // Combining marks.
            '\u{300}'..='\u{36f}'
            | '\u{1ab0}'..='\u{1aff}'
            | '\u{1dc0}'..='\u{1dff}'
            | '\u{20d0}'..='\u{20ff}' => {
                continue;
            }
            space if is_space(space) => continue,
            '-'
            | '\u{2010}'..='\u{2015}'
            | '\u{203f}'
            | '\u{2212}'
            | '\u{fe4d}'..='\u{fe4f}'
            | '\u{2cd}'
            | '\u{2017}' => '_',
            '@' | '4' | 'á' | 'à' | 'â' | 'ä' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' | 'Á' | 'À' | 'Â' | 'Ä' | 'Ã'
            | 'Å' | 'ɑ' | 'α' | 'Α' | 'а' | 'А' | '\u{1d00}' => 'a',
            'ď' | 'Ď' | 'đ' | 'Đ' | 'ԁ' | 'Ԁ' | 'ɗ' | '\u{1d05}' | '\u{217e}' => 'd',
            'м' | 'М' | 'Μ' | 'ṃ' | 'ɱ' | '\u{1d0d}' | '\u{217f}' => 'm',
            '1' | 'l' | '|' | '!' | 'í' | 'ì' | 'î' | 'ï' | 'ī' | 'į' | 'Í' | 'Ì' | 'Î' | 'Ï' | 'İ' | 'ı'
            | 'ɩ' | 'ι' | 'Ι' | 'і' | 'І' | 'ї' | 'Ї' | 'ӏ' | 'Ӏ' | '\u{26a}' | '\u{2170}' => 'i',
            'ñ' | 'Ñ' | 'ń' | 'ň' | 'ņ' | 'ո' | 'п' | 'η' | 'Ν' | '\u{274}' => 'n',
            other => other,
        });
        if skeleton.ends_with("rn") {
            skeleton.truncate(skeleton.len() - 2);
            skeleton.push('m');
        }
    }
    skeleton
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_visible_text_of_bounded_length() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for (name, expected) in [
            ("ci", Ok(())),
            ("a b", Ok(())),
            ("Zürich 2026 (東京)", Ok(())),
            (&longest, Ok(())),
            ("", Err(NameError::Empty)),
            (&format!("{longest}x"), Err(NameError::TooLong)),
            (&"é".repeat(65), Err(NameError::TooLong)),
            ("a\nb", Err(NameError::Invisible)),
            ("a\0", Err(NameError::Invisible)),
            ("\u{1b}[2J", Err(NameError::Invisible)),
            ("a\u{85}b", Err(NameError::Invisible)),
            ("a\u{200b}b", Err(NameError::Invisible)),
            ("\u{202e}ic", Err(NameError::Invisible)),
            ("\u{feff}ci", Err(NameError::Invisible)),
            ("ci\u{e0041}", Err(NameError::Invisible)),
            (" ci", Err(NameError::LeadingOrTrailingSpace)),
            ("ci\u{a0}", Err(NameError::LeadingOrTrailingSpace)),
            ("apiv3 ", Err(NameError::LeadingOrTrailingSpace)),
            ("apiv3", Ok(())),
            ("apiv3_x", Err(NameError::LooksLikeToken)),
            ("my apiv3_", Err(NameError::LooksLikeToken)),
        ] {
            assert_eq!(check(name), expected, "{name:?}");
        }
    }

    #[test]
    fn names_that_look_like_the_operators_are_rejected() {
        for name in ["_admin", "admin", "_admins", "x_admin", "administrator", "__admin", "_adm1nistrator"] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
        for name in [
            "_Admin",
            "_ADMIN",
            "-admin",
            "_adm1n",
            "_admln",
            "_adrnin",
            "_аdmin",
            "_аԁміn",
            "＿ａｄｍｉｎ",
            "＿ＡＤＭＩＮ",
            "_admín",
            "_a\u{301}dmin",
            "_ad min",
            "_admıп",
            "–admin",
            "_@dmin",
        ] {
            assert_eq!(check(name), Err(NameError::LooksLikeOperator), "{name:?}");
        }
    }
}
