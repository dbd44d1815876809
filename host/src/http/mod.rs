//! The HTTP faces of the authority: the main listener and the recovery listener.
//!
//! Requests come in through [`server`](crate::server), are judged by [`credentials`] and answered by one of the two listeners; whatever
//! goes wrong leaves as a [`problem`]. Paths, texts and order of judgement follow COMPAT sections 2 and 3. What the main
//! listener serves stands in one table, [`api`].

mod access;
mod api;
mod body;
pub(crate) mod bootstrap;
mod credentials;
pub(crate) mod disable_authz;
pub(crate) mod main_listener;
mod problem;
pub(crate) mod recovery;
mod request_origin;
mod response;

use crate::http::bootstrap::Bootstrap;
use crate::http::disable_authz::DisabledAuthz;

/// What the command line says about how requests are judged.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The most bytes that the body of a request may have.
    pub(crate) max_request_size: usize,
    /// Whether everybody may do everything that needs no particular token. Tokens can then not be made or changed.
    pub(crate) without_auth: bool,
    /// What is shown to everybody.
    pub(crate) disabled_authz: DisabledAuthz,
    /// Who may create the operator token.
    pub(crate) bootstrap: Bootstrap,
}

/// What the metrics call a path that does not exist.
const OTHER_PATH: &str = "other";
