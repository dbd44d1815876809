//! The audit records of committed changes, as a hash chain inside the catalog. Each [`AuditRecord`]
//! contains the hash of the previous one, so a record that is altered, dropped or moved breaks
//! every later link. A record is one line of JSON: the line is hashed, stored and exported, and
//! never parsed here. The two fields of the chain are its first and its last. The catalog retains
//! the newest [`RETAINED_RECORDS`].

use alloc::string::String;
use alloc::vec::Vec;

use optoken_protocol::redact::redact;
#[cfg(test)]
use serde::Deserialize;
use sha2::{Digest as _, Sha512_256};
use thiserror::Error;

use crate::json_line::{LineReader, push_number, push_string};
use crate::permission::Permissions;
use crate::ports::Timestamp;

/// The number of records that the catalog retains: the last days of a busy authority. A catalog of
/// one token stays below 32 KiB with them.
pub const RETAINED_RECORDS: usize = 64;

/// The longest origin of a record, in bytes; a longer one is truncated (`wit/types.wit`).
pub const MAX_ORIGIN_BYTES: usize = 256;

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(rename_all = "snake_case"))]
pub enum Action {
    /// The catalog received its id.
    Initialize,
    /// The operator token was created.
    CreateOperator,
    /// A named admin token was created.
    CreateNamed,
    /// A token was imported. Its name in a record stays `preset`, for the stored chains.
    #[cfg_attr(test, serde(rename = "preset"))]
    Import,
    /// The operator token was replaced, with its own credential.
    Regenerate,
    /// A secret was staged for the operator token.
    Stage,
    /// The staged secret became the operator's.
    Confirm,
    /// The staged secret was cancelled.
    Cancel,
    /// The previous secret was revoked before its deadline.
    EndOverlap,
    /// The operator token was replaced without a credential.
    Recover,
    /// A named admin token was deleted.
    Delete,
    /// An older state of the catalog was restored, with a new operator token.
    Restore,
    /// The operator token was replaced by that of the configuration.
    Replace,
}

impl Action {
    /// Returns its name in a record.
    const fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::CreateOperator => "create_operator",
            Self::CreateNamed => "create_named",
            Self::Import => "preset",
            Self::Regenerate => "regenerate",
            Self::Stage => "stage",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::EndOverlap => "end_overlap",
            Self::Recover => "recover",
            Self::Delete => "delete",
            Self::Restore => "restore",
            Self::Replace => "replace",
        }
    }
}

/// The authority for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(rename_all = "snake_case"))]
pub enum Actor {
    /// None: the first token of a catalog needs no credential.
    Bootstrap,
    /// The configuration of the host.
    Provision,
    /// The recovery interface.
    Recovery,
    /// The credential of the token with this number.
    Token(u64),
}

/// The token that a change affects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize))]
pub struct Subject {
    /// Its number.
    pub id: u64,
    /// Its name. After the deletion of the token only the record has it.
    pub name: String,
    /// Its permissions; `None` if it has all.
    #[cfg_attr(test, serde(default, deserialize_with = "crate::permission::tests::deserialize"))]
    pub permissions: Option<Permissions>,
}

/// One committed change. The fields have the order of the line, whose ends [`AuditChain`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize))]
pub struct AuditRecord {
    /// The number of the change, counted from 1.
    pub sequence: u64,
    /// The time of the decision.
    pub at: Timestamp,
    /// The kind of the change.
    pub action: Action,
    /// The authority for the change.
    pub actor: Actor,
    /// The affected token; `None` for a change of the catalog itself.
    pub subject: Option<Subject>,
    /// The origin of the request, from the host, with tokens redacted. At most
    /// [`MAX_ORIGIN_BYTES`].
    pub origin: String,
    /// The hash of the previous record; `None` in the first.
    pub previous: Option<RecordHash>,
}

impl AuditRecord {
    /// Returns the record as one line of JSON.
    fn to_line(&self) -> String {
        let mut line = String::with_capacity(384);
        line.push_str(BEFORE_SEQUENCE);
        push_number(&mut line, self.sequence);
        line.push_str(BEFORE_TIME);
        push_number(&mut line, self.at);
        line.push_str(",\"action\":");
        push_string(&mut line, self.action.name());
        line.push_str(",\"actor\":");
        match self.actor {
            Actor::Bootstrap => push_string(&mut line, "bootstrap"),
            Actor::Provision => push_string(&mut line, "provision"),
            Actor::Recovery => push_string(&mut line, "recovery"),
            Actor::Token(id) => {
                line.push_str("{\"token\":");
                push_number(&mut line, id);
                line.push('}');
            }
        }
        line.push_str(",\"subject\":");
        match &self.subject {
            Some(Subject { id, name, permissions }) => {
                line.push_str("{\"id\":");
                push_number(&mut line, *id);
                line.push_str(",\"name\":");
                push_string(&mut line, name);
                if let Some(permissions) = permissions {
                    permissions.write(&mut line);
                }
                line.push('}');
            }
            None => line.push_str("null"),
        }
        line.push_str(",\"origin\":");
        push_string(&mut line, &self.origin);
        match &self.previous {
            Some(previous) => {
                line.push_str(BEFORE_PREVIOUS);
                line.push_str(previous.as_str());
                line.push_str(AFTER_PREVIOUS);
            }
            None => line.push_str(FIRST),
        }
        line
    }
}

/// The SHA-512/256 of a record's line, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(transparent))]
pub struct RecordHash(String);

impl RecordHash {
    fn of(line: &str) -> Self {
        let digest: [u8; 32] = Sha512_256::digest(line.as_bytes()).into();
        Self(const_hex::Buffer::<32>::new().format(&digest).into())
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The newest records of a catalog, and the hash of the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditChain {
    head: Option<RecordHash>,
    /// The sequence number of the newest record.
    sequence: u64,
    /// The time of the newest record.
    newest_at: Timestamp,
    lines: Vec<String>,
}

impl AuditChain {
    /// Reads a chain from its lines, oldest first, and the hash of the last one. Every line must be
    /// intact and link to the previous one. The predecessor of the oldest may be missing.
    pub fn read<'a>(head: Option<&str>, lines: impl Iterator<Item = &'a str>) -> Result<Self, BrokenChain> {
        let mut chain = Self::default();
        for line in lines {
            let (sequence, at) = sequence_and_time_of(line).unwrap_or_default();
            let broken = BrokenChain { sequence };
            let follows = match &chain.head {
                Some(previous) => {
                    chain.sequence.checked_add(1) == Some(sequence) && links_to(line, previous.as_str())
                }
                None => (sequence == 1) == line.ends_with(FIRST) && sequence > 0,
            };
            if !follows {
                return Err(broken);
            }
            chain.sequence = sequence;
            chain.newest_at = at;
            chain.head = Some(RecordHash::of(line));
            chain.lines.push(line.into());
        }
        if chain.head().map(RecordHash::as_str) == head {
            Ok(chain)
        } else {
            Err(BrokenChain { sequence: chain.sequence })
        }
    }

    /// The sequence number of the newest record; 0 if there is none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The time of the newest record; 0 if there is none.
    pub fn newest_at(&self) -> Timestamp {
        self.newest_at
    }

    /// The hash of the newest record.
    pub fn head(&self) -> Option<&RecordHash> {
        self.head.as_ref()
    }

    /// The retained records, oldest first, each as its line.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Appends the record of one more change. Drops the oldest record beyond [`RETAINED_RECORDS`].
    pub fn append(
        &mut self,
        at: Timestamp,
        action: Action,
        actor: Actor,
        subject: Option<Subject>,
        origin: &str,
    ) {
        let sequence = self.sequence.saturating_add(1);
        // Redacted before it is truncated: a part of a token does not look like one.
        let origin = truncate(&redact(origin), MAX_ORIGIN_BYTES).into();
        let previous = self.head.take();
        let line = AuditRecord { sequence, at, action, actor, subject, origin, previous }.to_line();
        let surplus = (self.lines.len() + 1).saturating_sub(RETAINED_RECORDS);
        drop(self.lines.drain(..surplus));
        self.head = Some(RecordHash::of(&line));
        self.sequence = sequence;
        self.newest_at = at;
        self.lines.push(line);
    }

    /// The chain with the record of one more change.
    #[cfg(test)]
    pub(crate) fn with(
        &self,
        at: Timestamp,
        action: Action,
        actor: Actor,
        subject: Option<Subject>,
        origin: &str,
    ) -> Self {
        let mut chain = self.clone();
        chain.append(at, action, actor, subject, origin);
        chain
    }

    /// Whether the record with this sequence number has this hash; `None` if the chain retains
    /// neither that record nor the one after it.
    pub fn has(&self, sequence: u64, head: &str) -> Option<bool> {
        let back = usize::try_from(self.sequence.checked_sub(sequence)?).ok()?;
        if back == 0 {
            return Some(self.head().is_some_and(|newest| newest.as_str() == head));
        }
        let after = self.lines.len().checked_sub(back)?;
        self.lines.get(after).map(|line| links_to(line, head))
    }

    /// The retained records, oldest first.
    #[cfg(test)]
    pub(crate) fn records(&self) -> Vec<AuditRecord> {
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The begin of a line, up to its sequence number.
const BEFORE_SEQUENCE: &str = "{\"sequence\":";
const BEFORE_TIME: &str = ",\"at\":";

/// The end of a line, around the hash of the previous record.
const BEFORE_PREVIOUS: &str = ",\"previous\":\"";
const AFTER_PREVIOUS: &str = "\"}";

/// The end of the line of a catalog's first record.
const FIRST: &str = ",\"previous\":null}";

/// Returns whether a line ends with this hash of the previous record. Quotes inside earlier fields
/// are escaped, so no origin can look like that field.
fn links_to(line: &str, previous: &str) -> bool {
    line.strip_suffix(AFTER_PREVIOUS)
        .and_then(|line| line.strip_suffix(previous))
        .is_some_and(|line| line.ends_with(BEFORE_PREVIOUS))
}

/// Returns the sequence number and the time at the begin of a line.
fn sequence_and_time_of(line: &str) -> Option<(u64, Timestamp)> {
    let mut line = LineReader::new(line);
    line.literal(BEFORE_SEQUENCE)?;
    let sequence = line.number()?;
    line.literal(BEFORE_TIME)?;
    Some((sequence, line.number()?))
}

/// A record does not link to the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the audit chain is broken at record {sequence}")]
pub struct BrokenChain {
    /// The sequence number of the first such record.
    pub sequence: u64,
}

/// Returns the longest prefix of `text` of whole characters, in at most `bytes` bytes.
fn truncate(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(changes: u64) -> AuditChain {
        (0..changes).fold(AuditChain::default(), |chain, n| {
            let subject = Subject { id: 0, name: "_admin".into(), permissions: None };
            chain.with(1000 + n, Action::Regenerate, Actor::Token(0), Some(subject), "test")
        })
    }

    fn read(head: Option<&RecordHash>, lines: &[String]) -> Result<AuditChain, BrokenChain> {
        AuditChain::read(head.map(RecordHash::as_str), lines.iter().map(String::as_str))
    }

    #[test]
    fn chain_reads_back_and_retains_the_newest() {
        for changes in [0, 1, 5, RETAINED_RECORDS as u64, RETAINED_RECORDS as u64 + 10] {
            let chain = chain(changes);
            assert_eq!(chain.lines().len() as u64, changes.min(RETAINED_RECORDS as u64));
            let first = chain.records().first().map(|record| record.sequence);
            assert_eq!(first, (changes > 0).then_some(changes.saturating_sub(RETAINED_RECORDS as u64) + 1));
            assert_eq!(read(chain.head(), chain.lines()).as_ref(), Ok(&chain));
        }
    }

    #[test]
    fn chain_knows_which_records_it_continues() {
        let retained = RETAINED_RECORDS as u64;
        let (old, new) = (chain(10), chain(retained + 9));
        let head = |chain: &AuditChain| chain.head().unwrap().as_str().to_owned();
        assert_eq!(old.has(10, &head(&old)), Some(true));
        assert_eq!(old.has(10, &head(&new)), Some(false));
        // Record 9 is the last that no longer is retained, and the next one names its hash.
        for (sequence, result) in [(8, None), (9, Some(true)), (10, Some(true)), (retained + 9, Some(true))] {
            assert_eq!(new.has(sequence, &head(&chain(sequence))), result, "{sequence}");
            let other = chain(sequence).with(7, Action::Recover, Actor::Recovery, None, "fork");
            assert_ne!(new.has(sequence, &head(&other)), Some(true), "{sequence}");
        }
        assert_eq!(old.has(11, &head(&new)), None);
        assert_eq!((old.newest_at(), AuditChain::default().newest_at()), (1009, 0));
        assert_eq!(read(old.head(), old.lines()).unwrap().newest_at(), 1009);
    }

    #[test]
    fn altered_dropped_or_moved_record_breaks_the_chain() {
        let break_it = |how: fn(&mut Vec<String>)| {
            let chain = chain(5);
            let mut lines = chain.lines().to_vec();
            how(&mut lines);
            read(chain.head(), &lines).map(drop)
        };
        let alter = |line: &mut String| *line = line.replace("test", "rest");
        let broken_at = |sequence| Err(BrokenChain { sequence });
        assert_eq!(break_it(|_| ()), Ok(()));
        assert_eq!(break_it(|lines| lines[2] = lines[2].replace("test", "rest")), broken_at(4));
        assert_eq!(break_it(|lines| lines[4] = lines[4].replace("test", "rest")), broken_at(5));
        assert_eq!(break_it(|lines| drop(lines.remove(2))), broken_at(4));
        assert_eq!(break_it(|lines| drop(lines.remove(0))), Ok(()), "the oldest may have been dropped");
        assert_eq!(break_it(|lines| drop(lines.pop())), broken_at(4));
        assert_eq!(break_it(|lines| lines.swap(2, 3)), broken_at(4));
        assert_eq!(break_it(|lines| lines[2] = lines[1].clone()), broken_at(2));
        assert_eq!(break_it(|lines| lines[1] = lines[0].clone()), broken_at(1));
        assert_eq!(break_it(|lines| lines[3].clear()), broken_at(0));
        assert_eq!(
            break_it(|lines| lines[3] = lines[3].replace("\"sequence\":4", "\"sequence\":5")),
            broken_at(5)
        );
        assert_eq!(
            break_it(|lines| lines.iter_mut().for_each(|line| *line = line.replace("test", "rest"))),
            broken_at(2)
        );
        let mut one = chain(1).lines().to_vec();
        alter(&mut one[0]);
        assert_eq!(read(chain(1).head(), &one).map(drop), broken_at(1));
        assert_eq!(read(None, chain(1).lines()).map(drop), broken_at(1));
        assert_eq!(read(chain(1).head(), &[]).map(drop), broken_at(0));
    }

    #[test]
    fn origin_cannot_forge_a_link() {
        let honest = chain(2);
        let head = honest.head().unwrap().as_str();
        let origin = format!("x\",\"previous\":\"{head}\"}}");
        let chain = honest.with(1, Action::Recover, Actor::Recovery, None, &origin);
        assert_eq!(chain.records()[2].origin, origin);
        let forged = chain.lines()[2].replace(&format!(",\"previous\":\"{head}\"}}"), FIRST);
        assert_ne!(forged, chain.lines()[2]);
        let lines = [honest.lines(), &[forged]].concat();
        assert_eq!(read(chain.head(), &lines).map(drop), Err(BrokenChain { sequence: 3 }));
    }

    #[test]
    fn long_origin_is_truncated_between_characters() {
        let origin = "é".repeat(MAX_ORIGIN_BYTES);
        let chain =
            AuditChain::default().with(0, Action::Recover, Actor::Recovery, None, &format!("x{origin}"));
        let kept = &chain.records()[0].origin;
        assert_eq!(kept.len(), MAX_ORIGIN_BYTES - 1);
        assert!(kept.ends_with('é'));
    }

    #[test]
    fn token_in_an_origin_is_redacted() {
        let filler = "x".repeat(MAX_ORIGIN_BYTES);
        for (origin, kept) in [
            ("apiv3_Jk-a_9".into(), "[token]".into()),
            ("http /apiv3%5FJk-a_9".into(), "http /[token]".into()),
            ("http 127.0.0.1:1 \"apiv3_Jk\"".into(), "http 127.0.0.1:1 \"[token]\"".into()),
            (format!("{}apiv3_Jk", &filler[8..]), format!("{}[token]", &filler[8..])),
            (format!("{}apiv3_Jk", &filler[..]), filler.clone()),
        ] {
            let chain = AuditChain::default().with(0, Action::Recover, Actor::Recovery, None, &origin);
            assert_eq!(chain.records()[0].origin, kept);
        }
    }

    #[test]
    fn record_hash_is_that_of_the_stored_line() {
        let chain = chain(1);
        let line = &chain.lines()[0];
        assert_eq!(
            line,
            r#"{"sequence":1,"at":1000,"action":"regenerate","actor":{"token":0},"subject":{"id":0,"name":"_admin"},"origin":"test","previous":null}"#
        );
        let digest: [u8; 32] = Sha512_256::digest(line.as_bytes()).into();
        let digits = digest.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(chain.head().unwrap().as_str(), digits);
    }
}
