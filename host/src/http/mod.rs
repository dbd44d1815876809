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

/// Where both listeners regenerate the operator token.
pub(crate) const REGENERATE_PATH: &str = "/api/v3/configure/token/admin/regenerate";

/// Where the code is presented that token recovery may ask for.
pub(crate) const RECOVERY_CODE_HEADER: &str = "x-recovery-code";

/// Where the main listener makes the first operator token.
pub(crate) const CREATE_PATH: &str = "/api/v3/configure/token/admin";

/// Where the main listener lets a secret wait to become the operator token's, and gives it up.
pub(crate) const STAGE_PATH: &str = "/api/v3/configure/token/admin/regenerate/stage";

/// Where it lets that secret take over.
pub(crate) const CONFIRM_PATH: &str = "/api/v3/configure/token/admin/regenerate/confirm";

/// Where it stops accepting the secret that was replaced.
pub(crate) const OVERLAP_PATH: &str = "/api/v3/configure/token/admin/regenerate/overlap";

/// Where the main listener makes named admin tokens.
pub(crate) const NAMED_PATH: &str = "/api/v3/configure/token/named_admin";

/// Where the main listener lists and deletes tokens. All paths about tokens begin with it.
pub(crate) const TOKENS_PATH: &str = "/api/v3/configure/token";

/// Where the main listener shows the newest audit records.
pub(crate) const AUDIT_PATH: &str = "/api/v3/configure/token/audit";

/// Where the main listener describes itself.
const OPENAPI_PATH: &str = "/api/v3/openapi.json";

/// Where the main listener answers the one SQL query that lists tokens.
pub(crate) const SQL_PATH: &str = "/api/v3/query_sql";

/// Where a proxy asks the main listener whether a request may pass.
const VERIFY_PATH: &str = "/api/v3/verify";

/// The name of the catalog, on every answer.
const CLUSTER_UUID: &str = "cluster-uuid";

/// What the metrics call a path that does not exist.
const OTHER_PATH: &str = "other";

const JSON: &str = "application/json";
const JSONL: &str = "application/jsonl";
const TEXT: &str = "text/plain; charset=utf-8";
