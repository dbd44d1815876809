//! The secret text of a token and its hash.
//!
//! A [`Secret`] is wiped when dropped and cannot be printed by accident; a [`TokenHash`] is all that is ever stored.
//! Knows nothing of who holds a token or what it may do.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha512};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ports::{Entropy, EntropyError};

/// What every token begins with (COMPAT 1.1).
pub const PREFIX: &str = "apiv3_";

/// How many random bytes a minted token carries (COMPAT 1.1): 512 bits.
pub const SECRET_BYTES: usize = 64;

/// How long a minted token is, in characters: the prefix and 64 bytes in unpadded base64 (COMPAT 1.3).
pub const MINTED_LENGTH: usize = PREFIX.len() + (SECRET_BYTES * 8).div_ceil(6);

/// The text of a token: wiped on drop, absent from `Debug`.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Makes a new token from fresh random bytes.
    pub fn mint(entropy: &mut impl Entropy) -> Result<Self, EntropyError> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        entropy.fill(bytes.as_mut_slice())?;
        // The whole capacity at once: a string that grows leaves unwiped copies behind.
        let mut text = Zeroizing::new(String::with_capacity(MINTED_LENGTH));
        text.push_str(PREFIX);
        let encoded = Zeroizing::new(Base64UrlUnpadded::encode_string(bytes.as_slice()));
        text.push_str(&encoded);
        Ok(Self(text))
    }

    /// The token text, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the catalog stores instead.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-512 over the whole token text, prefix included (COMPAT 1.7).
///
/// Comparing two hashes takes the same time wherever they differ. Written as 128 lower-case hexadecimal digits.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; TokenHash::BYTES]);

impl TokenHash {
    const BYTES: usize = 64;
    const HEX_DIGITS: usize = Self::BYTES * 2;

    /// A hash to compare with where there is none: nobody knows a text that has it.
    pub(crate) const NOBODY: Self = Self([0; Self::BYTES]);

    /// Hashes a presented text as it stands; no form is asked of it (COMPAT 1.5).
    pub fn of(text: &str) -> Self {
        Self(Sha512::digest(text.as_bytes()).into())
    }

    /// The first eight bytes, to find a record by. SHA-512 spreads them evenly and nobody can choose them.
    pub(crate) fn bucket(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

impl ConstantTimeEq for TokenHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        // Every word is looked at, whatever the ones before it, and one comparison judges all: one a byte, as slices
        // are compared, takes as long as hashing does.
        let (ours, _) = self.0.as_chunks();
        let (theirs, _) = other.0.as_chunks();
        let difference = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
        ours.iter().zip(theirs).map(difference).fold(0, |all, this| all | this).ct_eq(&0)
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
        let mut digits = [0; Self::HEX_DIGITS];
        f.write_str(base16ct::lower::encode_str(&self.0, &mut digits).map_err(|_| fmt::Error)?)
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
        match base16ct::lower::decode(text, &mut bytes) {
            Ok(decoded) if decoded.len() == Self::BYTES => Ok(Self(bytes)),
            _ => Err(TokenHashError),
        }
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HexVisitor;

        impl de::Visitor<'_> for HexVisitor {
            type Value = TokenHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{TokenHashError}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TokenHash, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(HexVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Counts up, so that every token it makes is another one.
    struct Counting(u8);

    impl Entropy for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    #[test]
    fn a_minted_token_has_the_form_that_clients_expect() {
        let mut entropy = Counting(7);
        let mut seen = HashSet::new();
        for _ in 0..4 {
            let secret = Secret::mint(&mut entropy).unwrap();
            let encoded = secret.expose().strip_prefix("apiv3_").unwrap();
            assert_eq!(secret.expose().len(), 92);
            assert!(encoded.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            assert!(encoded.ends_with(['A', 'Q', 'g', 'w']), "{encoded} (COMPAT 1.3)");
            assert!(seen.insert(secret.expose().to_owned()));
        }
    }

    #[test]
    fn all_random_bytes_are_in_the_token() {
        let secret = Secret::mint(&mut Counting(0)).unwrap();
        let expected: Vec<u8> = (0..64).collect();
        assert_eq!(Base64UrlUnpadded::decode_vec(&secret.expose()[6..]).unwrap(), expected);
    }

    #[test]
    fn without_randomness_there_is_no_token() {
        struct Dry;
        impl Entropy for Dry {
            fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
                Err(EntropyError("dry".into()))
            }
        }
        assert_eq!(Secret::mint(&mut Dry).unwrap_err(), EntropyError("dry".into()));
    }

    #[test]
    fn the_hash_is_sha_512_over_the_whole_text() {
        // COMPAT 1.8
        let hash = TokenHash::of(
            "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
        );
        let hex = "f9d9ca5aa9015df867bc2f0c0ff4304502b75c736fc76a979c06eb82a3d0912b\
                   88d266d2bf6b4ec55420f965869630e7f9f6d0db5a66c8225cd603e83723b21b";
        assert_eq!(hash.to_string(), hex);
        assert_eq!(hex.parse(), Ok(hash));
    }

    #[test]
    fn hashes_that_differ_anywhere_are_not_equal() {
        let hash = TokenHash::of("x");
        assert_eq!(hash, TokenHash::of("x"));
        for byte in 0..TokenHash::BYTES {
            let mut other = hash;
            other.0[byte] ^= 1;
            assert_ne!(hash, other, "byte {byte}");
        }
    }

    #[test]
    fn only_128_lower_case_digits_are_a_hash() {
        let good = "0f".repeat(64);
        assert!(good.parse::<TokenHash>().is_ok());
        for bad in
            [String::new(), good.to_uppercase(), good[2..].to_owned(), format!("{good}00"), "zz".repeat(64)]
        {
            assert_eq!(bad.parse::<TokenHash>(), Err(TokenHashError), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        let secret = Secret::mint(&mut Counting(0)).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
