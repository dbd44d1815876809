//! The requests that are not for this server: they are authenticated here, and passed on.

use std::sync::Arc;

use optoken_protocol::credentials::SchemeCase;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::request_path::normalize;

use crate::http::api::sql;
use crate::http::api::state::{AppState, RequestState};
use crate::http::credentials::Credential;
use crate::http::guarded_request::is_trimmed_to_dots;
use crate::http::influxdb3::system_tokens_query::SystemTokens;
use crate::http::main_listener::authentication::{Authenticated, Rules, authenticate};
use crate::http::proxy::Proxy;
use crate::http::proxy::failure::{Refusal, is_grpc};
use crate::http::refusal::{self, Client, Reason, Refused, RequestText};
use crate::server::body::discard;
use crate::server::connections::ConnectionHandle;
use crate::server::message::{Request, Response};
use crate::token::TokenKind;

/// Paths of this server, with all below them.
const OWN: [&str; 4] = [paths::TOKENS, paths::SCOPED, "/api/v3/optoken", paths::VERIFY];

/// The answer to a query that this server and the upstream would have to run together.
const MIXED: &str = "a query on system.tokens is answered here and reads that table alone, by one SELECT";

/// Returns whether a path, in normal form, is one of this server, which has an upstream.
pub(super) fn is_own(path: &str) -> bool {
    let is_within =
        |own: &str| path.strip_prefix(own).is_some_and(|below| below.is_empty() || below.starts_with('/'));
    path == paths::OPENAPI || OWN.into_iter().any(is_within)
}

/// The server that a request is for.
pub(super) enum Destination {
    /// This one.
    Own,
    /// The one behind it.
    Upstream {
        /// The path in normal form; `None` if services could read it in several ways.
        path: Option<String>,
    },
}

/// Returns the server that a path is for.
pub(super) fn destination(path: &str) -> Destination {
    match normalize(path) {
        Ok(path) if is_own(&path) => Destination::Own,
        Ok(path) if path.split('/').any(is_trimmed_to_dots) => Destination::Upstream { path: None },
        Ok(path) => Destination::Upstream { path: Some(path.into_owned()) },
        // A path without a normal form is none of this server.
        Err(_) => Destination::Upstream { path: None },
    }
}

/// Authenticates a request, and passes it on. A refusal has the form that the client reads. `path`
/// is that of [`Destination::Upstream`].
pub(super) async fn respond(
    state: &Arc<AppState>,
    proxy: &Proxy,
    request: Request,
    path: Option<String>,
    connection: &ConnectionHandle,
    offers_basic: bool,
) -> Response {
    let is_grpc = is_grpc(request.headers());
    let forwarded = forward(state, proxy, request, path, connection).await;
    forwarded.unwrap_or_else(|refusal| refusal.response(is_grpc, offers_basic))
}

async fn forward(
    state: &Arc<AppState>,
    proxy: &Proxy,
    mut request: Request,
    path: Option<String>,
    connection: &ConnectionHandle,
) -> Result<Response, Refusal> {
    let rules = Rules {
        is_open: path.as_deref().is_some_and(|path| state.options.disabled_authz.covers(path)),
        is_confirmation: false,
        case: SchemeCase::Any,
    };
    let authenticated = authenticate(state, connection.peer(), &request, rules);
    let (credential, principal) = match authenticated {
        Ok(Authenticated { credential, token }) => {
            (credential.map(Credential::into_owned), token.map(|token| token.principal))
        }
        Err(problem) => {
            discard(request.version(), request.into_body());
            return Err(problem.into());
        }
    };
    let credential = credential.map(|credential| credential.remove_from(request.headers_mut()));
    let client = Client::new(connection.peer().clone(), request.headers());
    let path_for_log = refusal::path_for_log(request.uri()).to_owned();
    let is_scoped = principal.is_some_and(|principal| principal.kind == TokenKind::Scoped);
    let respond = async {
        let mut received = proxy.receive(request, path.as_deref(), is_scoped)?;
        match proxy.system_tokens(&mut received).await? {
            SystemTokens::Absent => {
                return proxy.forward(received, credential.zip(principal), connection).await;
            }
            _ if is_scoped => return Err(Refusal::MissingPermission("the query reads the tokens")),
            SystemTokens::Alone => {}
            SystemTokens::Mixed => return Err(Problem::InvalidArgument(MIXED.to_owned()).into()),
        }
        let state = RequestState::new(Arc::clone(state), client.clone());
        Ok(sql::answer(&state, &received.into_local()).await?)
    };
    let responded = respond.await;
    if let Err(Refusal::MissingPermission(cause)) = responded {
        let reason = Reason { label: "missing_permission", cause };
        state.refusals.report(Refused::Authorization, &client, &reason, RequestText::Path(&path_for_log));
    }
    responded
}
