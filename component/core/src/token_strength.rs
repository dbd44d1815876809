//! Whether a token that somebody else made can be guessed.
//!
//! A token is hashed once and without salt (COMPAT 1.7), which is safe for random texts only: whoever gets hold of the
//! hash can try billions of texts a second. Tokens of our own carry 512 random bits; one that is preset is judged here.

use optoken_protocol::token::PREFIX;
use thiserror::Error;

/// The least number of bits that a preset token must plausibly carry: what cannot be tried in any time (NIST SP 800-131A
/// asks for 112 of every key).
pub const MIN_BITS: u32 = 112;

/// Why a text is not taken for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WeakToken {
    /// Not ours, by its form (COMPAT 1.5).
    #[error("Invalid token format: must start with '{PREFIX}'")]
    Prefix,
    /// No HTTP header can carry it, or a copy went wrong.
    #[error("a token holds visible ASCII characters only")]
    Characters,
    /// It can be guessed.
    #[error(
        "the token is too weak: at most {bits} bits are random, {MIN_BITS} are asked for; make one with: influxdb3 create \
         token --admin --offline --output-file FILE"
    )]
    Guessable {
        /// How many bits it carries at most, plausibly.
        bits: u32,
    },
}

/// Judges the text of a token that was made elsewhere.
///
/// The judgement is an upper bound on what such a text can plausibly carry. It finds what is short, typed, repeated or
/// counted; that random looking text was published somewhere, it cannot know.
pub fn check(token: &str) -> Result<(), WeakToken> {
    let random = token.strip_prefix(PREFIX).ok_or(WeakToken::Prefix)?.as_bytes();
    if !random.iter().all(u8::is_ascii_graphic) {
        return Err(WeakToken::Characters);
    }
    let bits = bits(random);
    if bits < MIN_BITS { Err(WeakToken::Guessable { bits }) } else { Ok(()) }
}

/// Characters that could not be foretold from the ones before them, times what such a character carries.
fn bits(text: &[u8]) -> u32 {
    let unforeseen = (0..text.len()).filter(|at| !is_foreseeable(text, *at)).count();
    let hundredths =
        u32::try_from(unforeseen).unwrap_or(u32::MAX).saturating_mul(hundredths_a_character(text));
    hundredths / 100
}

/// Whether the character repeats the one before, goes on counting, or goes on repeating something earlier.
fn is_foreseeable(text: &[u8], at: usize) -> bool {
    let (before, from_here) = text.split_at_checked(at).unwrap_or((text, &[]));
    let Some(here) = from_here.first() else { return false };
    let counts = |step: i16| match before {
        [.., two_ago, one_ago] => {
            i16::from(*one_ago) - i16::from(*two_ago) == step
                && i16::from(*here) - i16::from(*one_ago) == step
        }
        _ => false,
    };
    // Three characters that stood together before are no chance in a text of this length.
    let repeats = || {
        let with_it = text.get(at.wrapping_sub(2)..=at);
        with_it.is_some_and(|end| before.windows(3).any(|earlier| earlier.eq_ignore_ascii_case(end)))
    };
    before.last() == Some(here) || counts(1) || counts(-1) || repeats()
}

/// What one character carries at most, in hundredths of a bit: the logarithm of how many it was chosen from.
fn hundredths_a_character(text: &[u8]) -> u32 {
    let any = |class: fn(&u8) -> bool| text.iter().any(class);
    let (lower, upper, digit) =
        (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase), any(u8::is_ascii_digit));
    let letters_beyond_hex = any(|byte| byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit());
    match (lower, upper, digit) {
        (false, false, _) => 332,
        (true, false, true) | (false, true, true) if !letters_beyond_hex => 400,
        (true, false, true) | (false, true, true) => 517,
        (true, true, _) => 600,
        // Letters of one case alone are words; a letter of written English carries little (Shannon 1951: 1 to 1.5 bits).
        (true, false, false) | (false, true, false) => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(random: &str) -> Result<(), WeakToken> {
        check(&format!("{PREFIX}{random}"))
    }

    #[test]
    fn random_tokens_of_the_documented_kinds_are_good_enough() {
        for random in [
            // COMPAT 1.8
            "Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
            // COMPAT 1.6: 16 random bytes, in base64 and in hexadecimal.
            "kM2vQ8xTz0yB3nWfR7uJpA",
            "kM2vQ8xTz0yB3nWfR7uJpA==",
            "9f86d081e04b3c57a2d6c8b15e730f4a",
            "9F86D081E04B3C57A2D6C8B15E730F4A",
            "7c9e6679-7425-40de-944b-e07fc1f90ae7",
            "k3j9x0qz7m2w5v8b1n4c6p0lr",
        ] {
            assert_eq!(judge(random), Ok(()), "{random}");
        }
    }

    #[test]
    fn what_can_be_guessed_is_not() {
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
                matches!(judge(random), Err(WeakToken::Guessable { .. })),
                "{random}: {:?}",
                judge(random)
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert_eq!(check("Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB"), Err(WeakToken::Prefix));
        assert_eq!(check("APIV3_9f86d081e04b3c57a2d6c8b15e730f4a"), Err(WeakToken::Prefix));
        for random in [
            "9f86d081e04b3c57 a2d6c8b15e730f4a",
            "9f86d081e04b3c57a2d6c8b15e730f4a\n",
            "é9f86d081e04b3c57a2d6c8b15e730f4a",
        ] {
            assert_eq!(judge(random), Err(WeakToken::Characters), "{random:?}");
        }
    }
}
