//! What is under way with the operator token beside its current secret.
//!
//! At most one of two things, never both: a secret that waits to take over, or one that was replaced and is accepted a
//! while longer. Either ends by itself at its deadline; the catalog forgets it with the next change of the operator token.

use crate::ports::Timestamp;
use crate::token::TokenHash;

/// How long a staged secret waits to be confirmed, in seconds, unless somebody says otherwise: as long as a person takes
/// who is called away in between.
pub const DEFAULT_STAGE_SECONDS: u64 = 3600;

/// The longest that a staged secret can wait, in seconds: a week.
pub const MAX_STAGE_SECONDS: u64 = 7 * 24 * 3600;

/// The longest that a replaced secret can be accepted, in seconds: thirty days.
pub const MAX_OVERLAP_SECONDS: u64 = 30 * 24 * 3600;

/// What is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rotation {
    /// Nothing.
    #[default]
    None,
    /// A secret waits to take over. It is accepted for that alone.
    Staged(Timed),
    /// The secret before the current one is still accepted.
    Overlap(Timed),
}

impl Rotation {
    /// The hash that it brings beside the current one.
    pub const fn timed(&self) -> Option<&Timed> {
        match self {
            Self::None => None,
            Self::Staged(timed) | Self::Overlap(timed) => Some(timed),
        }
    }

    /// What is left of it at this time.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        if self.timed().is_some_and(|timed| timed.until <= now) { Self::None } else { self }
    }
}

/// A hash and its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// The hash.
    pub hash: TokenHash,
    /// The first moment at which it is as if it never was.
    pub until: Timestamp,
}
