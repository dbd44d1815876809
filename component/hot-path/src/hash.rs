//! The hash of a token, which is stored instead of its text.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest as _, Sha512};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

/// SHA-512 over the whole token text, prefix included (docs/compatibility.md 1.7).
///
/// The time of a comparison does not depend on where two hashes differ. Displayed as 128 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; TokenHash::BYTES]);

impl TokenHash {
    const BYTES: usize = 64;

    /// The number of its hexadecimal digits.
    pub const HEX_DIGITS: usize = Self::BYTES * 2;

    /// Takes the place of a hash that was not found, so that a miss costs a comparison as well. No
    /// text with this hash is known.
    pub(crate) const DUMMY: Self = Self([0; Self::BYTES]);

    /// Hashes a presented text, which may have any form (docs/compatibility.md 1.5).
    pub fn of(text: &str) -> Self {
        // Not `finalize`: that moves the hasher, and the move leaves an unwiped copy of the text
        // behind.
        let mut hasher = Sha512::new();
        hasher.update(text.as_bytes());
        Self(hasher.finalize_reset().into())
    }

    /// Appends its digits.
    pub fn write_hex(&self, text: &mut String) {
        text.push_str(const_hex::Buffer::<{ Self::BYTES }>::new().format(&self.0));
    }

    /// Returns the first eight bytes, as the hash for a table. SHA-512 spreads them evenly, and an
    /// attacker cannot choose them.
    pub(crate) fn bucket(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

impl ConstantTimeEq for TokenHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        // Every word is read, whatever the words before it, and one comparison decides. A
        // comparison of each byte, as `subtle` has for slices, takes as long as the hash.
        let (left, _) = self.0.as_chunks();
        let (right, _) = other.0.as_chunks();
        let difference = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
        left.iter().zip(right).map(difference).fold(0, |all, this| all | this).ct_eq(&0)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(const_hex::Buffer::<{ Self::BYTES }>::new().format(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

/// The text is not 128 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a token hash is 128 lower-case hexadecimal digits")]
pub struct TokenHashError;

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, TokenHashError> {
        let mut bytes = [0; Self::BYTES];
        let digits = text.len() == Self::HEX_DIGITS && !text.bytes().any(|digit| digit.is_ascii_uppercase());
        match const_hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if digits => Ok(Self(bytes)),
            _ => Err(TokenHashError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_sha_512_of_the_whole_text() {
        // docs/compatibility.md 1.8
        let hash = TokenHash::of(
            "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
        );
        let hex = "f9d9ca5aa9015df867bc2f0c0ff4304502b75c736fc76a979c06eb82a3d0912b\
                   88d266d2bf6b4ec55420f965869630e7f9f6d0db5a66c8225cd603e83723b21b";
        assert_eq!(hash.to_string(), hex);
        assert_eq!(hex.parse(), Ok(hash));
    }

    #[test]
    fn hashes_with_one_different_byte_are_unequal() {
        let hash = TokenHash::of("x");
        assert_eq!(hash, TokenHash::of("x"));
        for byte in 0..TokenHash::BYTES {
            let mut other = hash;
            other.0[byte] ^= 1;
            assert_ne!(hash, other, "byte {byte}");
        }
    }

    #[test]
    fn only_128_lower_case_digits_parse() {
        let good = "0f".repeat(64);
        assert!(good.parse::<TokenHash>().is_ok());
        for bad in [
            String::new(),
            good.to_uppercase(),
            good[2..].to_owned(),
            format!("{good}00"),
            "zz".repeat(64),
            format!("0x{}", &good[2..]),
            format!("0x{good}"),
        ] {
            assert_eq!(bad.parse::<TokenHash>(), Err(TokenHashError), "{bad:?}");
        }
    }
}
