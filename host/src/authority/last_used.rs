//! When this process last accepted the operator token.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::token::{Principal, Timestamp, TokenKind, now};

/// When this process last accepted the operator token and the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastUsed {
    /// The last use of the current secret; `None` if there was none since the start or since the
    /// secret was created.
    pub current: Option<Timestamp>,
    /// The last use of the previous secret, where it is still accepted.
    pub previous: Option<Timestamp>,
    /// The start of this process, before which nothing is known.
    pub since: Timestamp,
}

/// The counters behind [`LastUsed`], in milliseconds since the epoch; 0 for never.
pub(crate) struct OperatorLastUsed {
    current: AtomicU64,
    previous: AtomicU64,
    /// When the current secret was created, to detect another one.
    created_at: AtomicU64,
    since: Timestamp,
}

impl OperatorLastUsed {
    /// Starts to record now.
    pub(crate) fn new() -> Self {
        Self { current: 0.into(), previous: 0.into(), created_at: 0.into(), since: now() }
    }

    /// Records that this token was accepted.
    pub(crate) fn record_use(&self, principal: Principal) {
        let used = match principal.kind {
            TokenKind::Operator => &self.current,
            TokenKind::PreviousOperator => &self.previous,
            TokenKind::NamedAdmin | TokenKind::Scoped => return,
        };
        used.store(now(), Ordering::Relaxed);
    }

    /// Sets the creation time of the current secret. If that is another secret than before, the
    /// uses of the old one become those of the previous one.
    pub(crate) fn set_created_at(&self, at: Timestamp) {
        if self.created_at.swap(at, Ordering::Relaxed) != at {
            self.previous.store(self.current.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> LastUsed {
        let moment = |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        LastUsed { current: moment(&self.current), previous: moment(&self.previous), since: self.since }
    }
}
