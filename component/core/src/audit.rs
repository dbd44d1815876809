//! The record of every committed change, as a hash chain inside the catalog.
//!
//! Each [`Record`] names the hash of the one before it, so that none can be altered, dropped or moved without breaking
//! every later link. A record is one line of JSON and never read again here: the line is what is hashed, stored and
//! exported, and the two fields that make the chain stand first and last in it. The catalog keeps the newest [`KEPT`].

use alloc::string::String;
use alloc::vec::Vec;

use optoken_protocol::redact::redact;
#[cfg(test)]
use serde::Deserialize;
use sha2::{Digest as _, Sha512_256};
use thiserror::Error;

use crate::json_line::{push_number, push_string};
use crate::ports::Timestamp;

/// How many records the catalog keeps: enough to see the last days of a busy authority, little enough that a
/// catalog of one token stays below 32 KiB.
pub const KEPT: usize = 64;

/// The longest origin that is kept, in bytes; a longer one is cut (`wit/tokens.wit`).
pub const MAX_ORIGIN_BYTES: usize = 256;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(rename_all = "snake_case"))]
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
    /// A secret was staged to replace it.
    Stage,
    /// The staged secret took over.
    Confirm,
    /// The staged secret was given up.
    Cancel,
    /// The replaced secret is accepted no longer.
    EndOverlap,
    /// The operator token was replaced without a credential.
    Recover,
    /// A named admin token was taken out.
    Delete,
}

impl Action {
    /// Its name in a record.
    const fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::CreateOperator => "create_operator",
            Self::CreateNamed => "create_named",
            Self::Preset => "preset",
            Self::Regenerate => "regenerate",
            Self::Stage => "stage",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::EndOverlap => "end_overlap",
            Self::Recover => "recover",
            Self::Delete => "delete",
        }
    }
}

/// On whose authority it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(rename_all = "snake_case"))]
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
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize))]
pub struct Subject {
    /// Its number.
    pub id: u64,
    /// Its name, which nothing else remembers after its deletion.
    pub name: String,
}

/// One committed change. The order of the fields is that of the line, of which [`Trail`] knows the ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize))]
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
    /// Where the request came from, as the host told it, without tokens. At most [`MAX_ORIGIN_BYTES`].
    pub origin: String,
    /// The hash of the record before; nothing in the first.
    pub previous: Option<RecordHash>,
}

impl Record {
    /// The record as one line of JSON.
    fn to_line(&self) -> String {
        let mut line = String::with_capacity(384);
        line.push_str(BEFORE_SEQUENCE);
        push_number(&mut line, self.sequence);
        line.push_str(",\"at\":");
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
            Some(Subject { id, name }) => {
                line.push_str("{\"id\":");
                push_number(&mut line, *id);
                line.push_str(",\"name\":");
                push_string(&mut line, name);
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

/// The hash of a record's line, SHA-512/256, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Deserialize), serde(transparent))]
pub struct RecordHash(String);

impl RecordHash {
    fn of(line: &str) -> Self {
        let digest: [u8; 32] = Sha512_256::digest(line.as_bytes()).into();
        Self(const_hex::Buffer::<32>::new().format(&digest).into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The newest records of a catalog and the hash of the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    head: Option<RecordHash>,
    /// The number of the newest record.
    sequence: u64,
    lines: Vec<String>,
}

impl Trail {
    /// Puts a trail together again from its lines, oldest first, and the hash of the last of them. Each must be whole
    /// and follow from the one before it; what the oldest follows from may be gone.
    pub fn read<'a>(head: Option<&str>, lines: impl Iterator<Item = &'a str>) -> Result<Self, BrokenChain> {
        let mut trail = Self::default();
        for line in lines {
            let sequence = sequence_of(line).unwrap_or_default();
            let broken = BrokenChain { sequence };
            let follows = match &trail.head {
                Some(previous) => {
                    trail.sequence.checked_add(1) == Some(sequence) && names(line, previous.as_str())
                }
                None => (sequence == 1) == line.ends_with(FIRST) && sequence > 0,
            };
            if !follows {
                return Err(broken);
            }
            trail.sequence = sequence;
            trail.head = Some(RecordHash::of(line));
            trail.lines.push(line.into());
        }
        if trail.head().map(RecordHash::as_str) == head {
            Ok(trail)
        } else {
            Err(BrokenChain { sequence: trail.sequence })
        }
    }

    /// The sequence number of the newest record; 0 if there is none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The hash of the newest record.
    pub fn head(&self) -> Option<&RecordHash> {
        self.head.as_ref()
    }

    /// The kept records, oldest first, each as its line.
    pub fn lines(&self) -> &[String] {
        &self.lines
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
        let sequence = self.sequence.saturating_add(1);
        // Before it is cut: what is left of a token would be no token any more.
        let origin = cut(&redact(origin), MAX_ORIGIN_BYTES).into();
        let record = Record { sequence, at, action, actor, subject, origin, previous: self.head.clone() };
        let line = record.to_line();
        let surplus = (self.lines.len() + 1).saturating_sub(KEPT);
        let head = Some(RecordHash::of(&line));
        Self { head, sequence, lines: self.lines.iter().skip(surplus).cloned().chain([line]).collect() }
    }

    /// The kept records, oldest first.
    #[cfg(test)]
    pub(crate) fn records(&self) -> Vec<Record> {
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// How the line of a record begins, up to its number.
const BEFORE_SEQUENCE: &str = "{\"sequence\":";

/// How it ends, around the hash of the one before it.
const BEFORE_PREVIOUS: &str = ",\"previous\":\"";
const AFTER_PREVIOUS: &str = "\"}";

/// How the line of a catalog's first record ends.
const FIRST: &str = ",\"previous\":null}";

/// Whether a line ends with this hash of the one before it. A quote inside an earlier field is escaped, so no origin can
/// look like that field.
fn names(line: &str, previous: &str) -> bool {
    line.strip_suffix(AFTER_PREVIOUS)
        .and_then(|line| line.strip_suffix(previous))
        .is_some_and(|line| line.ends_with(BEFORE_PREVIOUS))
}

/// The number that a line begins with.
fn sequence_of(line: &str) -> Option<u64> {
    line.strip_prefix(BEFORE_SEQUENCE)?.split_once(',')?.0.parse().ok()
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

    fn read(head: Option<&RecordHash>, lines: &[String]) -> Result<Trail, BrokenChain> {
        Trail::read(head.map(RecordHash::as_str), lines.iter().map(String::as_str))
    }

    #[test]
    fn a_trail_is_read_as_it_was_and_keeps_only_the_newest() {
        for changes in [0, 1, 5, KEPT as u64, KEPT as u64 + 10] {
            let trail = trail(changes);
            assert_eq!(trail.lines().len() as u64, changes.min(KEPT as u64));
            let first = trail.records().first().map(|record| record.sequence);
            assert_eq!(first, (changes > 0).then_some(changes.saturating_sub(KEPT as u64) + 1));
            assert_eq!(read(trail.head(), trail.lines()).as_ref(), Ok(&trail));
        }
    }

    #[test]
    fn a_changed_dropped_or_moved_record_breaks_the_chain_at_its_place() {
        let break_it = |how: fn(&mut Vec<String>)| {
            let trail = trail(5);
            let mut lines = trail.lines().to_vec();
            how(&mut lines);
            read(trail.head(), &lines).map(drop)
        };
        let alter = |line: &mut String| *line = line.replace("test", "rest");
        let broken_at = |sequence| Err(BrokenChain { sequence });
        assert_eq!(break_it(|_| ()), Ok(()));
        assert_eq!(break_it(|lines| lines[2] = lines[2].replace("test", "rest")), broken_at(4));
        assert_eq!(break_it(|lines| lines[4] = lines[4].replace("test", "rest")), broken_at(5));
        assert_eq!(break_it(|lines| drop(lines.remove(2))), broken_at(4));
        assert_eq!(break_it(|lines| drop(lines.remove(0))), Ok(()), "the oldest may have been let go");
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
        let mut one = trail(1).lines().to_vec();
        alter(&mut one[0]);
        assert_eq!(read(trail(1).head(), &one).map(drop), broken_at(1));
        assert_eq!(read(None, trail(1).lines()).map(drop), broken_at(1));
        assert_eq!(read(trail(1).head(), &[]).map(drop), broken_at(0));
    }

    #[test]
    fn an_origin_cannot_pretend_to_be_a_link() {
        let honest = trail(2);
        let head = honest.head().unwrap().as_str();
        let origin = format!("x\",\"previous\":\"{head}\"}}");
        let trail = honest.with(1, Action::Recover, Actor::Recovery, None, &origin);
        assert_eq!(trail.records()[2].origin, origin);
        let forged = trail.lines()[2].replace(&format!(",\"previous\":\"{head}\"}}"), FIRST);
        assert_ne!(forged, trail.lines()[2]);
        let lines = [honest.lines(), &[forged]].concat();
        assert_eq!(read(trail.head(), &lines).map(drop), Err(BrokenChain { sequence: 3 }));
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
    fn a_token_in_an_origin_is_not_written_down() {
        let filler = "x".repeat(MAX_ORIGIN_BYTES);
        for (origin, kept) in [
            ("apiv3_Jk-a_9".into(), "[token]".into()),
            ("http /apiv3%5FJk-a_9".into(), "http /[token]".into()),
            ("http 127.0.0.1:1 \"apiv3_Jk\"".into(), "http 127.0.0.1:1 \"[token]\"".into()),
            (format!("{}apiv3_Jk", &filler[8..]), format!("{}[token]", &filler[8..])),
            (format!("{}apiv3_Jk", &filler[..]), filler.clone()),
        ] {
            let trail = Trail::default().with(0, Action::Recover, Actor::Recovery, None, &origin);
            assert_eq!(trail.records()[0].origin, kept);
        }
    }

    #[test]
    fn a_record_is_hashed_as_the_text_it_is_stored_as() {
        let trail = trail(1);
        let line = &trail.lines()[0];
        assert_eq!(
            line,
            r#"{"sequence":1,"at":1000,"action":"regenerate","actor":{"token":0},"subject":{"id":0,"name":"_admin"},"origin":"test","previous":null}"#
        );
        let digest: [u8; 32] = Sha512_256::digest(line.as_bytes()).into();
        let digits = digest.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(trail.head().unwrap().as_str(), digits);
    }
}
