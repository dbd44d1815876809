//! Checks how long a token is accepted after its revocation, and refused after its issue.
//!
//! A node answers from memory, so its answers need not be linearizable. They need to be right
//! within a bound: no acceptance at T of a token whose revocation was acknowledged at R has T > R +
//! bound. A node that has made a change itself knows it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Moment, NEVER};

/// A token.
pub(crate) type Token = u32;

/// A server, or an authority of this process.
pub(crate) type Node = u32;

/// What a client learned of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) token: Token,
    pub(crate) node: Node,
    pub(crate) begin: Moment,
    /// [`NEVER`] without an answer.
    pub(crate) end: Moment,
    pub(crate) kind: EventKind,
}

/// The kind of an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The token was issued.
    Issue,
    /// The revocation was asked for.
    Revocation,
    /// The node accepted it.
    Accepted,
    /// The node refused it.
    Refused,
}

/// An answer that the bound does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoundViolation {
    /// Accepted too long after the acknowledged revocation.
    AcceptedRevoked { event: Event, late: Duration },
    /// Accepted by the very node that had acknowledged the revocation.
    AcceptedByRevoker { event: Event },
    /// Refused too long after the acknowledged issue, and before any revocation.
    RefusedIssued { event: Event, late: Duration },
    /// Refused by the very node that had issued it.
    RefusedByIssuer { event: Event },
}

impl BoundViolation {
    /// The name of the check.
    pub(crate) const fn check(&self) -> &'static str {
        match self {
            Self::AcceptedRevoked { .. } => "accepted beyond the bound",
            Self::AcceptedByRevoker { .. } => "accepted by its revoker",
            Self::RefusedIssued { .. } => "refused beyond the bound",
            Self::RefusedByIssuer { .. } => "refused by its issuer",
        }
    }
}

impl fmt::Display for BoundViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.check())?;
        match self {
            Self::AcceptedRevoked { event, late } => {
                write!(f, "{event:?}, {late:?} after the acknowledged revocation")
            }
            Self::RefusedIssued { event, late } => {
                write!(f, "{event:?}, {late:?} after the acknowledged issue")
            }
            Self::AcceptedByRevoker { event } | Self::RefusedByIssuer { event } => write!(f, "{event:?}"),
        }
    }
}

/// What is known of a token when all events before a moment have ended.
#[derive(Default)]
struct Life {
    issued: Option<(Moment, Node)>,
    /// The first attempt.
    revocation_began: Option<Moment>,
    revoked: Option<Moment>,
    /// The end of the revocation on each node that acknowledged one.
    revoked_by: BTreeMap<Node, Moment>,
}

/// The latest acceptance of a revoked token, after the end of its revocation.
pub(crate) type Latest = Duration;

/// Checks all answers. Returns how late the latest acceptance of a revoked token was.
pub(crate) fn check(events: &[Event], bound: Duration) -> Result<Latest, BoundViolation> {
    let mut lives: BTreeMap<Token, Life> = BTreeMap::new();
    for event in events {
        let life = lives.entry(event.token).or_default();
        match event.kind {
            EventKind::Issue if event.end != NEVER => {
                let first = life.issued.is_none_or(|(issued, _)| event.end < issued);
                life.issued = if first { Some((event.end, event.node)) } else { life.issued };
            }
            EventKind::Revocation => {
                life.revocation_began = life.revocation_began.into_iter().chain([event.begin]).min();
                if event.end != NEVER {
                    life.revoked = life.revoked.into_iter().chain([event.end]).min();
                    let by = life.revoked_by.entry(event.node).or_insert(event.end);
                    *by = event.end.min(*by);
                }
            }
            _ => {}
        }
    }
    let mut latest = Duration::ZERO;
    for event in events {
        let life = &lives[&event.token];
        // An answer was decided at some time between its begin and its end.
        let after = |moment: Option<Moment>| {
            let late = event.begin.checked_sub(moment?)?;
            (late > 0).then_some(Duration::from_nanos(late))
        };
        match event.kind {
            EventKind::Accepted => {
                if after(life.revoked_by.get(&event.node).copied()).is_some() {
                    return Err(BoundViolation::AcceptedByRevoker { event: *event });
                }
                if let Some(late) = after(life.revoked) {
                    if late > bound {
                        return Err(BoundViolation::AcceptedRevoked { event: *event, late });
                    }
                    latest = latest.max(late);
                }
            }
            EventKind::Refused if life.revocation_began.is_none_or(|began| event.end < began) => {
                let Some((issued, by)) = life.issued else { continue };
                match after(Some(issued)) {
                    Some(_) if by == event.node => {
                        return Err(BoundViolation::RefusedByIssuer { event: *event });
                    }
                    Some(late) if late > bound => {
                        return Err(BoundViolation::RefusedIssued { event: *event, late });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(latest)
}
