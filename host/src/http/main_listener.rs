//! The main listener: the endpoints of [`api`], behind authentication (docs/compatibility.md 2.1,
//! 2.2).
//!
//! Checks a request in a fixed order: credential, path, body. The authority is called last.

mod authentication;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use optoken_protocol::browser::may_offer_basic;
use optoken_protocol::headers::CLUSTER_UUID;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::authority::Authority;
use crate::http::access::is_disabled;
use crate::http::api::endpoint::{ApiRequest, Endpoint};
use crate::http::api::state::{AppState, RequestState};
use crate::http::api::{self, openapi, scope};
use crate::http::main_listener::authentication::{Rules, authenticate};
use crate::http::main_listener::upstream::Destination;
use crate::http::proxy::Proxy;
use crate::http::proxy::options::UpstreamOptions;
use crate::http::refusal::{Client, Refusals};
use crate::http::{OTHER_PATH, Options, problem, response};
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::server::body::discard;
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode};
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response, Service};
use crate::token::Principal;

/// How many connections may be open at a time, if the limit of open files allows it.
pub(crate) const MAX_CONNECTIONS: usize = 1280;

/// The label in the metrics of all paths of the upstream.
const UPSTREAM_PATH: &str = "upstream";

/// Returns the limits of connections. Proxies keep theirs open, and send a request for each of
/// their own.
pub(crate) fn connection_limits(max_connections: usize, shutdown_timeout: Duration) -> ConnectionLimits {
    let max_connections = max_connections.min(MAX_CONNECTIONS);
    // A fifth is for connections before their first request.
    let max_unused = (max_connections / 5).max(1);
    ConnectionLimits {
        max_used: max_connections.saturating_sub(max_unused).max(1),
        max_unused,
        evictable_after: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(30),
        shutdown_timeout,
        mode: ConnectionMode::KeepAlive,
    }
}

/// The service of the main listener.
struct MainListener {
    state: Arc<AppState>,
    endpoints: Vec<Endpoint>,
    cluster_uuid: Option<HeaderValue>,
    /// Where requests go that are not for this server.
    proxy: Option<Proxy>,
}

/// Returns the service of the main listener.
pub(crate) fn service(
    authority: Authority,
    metrics: Arc<Metrics>,
    options: Options,
    behind: Option<UpstreamOptions>,
) -> Arc<impl Service> {
    let mut endpoints = api::table(&options);
    if behind.is_some() {
        endpoints.retain(|endpoint| upstream::is_own(endpoint.path));
    }
    Arc::new(MainListener {
        // A UUID, unless the catalog was written by hand.
        cluster_uuid: HeaderValue::from_str(authority.catalog_id()).ok(),
        proxy: behind.map(|options| Proxy::new(options, authority.clone(), metrics.upstream())),
        state: Arc::new(AppState {
            document: openapi::document(&endpoints, &options).to_json().ok().map(Bytes::from),
            commands: authority.clone().into_async(),
            refusals: Refusals::new(Arc::clone(&metrics)),
            metrics,
            authority,
            options,
        }),
        endpoints,
    })
}

impl Service for MainListener {
    async fn call(self: Arc<Self>, request: Request, connection: ConnectionHandle) -> Response {
        let headers = request.headers().iter();
        let offers_basic = may_offer_basic(headers.map(|(name, value)| (name.as_str(), value.as_bytes())));
        if let Some(proxy) = &self.proxy
            && let Destination::Upstream { path } = upstream::destination(request.uri().path())
        {
            let forwarded = upstream::respond(&self.state, proxy, request, path, &connection, offers_basic);
            let response = forwarded.await;
            self.state.metrics.http_response("main", UPSTREAM_PATH, response.status().as_u16());
            return response;
        }
        let path = self.metrics_path(request.uri().path());
        let response = self.handle(connection.peer(), request).await;
        let mut response = response.unwrap_or_else(|problem| problem::response_to(&problem, offers_basic));
        if let Some(cluster_uuid) = &self.cluster_uuid {
            response.headers_mut().insert(CLUSTER_UUID, cluster_uuid.clone());
        }
        self.state.metrics.http_response("main", path, response.status().as_u16());
        response
    }

    fn reject(&self, reason: &'static str, connection: &ConnectionHandle) -> Response {
        self.state.refusals.malformed(reason, connection.peer());
        let response = problem::malformed_request(reason);
        self.state.metrics.http_response("main", OTHER_PATH, response.status().as_u16());
        response
    }
}

impl MainListener {
    /// Checks a request in the order of docs/compatibility.md 2.2. Unlike there, the body is read
    /// after authentication only.
    async fn handle(&self, peer: &Peer, request: Request) -> Result<Response, Problem> {
        // A proxy may verify a request with the method of its client, and accept any status 2xx.
        let verifying = paths::is_verify(request.uri().path());
        if request.method() == Method::OPTIONS && !verifying {
            return Ok(self.allowed_methods(request.uri().path()));
        }
        let response = self.dispatch(peer, request).await;
        response.map_err(|problem| if verifying { problem.for_forward_auth() } else { problem })
    }

    async fn dispatch(&self, peer: &Peer, mut request: Request) -> Result<Response, Problem> {
        match self.admit(peer, &mut request) {
            Ok((endpoint, credential, principal)) => {
                let client = Client::new(peer.clone(), request.headers());
                let state = RequestState::new(Arc::clone(&self.state), client);
                (endpoint.handler)(ApiRequest { state, credential, principal, request }).await
            }
            Err(problem) => {
                discard(request.version(), request.into_body());
                Err(problem)
            }
        }
    }

    /// Returns the endpoint of a request that may have it, with its credential and token.
    fn admit(
        &self,
        peer: &Peer,
        request: &mut Request,
    ) -> Result<(&Endpoint, Option<Secret>, Option<Principal>), Problem> {
        // The same response, whose body the server leaves out (RFC 9110, section 9.3.2). A question
        // of a proxy keeps the method that it is about.
        if request.method() == Method::HEAD && !paths::is_verify(request.uri().path()) {
            *request.method_mut() = Method::GET;
        }
        if is_disabled(&self.state.options, request.uri().path()) {
            return Err(Problem::AuthDisabled);
        }
        let rules = Rules::of(&self.state.options, request);
        let (credential, principal) = authenticate(&self.state, peer, request, rules)?;
        if let (Some(credential), Some(principal)) = (&credential, principal) {
            scope::check(&self.state, peer, credential, principal, request)?;
        }
        let endpoint = self
            .endpoints
            .iter()
            // Paths are compared byte for byte (docs/compatibility.md 2.1).
            .find(|endpoint| endpoint.matches(request.method(), request.uri().path()))
            // An unknown method is answered like an unknown path.
            .ok_or(Problem::PathNotFound)?;
        Ok((endpoint, credential, principal))
    }

    /// Returns the label of a path in the metrics. All unknown paths share one, so clients cannot
    /// create labels.
    fn metrics_path(&self, path: &str) -> &'static str {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.serves(path))
            .map_or(OTHER_PATH, |endpoint| endpoint.path)
    }

    /// Returns the response to OPTIONS, which needs no token: the methods of a path are documented.
    fn allowed_methods(&self, path: &str) -> Response {
        let methods = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.path == path && !is_disabled(&self.state.options, path))
            .flat_map(Endpoint::operations)
            .flat_map(|(method, _)| {
                let head = (method == Method::GET).then_some(Method::HEAD);
                [method].into_iter().chain(head)
            });
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
