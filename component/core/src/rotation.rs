//! The rotation of the operator token: the secret beside its current one.
//!
//! At most one of two exists: a staged secret that waits to be confirmed, or the previous secret
//! during an overlap. Each ends at its deadline; the catalog drops it with the next change of the
//! operator token.

use crate::ports::Timestamp;
use crate::token::TokenHash;

/// How long a staged secret waits to be confirmed by default, in seconds. The value lets an
/// operator leave the rotation for a while and finish it later.
pub const DEFAULT_STAGE_SECONDS: u64 = 3600;

/// The longest wait of a staged secret, in seconds: a week.
pub const MAX_STAGE_SECONDS: u64 = 7 * 24 * 3600;

/// The longest overlap of two secrets, in seconds: thirty days.
pub const MAX_OVERLAP_SECONDS: u64 = 30 * 24 * 3600;

/// The rotation of the operator token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rotation {
    /// The operator token has no second secret.
    #[default]
    Idle,
    /// A secret waits to be confirmed. No other command accepts it.
    Staged(ExpiringHash),
    /// The previous secret is still accepted.
    Overlap(ExpiringHash),
}

impl Rotation {
    /// The second hash, with its deadline.
    pub const fn pending(&self) -> Option<&ExpiringHash> {
        match self {
            Self::Idle => None,
            Self::Staged(pending) | Self::Overlap(pending) => Some(pending),
        }
    }

    /// The rotation as of this time: idle from the deadline on.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        if self.pending().is_some_and(|pending| pending.expires_at <= now) { Self::Idle } else { self }
    }
}

/// A hash and its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiringHash {
    /// The hash.
    pub hash: TokenHash,
    /// The first moment at which the secret is refused.
    pub expires_at: Timestamp,
}
