//! The commands of an authority, as data: what a client or the host requests of a catalog. Knows
//! hashes only: randomness is drawn and texts are hashed before a [`Command`] exists.

use crate::permission::Permissions;
use crate::ports::Timestamp;
use crate::token::TokenHash;

/// A change that a client or the host requests. Hashes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Give the catalog an identifier, if it has none.
    Initialize {
        /// The identifier.
        id: &'a str,
    },
    /// Create the operator token.
    CreateOperator {
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Create a named token.
    CreateNamed {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The name of the token.
        name: &'a str,
        /// How long it is accepted, in seconds; `None` without limit. 0 creates an expired token.
        lifetime_seconds: Option<u64>,
        /// What it may do; `None` for everything.
        permissions: Option<&'a Permissions>,
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Import a token, unless a token of its name exists.
    Import {
        /// The name of the token.
        name: &'a str,
        /// The first moment at which it is refused; `None` for never.
        expiry: Option<Timestamp>,
        /// What it may do; `None` for everything.
        permissions: Option<&'a Permissions>,
        /// What it is for.
        description: Option<&'a str>,
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Replace the secret of the operator token, presenting it.
    Regenerate {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The hash of the new secret.
        new: TokenHash,
        /// How long the presented token is still accepted, in seconds.
        overlap_seconds: u64,
    },
    /// Stage a secret that waits to replace the secret of the operator token, presenting that.
    Stage {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The hash of the staged secret.
        new: TokenHash,
        /// How long it waits, in seconds.
        ttl_seconds: u64,
    },
    /// Make the staged secret the secret of the operator token, presenting it.
    Confirm {
        /// The hash of the staged secret.
        credential: TokenHash,
        /// How long the previous secret is still accepted, in seconds.
        overlap_seconds: u64,
    },
    /// Remove the staged secret, presenting the operator token.
    Cancel {
        /// The hash of the presented token.
        credential: TokenHash,
    },
    /// End the overlap, presenting the operator token.
    EndOverlap {
        /// The hash of the presented token.
        credential: TokenHash,
    },
    /// Replace the secret of the operator token by that of the configuration, if the current one is
    /// its earlier.
    Replace {
        /// The hash of the earlier secret of the configuration.
        current: TokenHash,
        /// The hash of its new secret.
        new: TokenHash,
        /// How long the earlier secret is still accepted, in seconds.
        overlap_seconds: u64,
    },
    /// Replace the secret of the operator token, presenting nothing.
    Recover {
        /// The hash of the new secret.
        new: TokenHash,
    },
    /// Delete a named token.
    Delete {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The name of the token.
        name: &'a str,
    },
    /// Replace the secret of the operator token of an older catalog, before that catalog is put
    /// back.
    Restore {
        /// The hash of the new secret.
        new: TokenHash,
    },
}
