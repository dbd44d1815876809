//! The HTTP faces of the authority: the main listener and the recovery listener.
//!
//! Requests come in through [`listen`], are judged by [`credentials`] and answered by one of the two listeners; whatever
//! goes wrong leaves as a [`problem`]. Paths, texts and order of judgement follow COMPAT sections 2 and 3.

mod body;
mod credentials;
pub(crate) mod disable_authz;
mod issued;
pub(crate) mod listen;
pub(crate) mod main_listener;
mod problem;
pub(crate) mod recovery_listener;
pub(crate) mod tls;

use disable_authz::DisabledAuthz;

/// What the command line says about how requests are judged.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The most bytes that the body of a request may have.
    #[expect(dead_code, reason = "the routers are to take it")]
    pub(crate) max_request_size: usize,
    /// Whether everybody may do everything that needs no particular token. Tokens can then not be made or changed.
    pub(crate) without_auth: bool,
    /// What is shown to everybody.
    pub(crate) disabled_authz: DisabledAuthz,
    /// The name of this server, where it has one.
    pub(crate) node_id: Option<String>,
}

/// Where both listeners regenerate the operator token.
pub(crate) const REGENERATE_PATH: &str = "/api/v3/configure/token/admin/regenerate";

/// Where the main listener makes the first operator token.
pub(crate) const CREATE_PATH: &str = "/api/v3/configure/token/admin";
