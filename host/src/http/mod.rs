//! The HTTP faces of the authority: the main listener and the recovery listener.
//!
//! Requests come in through [`listen`], are judged by [`credentials`] and answered by one of the two listeners; whatever
//! goes wrong leaves as a [`problem`]. Paths, texts and order of judgement follow COMPAT sections 2 and 3.

mod body;
mod credentials;
mod issued;
pub(crate) mod listen;
pub(crate) mod main_listener;
mod problem;
pub(crate) mod recovery_listener;

/// Where both listeners regenerate the operator token.
pub(crate) const REGENERATE_PATH: &str = "/api/v3/configure/token/admin/regenerate";

/// Where the main listener makes the first operator token.
pub(crate) const CREATE_PATH: &str = "/api/v3/configure/token/admin";

/// Where the main listener makes named admin tokens.
pub(crate) const NAMED_ADMIN_PATH: &str = "/api/v3/configure/token/named_admin";

/// Where the main listener deletes tokens.
pub(crate) const TOKENS_PATH: &str = "/api/v3/configure/token";

/// Where the main listener answers the one query that lists tokens.
pub(crate) const QUERY_SQL_PATH: &str = "/api/v3/query_sql";
