//! What a request does, as [`Authority::authorize`](crate::authority::Authority::authorize) checks it
//! against the permissions of a token: the types of `access` in `wit/authenticator.wit`.

use thiserror::Error;

use crate::token::AuthenticateError;

/// A request, and what it acts on.
///
/// Path and host are in normal form: a token with permissions is refused any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// The method, in its case.
    pub method: &'a str,
    /// The host without its port, in lower case; empty if it is not known.
    pub host: &'a str,
    /// The path, without the query string.
    pub path: &'a str,
    /// The query string, without the `?`. No permission depends on it yet.
    pub query: Option<&'a str>,
    /// What the request acts on.
    pub target: Target<'a>,
}

/// What a request acts on, which selects the kind of permission that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A resource of any service, which method, host and path identify: a permission `http`.
    Http,
    /// A database of InfluxDB 3: a permission `db`.
    Database {
        /// The name of the database.
        name: &'a str,
        /// What is done to it.
        action: DatabaseAction,
    },
    /// Information about the server, such as `health`: a permission `system`.
    System(&'a str),
    /// Something that no permission covers, or that cannot be read with certainty. Only a token
    /// with all permissions may do it.
    Administration,
}

/// What a request does to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseAction {
    /// Query it.
    Read,
    /// Write points to it.
    Write,
    /// Create it.
    Create,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthorizeError {
    /// The token is not accepted.
    #[error(transparent)]
    Authentication(#[from] AuthenticateError),
    /// The token is accepted, and lacks the permission.
    #[error("the token lacks the permission for this request")]
    Forbidden,
}
