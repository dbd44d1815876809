//! Rejects imported tokens that an attacker could guess. A token is hashed once and without salt
//! (docs/compatibility.md 1.7), which is safe for random texts only: an attacker with the hash can
//! try billions of texts a second. A minted token has 512 random bits; this module estimates those
//! of an imported one.

use optoken_protocol::token::PREFIX;
use thiserror::Error;

/// The fewest plausible random bits of an imported token (NIST SP 800-131A requires 112 of every
/// key).
pub const MIN_BITS: u32 = 112;

/// Why a text is rejected as a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WeakToken {
    /// The text has not the prefix of a token (docs/compatibility.md 1.5).
    #[error("Invalid token format: must start with '{PREFIX}'")]
    Prefix,
    /// The text has a character that an HTTP header cannot carry; probably a copy went wrong.
    #[error("a token holds visible ASCII characters only")]
    Characters,
    /// The text has too few random bits.
    #[error(
        "the token is too weak: at most {bits} bits are random, {MIN_BITS} are asked for; encode at least 16 random bytes \
         in base64 or hexadecimal"
    )]
    Guessable {
        /// The most random bits that it plausibly has.
        bits: u32,
    },
}

/// Checks the text of an imported token. The estimate is an upper bound. It detects short, typed,
/// repeated and counted texts, and cannot detect a random text that was published.
pub fn check(token: &str) -> Result<(), WeakToken> {
    let random = token.strip_prefix(PREFIX).ok_or(WeakToken::Prefix)?.as_bytes();
    if !random.iter().all(u8::is_ascii_graphic) {
        return Err(WeakToken::Characters);
    }
    let bits = bits(random);
    if bits < MIN_BITS { Err(WeakToken::Guessable { bits }) } else { Ok(()) }
}

/// Returns the number of unpredictable characters, times the bits of one.
fn bits(text: &[u8]) -> u32 {
    let unpredictable = (0..text.len()).filter(|at| !is_predictable(text, *at)).count();
    let hundredths =
        u32::try_from(unpredictable).unwrap_or(u32::MAX).saturating_mul(hundredths_per_character(text));
    hundredths / 100
}

/// Returns whether a character repeats the previous one, continues a count, or continues a
/// repetition.
fn is_predictable(text: &[u8], at: usize) -> bool {
    let (before, from_here) = text.split_at_checked(at).unwrap_or((text, &[]));
    let Some(here) = from_here.first() else { return false };
    let counts = |step: i16| match before {
        [.., two_ago, one_ago] => {
            i16::from(*one_ago) - i16::from(*two_ago) == step
                && i16::from(*here) - i16::from(*one_ago) == step
        }
        _ => false,
    };
    // In a text of this length, three characters in the order of an earlier place are no
    // coincidence.
    let repeats = || {
        let with_it = text.get(at.wrapping_sub(2)..=at);
        with_it.is_some_and(|end| before.windows(3).any(|earlier| earlier.eq_ignore_ascii_case(end)))
    };
    before.last() == Some(here) || counts(1) || counts(-1) || repeats()
}

/// Returns the most bits of one character, in hundredths: the logarithm of the size of its
/// alphabet.
fn hundredths_per_character(text: &[u8]) -> u32 {
    let any = |class: fn(&u8) -> bool| text.iter().any(class);
    let (lower, upper, digit) =
        (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase), any(u8::is_ascii_digit));
    let letters_beyond_hex = any(|byte| byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit());
    match (lower, upper, digit) {
        (false, false, _) => 332,
        (true, false, true) | (false, true, true) if !letters_beyond_hex => 400,
        (true, false, true) | (false, true, true) => 517,
        (true, true, _) => 600,
        // Letters of one case alone are words, and a letter of written English has 1 to 1.5 bits
        // (Shannon 1951).
        (true, false, false) | (false, true, false) => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_random(random: &str) -> Result<(), WeakToken> {
        check(&format!("{PREFIX}{random}"))
    }

    #[test]
    fn random_tokens_of_documented_kinds_are_accepted() {
        for random in [
            // docs/compatibility.md 1.8
            "Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
            // docs/compatibility.md 1.6: 16 random bytes, in base64 and in hexadecimal.
            "kM2vQ8xTz0yB3nWfR7uJpA",
            "kM2vQ8xTz0yB3nWfR7uJpA==",
            "9f86d081e04b3c57a2d6c8b15e730f4a",
            "9F86D081E04B3C57A2D6C8B15E730F4A",
            "7c9e6679-7425-40de-944b-e07fc1f90ae7",
            "k3j9x0qz7m2w5v8b1n4c6p0lr",
        ] {
            assert_eq!(check_random(random), Ok(()), "{random}");
        }
    }

    #[test]
    fn guessable_tokens_are_rejected() {
        for random in [
            "",
            "x",
            "admin",
            "password",
            "kM2vQ8xTz0yB3nWfR7",
            "correct-horse-battery-staple-and-then-some",
            "CorrectHorseBattery",
            &"a".repeat(200),
            &"abc".repeat(60),
            &"Passw0rd!".repeat(20),
            &"kM2vQ8xTz0".repeat(9),
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
            "9876543210zyxwvutsrqponmlkjihgfedcba",
            "00000000-0000-0000-0000-000000000000",
            "3141592653589793238462643383279",
        ] {
            assert!(
                matches!(check_random(random), Err(WeakToken::Guessable { .. })),
                "{random}: {:?}",
                check_random(random)
            );
        }
    }

    #[test]
    fn texts_without_the_form_are_rejected() {
        assert_eq!(check("Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB"), Err(WeakToken::Prefix));
        assert_eq!(check("APIV3_9f86d081e04b3c57a2d6c8b15e730f4a"), Err(WeakToken::Prefix));
        for random in [
            "9f86d081e04b3c57 a2d6c8b15e730f4a",
            "9f86d081e04b3c57a2d6c8b15e730f4a\n",
            "é9f86d081e04b3c57a2d6c8b15e730f4a",
        ] {
            assert_eq!(check_random(random), Err(WeakToken::Characters), "{random:?}");
        }
    }
}
