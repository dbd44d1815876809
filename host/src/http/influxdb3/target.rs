//! What a request acts on, with the names that it has itself.

use optoken_protocol::database_name::is_database_name;

use crate::access::{DatabaseAction, Target};

/// The names of the default retention policy. Which database `D/autogen` is depends on the endpoint
/// and on the version of the server.
const DEFAULT_POLICIES: [&str; 2] = ["autogen", "default"];

/// The service that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// InfluxDB 3 Core: each request is a row of its API, or administration.
    InfluxDb3,
    /// Any other service: permissions name methods, hosts and paths.
    Http,
    /// A service that is not known. A request that looks like a row of InfluxDB 3 counts as one, so
    /// that no permission for a path reaches a database.
    Unspecified,
}

/// A [`Target`] that owns its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedTarget {
    /// A resource that method, host and path identify.
    Http,
    /// A database.
    Database {
        /// Its name.
        name: String,
        /// What is done to it.
        action: DatabaseAction,
    },
    /// Information about the server.
    System(&'static str),
    /// What only a token with all permissions may do, with the reason for the log.
    Administration(&'static str),
}

/// Why no permission covers a request. It names no part of the request.
pub(super) type Refusal = &'static str;

impl OwnedTarget {
    /// Returns why a token with permissions is refused, for the log.
    pub(crate) const fn refusal(&self) -> &'static str {
        match self {
            Self::Http | Self::Database { .. } | Self::System(_) => "no permission covers the request",
            Self::Administration(reason) => reason,
        }
    }

    /// Returns the target as the authority expects it.
    pub(crate) fn as_target(&self) -> Target<'_> {
        match self {
            Self::Http => Target::Http,
            Self::Database { name, action } => Target::Database { name, action: *action },
            Self::System(name) => Target::System(name),
            Self::Administration(_) => Target::Administration,
        }
    }
}

/// Returns the target of an action on a database that a request names.
pub(super) fn database(name: &str, action: DatabaseAction) -> Result<OwnedTarget, Refusal> {
    if !is_database_name(name) {
        return Err("the database has a name that no database of a client has");
    }
    let policy = name.split_once('/').map(|(_, policy)| policy);
    if policy.is_some_and(|policy| DEFAULT_POLICIES.iter().any(|name| name.eq_ignore_ascii_case(policy))) {
        return Err("the database is named with a default retention policy");
    }
    Ok(OwnedTarget::Database { name: name.to_owned(), action })
}
