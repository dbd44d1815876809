//! The record of every change, outside the catalog: what a record says, the file that `log` appends them to, and the
//! `verify`ing of such a file. The `writer` appends, so that nobody has to wait for a disk that hangs.
//!
//! A record is one line of JSON, made by the component; each but the first names the hash of the line before it
//! (`wit/tokens.wit`). Lines are written and hashed as they are. Knows nothing of HTTP or options.

use serde::Deserialize;
use sha2::{Digest as _, Sha512_256};

use crate::token::Timestamp;

mod log;
#[cfg(feature = "server")]
pub(crate) mod verify;
mod writer;

pub use log::AuditLogError;
pub(crate) use log::{AuditLog, Kept};
pub(crate) use writer::Recorder;

/// No record is longer, in bytes: a name has at most 128 and an origin at most 256, each of which JSON may write as six.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Counts the changes of a catalog from 1.
    pub(crate) sequence: u64,
    /// When the change was judged.
    pub(crate) at: Timestamp,
    /// What was done.
    pub(crate) action: String,
    /// On whose authority.
    pub(crate) actor: Actor,
    /// The token it was done to; nothing where it was done to the catalog.
    pub(crate) subject: Option<Subject>,
    /// Where the request came from.
    pub(crate) origin: String,
    /// The hash of the record before; nothing in the first.
    previous: Option<String>,
}

/// On whose authority something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Actor {
    /// Nobody's yet: the first token of a catalog.
    Bootstrap,
    /// That of whoever configured the server.
    Provision,
    /// The recovery listener's.
    Recovery,
    /// The holder's of the token with this number.
    Token(u64),
}

/// The token that a change was made to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// Its number.
    pub(crate) id: u64,
    /// Its name at that time.
    pub(crate) name: String,
}

impl Record {
    /// What a line, without its end, says; nothing if it is no record.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(line).ok()?;
        let first = record.sequence == 1;
        // Neither the last number, so that each has a next.
        let numbered = (1..u64::MAX).contains(&record.sequence);
        (numbered && first == record.previous.is_none()).then_some(record)
    }

    /// Whether it names this hash as that of the record before it.
    fn follows(&self, hash: &str) -> bool {
        self.previous.as_deref() == Some(hash)
    }
}

/// The hash of a line without its end: SHA-512/256, as 64 lower-case hexadecimal digits.
fn hash(line: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha512_256::digest(line))
}
