//! The HTTP faces of the authority: the main listener and the recovery listener.
//!
//! [`server`](crate::server) delivers a request to one of the two. The main listener authenticates
//! it by [`credentials`] and dispatches it to the endpoints of [`api`]. Errors become responses in
//! [`problem`]. Paths, texts and the order of checks are those of docs/compatibility.md 2 and 3.

mod access;
mod api;
mod body;
pub(crate) mod bootstrap;
mod credentials;
pub(crate) mod disable_authz;
pub(crate) mod guarded_request;
pub(crate) mod influxdb3;
pub(crate) mod main_listener;
mod problem;
pub(crate) mod proxy;
mod query_error;
pub(crate) mod recovery;
mod refusal;
mod request_origin;
mod response;
mod sql_statement;

use crate::http::bootstrap::Bootstrap;
use crate::http::disable_authz::DisabledAuthz;
use crate::http::guarded_request::VerifyRequest;

/// The options of the main listener.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many bytes the body of a request may have.
    pub(crate) max_request_size: usize,
    /// Whether requests need no token. Tokens can then be neither created nor changed.
    pub(crate) without_auth: bool,
    /// The paths that need no token.
    pub(crate) disabled_authz: DisabledAuthz,
    /// Which requests may create the operator token.
    pub(crate) bootstrap: Bootstrap,
    /// Where a proxy states the request that it asks about.
    pub(crate) verify_request: VerifyRequest,
}

/// The label of an unknown path in the metrics.
const OTHER_PATH: &str = "other";
