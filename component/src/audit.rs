//! The record of every committed change, as a hash chain inside the catalog.
//!
//! Each [`Record`] names the hash of the one before it, so that none can be altered, dropped or moved without breaking
//! every later link. A record is hashed as the JSON text it is stored as; the catalog keeps the newest [`KEPT`].

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512_256};
use thiserror::Error;

use crate::ports::Timestamp;

/// How many records the catalog keeps: enough to see the last days of a busy authority, little enough that a
/// catalog of one token stays below 32 KiB.
pub const KEPT: usize = 64;

/// The longest origin that is kept, in bytes; a longer one is cut (`wit/tokens.wit`).
pub const MAX_ORIGIN_BYTES: usize = 256;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The catalog was made; it has no token yet.
    Initialize,
    /// The operator token was made.
    CreateOperator,
    /// A named admin token was made.
    CreateNamed,
    /// A token that was made elsewhere was taken in.
    Preset,
    /// The operator token was replaced by its holder.
    Regenerate,
    /// The operator token was replaced without a credential.
    Recover,
    /// A named admin token was taken out.
    Delete,
}

/// On whose authority it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Nobody's yet: the first token of a catalog.
    Bootstrap,
    /// That of whoever configured the host.
    Provision,
    /// The recovery door's.
    Recovery,
    /// The holder's of the token with this number.
    Token(u64),
}

/// The token that a change was made to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its number.
    pub id: u64,
    /// Its name, which nothing else remembers after its deletion.
    pub name: String,
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts the changes of a catalog from 1.
    pub sequence: u64,
    /// When the change was judged.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// On whose authority.
    pub actor: Actor,
    /// The token it was done to; nothing where it was done to the catalog.
    pub subject: Option<Subject>,
    /// Where the request came from, as the host told it. At most [`MAX_ORIGIN_BYTES`].
    pub origin: String,
    /// The hash of the record before; nothing in the first.
    pub previous: Option<RecordHash>,
}

impl Record {
    /// The hash that the next record must name: SHA-512/256 over this record's JSON text.
    pub fn hash(&self) -> RecordHash {
        RecordHash(base16ct::lower::encode_string(&Sha512_256::digest(self.to_json().as_bytes())))
    }

    /// The record as one line of JSON, as it is hashed, stored and exported.
    pub fn to_json(&self) -> String {
        // Numbers, strings and unit variants cannot fail to serialise; if they did, the chain would not verify.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The hash of a record, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordHash(String);

/// The newest records of a catalog and the hash of the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trail {
    head: Option<RecordHash>,
    records: Vec<Record>,
}

impl Trail {
    /// The kept records, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds the record of a change, chained to the newest one, and lets the oldest go if there are too many.
    #[must_use]
    pub fn with(
        &self,
        at: Timestamp,
        action: Action,
        actor: Actor,
        subject: Option<Subject>,
        origin: &str,
    ) -> Self {
        let record = Record {
            sequence: self.records.last().map_or(1, |newest| newest.sequence.saturating_add(1)),
            at,
            action,
            actor,
            subject,
            origin: cut(origin, MAX_ORIGIN_BYTES).into(),
            previous: self.head.clone(),
        };
        let surplus = (self.records.len() + 1).saturating_sub(KEPT);
        let head = Some(record.hash());
        let records = self.records.iter().skip(surplus).cloned().chain([record]).collect();
        Self { head, records }
    }

    /// Checks that every kept record names the one before it, and the head the last.
    pub fn verify(&self) -> Result<(), BrokenChain> {
        let mut previous = self.records.first().and_then(|first| first.previous.clone());
        let mut sequence = match &self.records[..] {
            [first, ..] if first.previous.is_some() => first.sequence,
            _ => 1,
        };
        for record in &self.records {
            if record.sequence != sequence || record.previous != previous {
                return Err(BrokenChain { sequence: record.sequence });
            }
            previous = Some(record.hash());
            sequence = sequence.saturating_add(1);
        }
        if previous == self.head { Ok(()) } else { Err(BrokenChain { sequence: sequence.saturating_sub(1) }) }
    }
}

/// A record does not follow from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the audit chain is broken at record {sequence}")]
pub struct BrokenChain {
    /// The first record that does not fit.
    pub sequence: u64,
}

/// The longest beginning of `text` that has at most `bytes` bytes and ends between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(changes: u64) -> Trail {
        (0..changes).fold(Trail::default(), |trail, n| {
            let subject = Subject { id: 0, name: "_admin".into() };
            trail.with(1000 + n, Action::Regenerate, Actor::Token(0), Some(subject), "test")
        })
    }

    #[test]
    fn a_trail_verifies_and_keeps_only_the_newest() {
        let trail = trail(KEPT as u64 + 10);
        assert_eq!(trail.records().len(), KEPT);
        assert_eq!(trail.records()[0].sequence, 11);
        assert_eq!(trail.verify(), Ok(()));
    }

    #[test]
    fn a_changed_dropped_or_moved_record_breaks_the_chain_at_its_place() {
        let break_it = |how: fn(&mut Trail)| {
            let mut trail = trail(5);
            how(&mut trail);
            trail.verify()
        };
        let broken_at = |sequence| Err(BrokenChain { sequence });
        assert_eq!(break_it(|_| ()), Ok(()));
        assert_eq!(break_it(|trail| trail.records[2].origin = "elsewhere".into()), broken_at(4));
        assert_eq!(break_it(|trail| trail.records[4].origin = "elsewhere".into()), broken_at(5));
        assert_eq!(break_it(|trail| drop(trail.records.remove(2))), broken_at(4));
        assert_eq!(
            break_it(|trail| drop(trail.records.remove(0))),
            Ok(()),
            "the oldest may have been let go"
        );
        assert_eq!(break_it(|trail| drop(trail.records.pop())), broken_at(4));
        assert_eq!(break_it(|trail| trail.records.swap(2, 3)), broken_at(4));
        assert_eq!(break_it(|trail| trail.records[0].previous = trail.head.clone()), broken_at(2));
        assert_eq!(break_it(|trail| trail.records[1].previous = None), broken_at(2));
    }

    #[test]
    fn a_long_origin_is_cut_between_characters() {
        let origin = "é".repeat(MAX_ORIGIN_BYTES);
        let trail = Trail::default().with(0, Action::Recover, Actor::Recovery, None, &format!("x{origin}"));
        let kept = &trail.records()[0].origin;
        assert_eq!(kept.len(), MAX_ORIGIN_BYTES - 1);
        assert!(kept.ends_with('é'));
    }

    #[test]
    fn a_record_is_hashed_as_the_text_it_is_stored_as() {
        let trail = trail(1);
        let json = trail.records()[0].to_json();
        assert_eq!(
            json,
            r#"{"sequence":1,"at":1000,"action":"regenerate","actor":{"token":0},"subject":{"id":0,"name":"_admin"},"origin":"test","previous":null}"#
        );
        let digest = Sha512_256::digest(json.as_bytes());
        assert_eq!(trail.records()[0].hash(), RecordHash(base16ct::lower::encode_string(&digest)));
    }
}
