//! The main listener: what stands in [`api`], behind authentication (COMPAT 2.1 and 2.2).
//!
//! A request is judged in a fixed order: credential, path, body. Only then does it reach the authority.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use optoken_protocol::headers::CLUSTER_UUID;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::sanitize;

use crate::authority::Authority;
use crate::http::access::{is_confirmation, is_disabled, is_open};
use crate::http::api::endpoint::{ApiRequest, Endpoint};
use crate::http::api::state::AppState;
use crate::http::api::{self, openapi};
use crate::http::{OTHER_PATH, Options, credentials, problem, response};
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode};
use crate::server::log_throttle::LogThrottle;
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response, Service};
use crate::token::Principal;

/// The most connections that are open at a time, where the system lets that many be.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// How clients are treated: by proxies that ask about every request, connections are kept.
pub(crate) fn connection_limits(max_connections: usize) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: max_connections.min(MAX_CONNECTIONS),
        evictable_after: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(30),
        mode: ConnectionMode::KeepAlive,
    }
}

/// How much of a path is logged, in bytes.
const LOGGED_PATH_BYTES: usize = 256;

/// What answers on the main listener.
struct MainListener {
    state: Arc<AppState>,
    endpoints: Vec<Endpoint>,
    cluster_uuid: Option<HeaderValue>,
}

/// All that the main listener answers.
pub(crate) fn service(authority: Authority, metrics: Arc<Metrics>, options: Options) -> Arc<impl Service> {
    let endpoints = api::table(&options);
    Arc::new(MainListener {
        // A UUID, unless somebody has written the catalog by hand.
        cluster_uuid: HeaderValue::from_str(authority.catalog_id()).ok(),
        state: Arc::new(AppState {
            document: openapi::document(&endpoints, &options).to_json().ok().map(Bytes::from),
            commands: authority.clone().into_async(),
            metrics,
            authority,
            options,
            bootstrap_throttle: LogThrottle::default(),
        }),
        endpoints,
    })
}

impl Service for MainListener {
    async fn call(self: Arc<Self>, request: Request, connection: ConnectionHandle) -> Response {
        let path = self.metrics_path(request.uri().path());
        let response = self.handle(connection.peer(), request).await;
        let mut response = response.unwrap_or_else(|problem| problem::response(&problem));
        if let Some(cluster_uuid) = &self.cluster_uuid {
            response.headers_mut().insert(CLUSTER_UUID, cluster_uuid.clone());
        }
        self.state.metrics.http_response("main", path, response.status().as_u16());
        response
    }
}

impl MainListener {
    /// The order of COMPAT 2.2, but for the body, of which nothing is read before its sender is known.
    async fn handle(&self, peer: &Peer, request: Request) -> Result<Response, Problem> {
        // Not for a proxy that asks with the method of its client: who lets any 2xx pass would let this pass.
        if request.method() == Method::OPTIONS && request.uri().path() != paths::VERIFY {
            return Ok(self.allowed_methods(request.uri().path()));
        }
        let verifying = request.uri().path() == paths::VERIFY;
        let response = self.dispatch(peer, request).await;
        response.map_err(|problem| if verifying { problem.for_forward_auth() } else { problem })
    }

    async fn dispatch(&self, peer: &Peer, mut request: Request) -> Result<Response, Problem> {
        if is_disabled(&self.state.options, request.uri().path()) {
            return Err(Problem::AuthDisabled);
        }
        let (credential, principal) = authenticate(&self.state, &mut request)?;
        let endpoint = self
            .endpoints
            .iter()
            // Byte for byte, not by the rules of a router (COMPAT 2.1).
            .find(|endpoint| endpoint.matches(request.method(), request.uri().path()))
            // A wrong method is no path either.
            .ok_or(Problem::PathNotFound)?;
        let (state, peer) = (Arc::clone(&self.state), peer.clone());
        (endpoint.handler)(ApiRequest { state, credential, peer, principal, request }).await
    }

    /// The name of a path in the metrics: there are not to be as many names as clients can think of.
    fn metrics_path(&self, path: &str) -> &'static str {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.path == path)
            .map_or(OTHER_PATH, |endpoint| endpoint.path)
    }

    /// What can be asked for at this path. Tells nobody more than the documentation does, so it asks for no token.
    fn allowed_methods(&self, path: &str) -> Response {
        let methods = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.path == path && !is_disabled(&self.state.options, path))
            .flat_map(Endpoint::operations)
            .map(|(method, _)| method);
        let allow: Vec<_> = methods.chain([Method::OPTIONS]).map(|method| method.to_string()).collect();
        let allow = allow.join(", ");
        let mut response = response::empty(StatusCode::NO_CONTENT);
        if self.endpoints.iter().any(|endpoint| endpoint.path == path)
            && let Ok(allow) = HeaderValue::try_from(allow)
        {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

/// Lets only requests with an accepted token pass, and those that need none.
fn authenticate(
    state: &AppState,
    request: &mut Request,
) -> Result<(Option<Secret>, Option<Principal>), Problem> {
    // Without a look at the header (COMPAT 2.2, 2.3).
    if is_open(&state.options, request.method(), request.uri().path()) {
        return Ok((None, None));
    }
    let confirmation = is_confirmation(request.method(), request.uri().path());
    // Here the query string counts first; its header may be anything (COMPAT 3.3).
    let presented = match credentials::from_query(request.uri()) {
        Some(secret) => Ok(Some(secret)),
        None => credentials::take(request.headers_mut()),
    };
    let accepted = match presented {
        Err(malformed) => {
            state.metrics.credential_malformed();
            Err((malformed.to_string(), malformed.into()))
        }
        // Whatever it is, but it must be one (COMPAT 2.10).
        Ok(credential) if state.options.without_auth => Ok((credential, None)),
        Ok(None) => {
            state.metrics.credential_missing();
            Err(("there is none".to_owned(), Problem::MissingCredential))
        }
        Ok(Some(credential)) if confirmation => Ok((Some(credential), None)),
        Ok(Some(credential)) => match state.authority.authenticate(credential.expose()) {
            Ok(principal) => Ok((Some(credential), Some(principal))),
            Err(error) => Err((error.to_string(), error.into())),
        },
    };
    accepted.map_err(|(reason, problem): (String, Problem)| {
        tracing::warn!(path = sanitized_path(request.uri()), "cannot authenticate token: {reason}");
        problem
    })
}

/// The path of a request, without its query string, which may hold a token.
fn sanitized_path(uri: &Uri) -> String {
    sanitize(uri.path(), LOGGED_PATH_BYTES)
}
