//! The audit record of each change, outside the catalog.
//!
//! A record is one line of JSON, made by the component. Each record but the first names the hash of
//! the line before it (`wit/tokens.wit`). Lines are written and hashed unchanged. `log` appends
//! records to a file, on the thread of `writer`, so that a hung disk does not block commands.
//! `verify` checks such a file. Knows nothing of HTTP or options.

use serde::Deserialize;
use sha2::{Digest as _, Sha512_256};

use crate::token::Timestamp;

mod log;
#[cfg(feature = "server")]
pub(crate) mod verify;
mod writer;

pub use log::AuditLogError;
pub(crate) use log::{AuditLog, RetainedRecord};
pub(crate) use writer::AuditWriter;

/// The longest record, in bytes. A name has at most 128 bytes and an origin 256; JSON may write
/// each of them as six. Permissions have at most 3 KiB with their marks, and no character that JSON
/// escapes.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditRecord {
    /// Counts the changes of a catalog, from 1.
    pub(crate) sequence: u64,
    /// When the component decided on the change.
    pub(crate) at: Timestamp,
    /// The action.
    pub(crate) action: String,
    /// The authority that the change was made on.
    pub(crate) actor: Actor,
    /// The changed token; `None` for a change of the catalog itself.
    pub(crate) subject: Option<Subject>,
    /// The origin of the request.
    pub(crate) origin: String,
    /// The hash of the record before; `None` in the first.
    previous: Option<String>,
}

/// The authority that a change was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Actor {
    /// None: the first token of a catalog.
    Bootstrap,
    /// The configuration of the server.
    Provision,
    /// The recovery listener.
    Recovery,
    /// The token with this id.
    Token(u64),
}

/// The changed token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// Its id.
    pub(crate) id: u64,
    /// Its name at that time.
    pub(crate) name: String,
    /// Its permissions, if it does not have all.
    pub(crate) permissions: Option<Vec<String>>,
}

impl AuditRecord {
    /// Parses a line without its newline; `None` if it is not a record.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(line).ok()?;
        let first = record.sequence == 1;
        // `u64::MAX` is excluded, so that each sequence has a successor.
        let numbered = (1..u64::MAX).contains(&record.sequence);
        (numbered && first == record.previous.is_none()).then_some(record)
    }

    /// Whether the record names this hash as the hash of the record before it.
    pub(crate) fn links_to(&self, hash: &str) -> bool {
        self.previous.as_deref() == Some(hash)
    }
}

/// The hash of a line without its newline: SHA-512/256, as 64 lower-case hexadecimal digits.
pub(crate) fn hash(line: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha512_256::digest(line))
}
