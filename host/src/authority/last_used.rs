//! When this process last accepted the operator token.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::token::{Principal, Timestamp, TokenKind};

/// A clock that is read with every request. It is a few milliseconds behind, and cheaper than the
/// exact one. Other systems than Linux have the exact one alone.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::RealtimeCoarse;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Realtime;

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
        Self { current: 0.into(), previous: 0.into(), created_at: 0.into(), since: coarse_now() }
    }

    /// Records that this token was accepted.
    pub(crate) fn record_use(&self, principal: Principal) {
        let used = match principal.kind {
            TokenKind::Operator => &self.current,
            TokenKind::PreviousOperator => &self.previous,
            TokenKind::NamedAdmin | TokenKind::Scoped => return,
        };
        let now = coarse_now();
        // Most requests come within one tick. They leave the line of the cache to all processors.
        if used.load(Ordering::Relaxed) != now {
            used.store(now, Ordering::Relaxed);
        }
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

/// The current time; 0 if the clock is before 1970.
fn coarse_now() -> Timestamp {
    let now = clock_gettime(CLOCK);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1000).saturating_add(nanos.unwrap_or_default() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::now;

    #[test]
    fn use_is_recorded_by_the_clock_of_the_machine() {
        let used = OperatorLastUsed::new();
        assert_eq!((used.get().current, used.get().previous), (None, None));
        used.set_created_at(1);
        let before = now();
        used.record_use(Principal { id: 0, kind: TokenKind::Operator });
        used.record_use(Principal { id: 1, kind: TokenKind::NamedAdmin });
        let at = used.get().current.unwrap();
        // A tick of the coarse clock is 10 ms at most, and late on a machine that is stopped.
        assert!((before - 200..=now()).contains(&at), "{at} is not near {before}");
        assert!(used.get().since <= at);
        assert_eq!(used.get().previous, None);
        // The secret is replaced.
        used.set_created_at(2);
        assert_eq!((used.get().current, used.get().previous), (None, Some(at)));
    }
}
