//! The form of a token's text. The acceptance of a token depends on its hash alone
//! (`docs/compatibility.md` 1.5).

/// The beginning of every token (`docs/compatibility.md` 1.1).
pub const PREFIX: &str = "apiv3_";

/// How many hexadecimal digits of a token's SHA-512 a listing shows (`docs/compatibility.md` 2.7).
pub const SHORT_HASH_DIGITS: usize = 9;

/// Returns whether a token may have this character behind its prefix: any visible ASCII. Generated
/// tokens have the URL-safe base64 alphabet (`docs/compatibility.md` 1.2), imported ones any.
pub const fn is_token_char(character: char) -> bool {
    character.is_ascii_graphic()
}
