//! The secret text of a token.
//!
//! A [`Secret`] is wiped on drop and its `Debug` output omits it; the catalog stores a
//! [`TokenHash`] only. Knows nothing of the owner of a token or its permissions.

use alloc::string::String;
use core::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
pub use optoken_hot_path::{TokenHash, TokenHashError};
use optoken_protocol::token::PREFIX;
use zeroize::Zeroizing;

use crate::ports::{Entropy, EntropyError};

/// The random bytes of a minted token (docs/compatibility.md 1.1): 512 bits.
pub const SECRET_BYTES: usize = 64;

/// The length of a minted token, in characters: the prefix and 64 bytes in unpadded base64
/// (docs/compatibility.md 1.3).
pub const MINTED_LENGTH: usize = PREFIX.len() + (SECRET_BYTES * 8).div_ceil(6);

/// The text of a token: wiped on drop, absent from `Debug`.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Makes a new token from random bytes.
    pub fn mint(entropy: &mut impl Entropy) -> Result<Self, EntropyError> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        entropy.fill(bytes.as_mut_slice())?;
        // The whole capacity at once: a string that grows leaves unwiped copies.
        let mut text = Zeroizing::new(String::with_capacity(MINTED_LENGTH));
        text.push_str(PREFIX);
        let encoded = Zeroizing::new(Base64UrlUnpadded::encode_string(bytes.as_slice()));
        text.push_str(&encoded);
        Ok(Self(text))
    }

    /// The token text, for the one response that contains it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash that the catalog stores.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Counts up, so that every token differs.
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
    fn minted_token_has_documented_form() {
        let mut entropy = Counting(7);
        let mut seen = HashSet::new();
        for _ in 0..4 {
            let secret = Secret::mint(&mut entropy).unwrap();
            let encoded = secret.expose().strip_prefix("apiv3_").unwrap();
            assert_eq!(secret.expose().len(), 92);
            assert!(encoded.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            assert!(encoded.ends_with(['A', 'Q', 'g', 'w']), "{encoded} (docs/compatibility.md 1.3)");
            assert!(seen.insert(secret.expose().to_owned()));
        }
    }

    #[test]
    fn minted_token_contains_all_random_bytes() {
        let secret = Secret::mint(&mut Counting(0)).unwrap();
        let expected: Vec<u8> = (0..64).collect();
        assert_eq!(Base64UrlUnpadded::decode_vec(&secret.expose()[6..]).unwrap(), expected);
    }

    #[test]
    fn mint_without_entropy_fails() {
        struct Dry;
        impl Entropy for Dry {
            fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
                Err(EntropyError("dry".into()))
            }
        }
        assert_eq!(Secret::mint(&mut Dry).unwrap_err(), EntropyError("dry".into()));
    }

    #[test]
    fn secret_debug_output_omits_text() {
        let secret = Secret::mint(&mut Counting(0)).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
