//! What the stores of several nodes share: a runtime for their asynchronous clients, a deadline for
//! each call, and the random part of each stored form.

#[cfg(any(feature = "etcd", feature = "object-store"))]
pub(crate) mod http_date;
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub(crate) mod password;
pub mod probe;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "each adapter uses a part"))]
mod runtime;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "each adapter uses a part"))]
mod scratch;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "each adapter uses a part"))]
mod tls;

use std::fmt;

use thiserror::Error;

#[allow(unused_imports, reason = "each adapter uses a part")]
pub(crate) use self::runtime::{CALL_TIMEOUT, CallRuntime, NewsTask, TimedOut, WRITE_TIMEOUT};
#[allow(unused_imports, reason = "each adapter uses a part")]
pub(crate) use self::scratch::{Removable, Scratch};
#[allow(unused_imports, reason = "each adapter uses a part")]
pub(crate) use self::tls::{Identity, client_config};
use crate::store::{Store, StoreError};

/// The bytes of the random part of a stored form.
const NONCE_BYTES: usize = 16;

/// A store that several nodes share over a network.
///
/// Opening one makes no call. [`inspect`](Self::inspect) and a race on a [`scratch`](Self::scratch)
/// show whether its engine keeps the promises of the port.
pub trait RemoteStore: Store {
    /// The address without secrets, for logs and errors.
    fn address(&self) -> &str;

    /// Checks what an engine states about itself, such as settings. Each finding is a row for the
    /// operator.
    fn inspect(&self) -> Result<Vec<Finding>, StoreError>;

    /// An empty store of the same engine, at a place that nothing else uses.
    fn scratch(&self) -> Result<Box<dyn ScratchStore>, StoreError>;
}

/// A store for trials.
pub trait ScratchStore: Store {
    /// Removes all that the trial has left.
    fn remove(&self) -> Result<(), StoreError>;
}

/// What an engine states about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked, in a few words.
    pub check: String,
    /// What was found.
    pub found: String,
    /// Whether the store can be used with it.
    pub usable: Usable,
}

/// Whether a store can be used in spite of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// It can.
    Yes,
    /// It can, with a limit that the operator should know.
    WithLimit,
    /// It cannot: the engine breaks a promise of the port.
    No,
}

/// A store cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL has a wrong part.
    #[error("{url}: {reason}")]
    Url {
        /// The URL without secrets.
        url: String,
        /// The part, and what it must be.
        reason: String,
    },
    /// A file of certificates or keys, or the environment, cannot be used.
    #[error("{address}: {reason}")]
    Setup {
        /// The address without secrets.
        address: String,
        /// What cannot be used, and why.
        reason: String,
    },
}

/// The random part of a stored form: 128 bits, as 32 lower-case hexadecimal digits. So two states
/// never share a version, also where the same document is stored again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nonce(String);

#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "each adapter uses a part"))]
impl Nonce {
    pub(crate) fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; NONCE_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
        Ok(Self(base16ct::lower::encode_string(&bytes)))
    }

    /// Returns the text, if it is a nonce.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 2 * NONCE_BYTES && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_and_are_read_back() {
        let (one, two) = (Nonce::random().unwrap(), Nonce::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(Nonce::parse(one.as_str()), Some(one));
        for text in ["", "0123456789abcdef0123456789abcde", "0123456789ABCDEF0123456789ABCDEF"] {
            assert_eq!(Nonce::parse(text), None, "{text}");
        }
    }
}
