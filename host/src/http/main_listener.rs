//! The main listener: the endpoints of [`api`], behind authentication (docs/compatibility.md 2.1,
//! 2.2).
//!
//! Checks a request in a fixed order: credential, path, body. The authority is called last.

mod authentication;
mod routes;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use optoken_protocol::browser::may_offer_basic;
use optoken_protocol::headers::CLUSTER_UUID;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::authority::Authority;
use crate::http::access::is_disabled;
use crate::http::api::endpoint::{ApiRequest, CheckedRequest, Endpoint, Handler, Handling};
use crate::http::api::ready_headers::ReadyHeaders;
use crate::http::api::state::{AppState, RequestState};
use crate::http::api::{self, openapi, scope};
use crate::http::credentials::{Credential, OwnedCredential};
use crate::http::main_listener::authentication::{Authenticated, Rules, authenticate};
use crate::http::main_listener::routes::{Route, Routes};
use crate::http::main_listener::upstream::Destination;
use crate::http::proxy::Proxy;
use crate::http::proxy::options::UpstreamOptions;
use crate::http::refusal::{Client, Refusals};
use crate::http::{Options, problem, response};
use crate::metrics::Metrics;
use crate::metrics::responses::ResponseCounters;
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode};
use crate::server::message::{Answer, Request, Response};
use crate::server::peer::Peer;
use crate::server::serve::Service;

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

/// The name of the header with the id of the catalog, parsed once.
static CLUSTER_UUID_NAME: HeaderName = HeaderName::from_static(CLUSTER_UUID);

/// The service of the main listener.
struct MainListener {
    state: Arc<AppState>,
    routes: Routes,
    upstream: Option<Arc<Upstream>>,
}

/// Where requests go that are not for this server.
struct Upstream {
    proxy: Proxy,
    responses: ResponseCounters,
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
    let document = openapi::document(&endpoints, &options).to_json().ok().map(Bytes::from);
    let upstream = behind.map(|options| Upstream {
        proxy: Proxy::new(options, authority.clone(), metrics.upstream()),
        responses: metrics.responses("main", UPSTREAM_PATH),
    });
    Arc::new(MainListener {
        routes: Routes::new(endpoints, &metrics),
        upstream: upstream.map(Arc::new),
        state: Arc::new(AppState {
            document,
            commands: authority.clone().into_async(),
            refusals: Refusals::new(Arc::clone(&metrics)),
            metrics,
            // A UUID, unless the catalog was written by hand.
            cluster_uuid: HeaderValue::from_str(authority.catalog_id()).ok(),
            verified: ReadyHeaders::default(),
            authority,
            options,
        }),
    })
}

/// A request that passed the checks.
enum Admitted {
    /// Its response, which needed nothing else.
    Now(Response),
    /// Its handler, which may wait.
    Later { handle: fn(ApiRequest) -> Handling, credential: Option<OwnedCredential> },
}

impl Service for MainListener {
    fn call(self: &Arc<Self>, request: Request, connection: &ConnectionHandle) -> Answer {
        let path = request.uri().path();
        if let Some(upstream) = &self.upstream
            && let Destination::Upstream { path } = upstream::destination(path)
        {
            let (state, upstream) = (Arc::clone(&self.state), Arc::clone(upstream));
            let (connection, offers_basic) = (connection.clone(), offers_basic(&request));
            return Answer::later(async move {
                let Upstream { proxy, responses } = &*upstream;
                let forwarded = upstream::respond(&state, proxy, request, path, &connection, offers_basic);
                let response = forwarded.await;
                responses.count(response.status().as_u16());
                response
            });
        }
        let route = self.routes.find(path);
        match self.admit(connection.peer(), &request, route) {
            Ok(Admitted::Now(response)) => Answer::now(self.complete(route, response), request),
            Ok(Admitted::Later { handle, credential }) => {
                self.handle_later(request, connection, handle, credential)
            }
            Err(problem) => {
                let problem = for_path(problem, path);
                let response = problem::response_to(&problem, offers_basic(&request));
                Answer::now(self.complete(route, response), request)
            }
        }
    }

    fn reject(&self, reason: &'static str, connection: &ConnectionHandle) -> Response {
        self.state.refusals.malformed(reason, connection.peer());
        let response = problem::malformed_request(reason);
        self.routes.responses(None).count(response.status().as_u16());
        response
    }
}

impl MainListener {
    /// Checks a request in the order of docs/compatibility.md 2.2. Unlike there, the body is read
    /// after authentication only. The one place with that order: it borrows the request, so that
    /// the response of most requests needs no copy of a part of it.
    fn admit(&self, peer: &Peer, request: &Request, route: Option<&Route>) -> Result<Admitted, Problem> {
        let (state, path) = (&*self.state, request.uri().path());
        // A proxy may verify a request with the method of its client, and accept any status 2xx.
        let verifying = paths::is_verify(path);
        if request.method() == Method::OPTIONS && !verifying {
            return Ok(Admitted::Now(self.allowed_methods(route)));
        }
        let method = effective_method(request.method(), verifying);
        if is_disabled(&state.options, path) {
            return Err(Problem::AuthDisabled);
        }
        let rules = Rules::of(&state.options, method, path);
        let Authenticated { credential, token } = authenticate(state, peer, request, rules)?;
        if let (Some(credential), Some(token)) = (&credential, token) {
            scope::check(state, peer, credential.expose(), token.principal, method, request)?;
        }
        // An unknown method is answered like an unknown path.
        let endpoint = route.and_then(|route| route.endpoint(method)).ok_or(Problem::PathNotFound)?;
        match endpoint.handler {
            Handler::Now(handle) => {
                handle(&CheckedRequest::new(state, peer, request, token)).map(Admitted::Now)
            }
            Handler::Later(handle) => {
                Ok(Admitted::Later { handle, credential: credential.map(Credential::into_owned) })
            }
        }
    }

    /// Passes an admitted request to its handler.
    fn handle_later(
        self: &Arc<Self>,
        mut request: Request,
        connection: &ConnectionHandle,
        handle: fn(ApiRequest) -> Handling,
        credential: Option<OwnedCredential>,
    ) -> Answer {
        let (listener, offers_basic) = (Arc::clone(self), offers_basic(&request));
        let path = request.uri().path().to_owned();
        let verifying = paths::is_verify(&path);
        *request.method_mut() = effective_method(request.method(), verifying).clone();
        let client = Client::new(connection.peer().clone(), request.headers());
        let state = RequestState::new(Arc::clone(&self.state), client);
        let credential = credential.map(|credential| credential.remove_from(request.headers_mut()));
        let handling = handle(ApiRequest { state, credential, request });
        Answer::later(async move {
            let response = handling
                .await
                .unwrap_or_else(|problem| problem::response_to(&for_path(problem, &path), offers_basic));
            listener.complete(listener.routes.find(&path), response)
        })
    }

    /// Adds the id of the catalog to a response, and counts it.
    fn complete(&self, route: Option<&Route>, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(cluster_uuid) = &self.state.cluster_uuid
            && !headers.contains_key(&CLUSTER_UUID_NAME)
        {
            headers.insert(CLUSTER_UUID_NAME.clone(), cluster_uuid.clone());
        }
        self.routes.responses(route).count(response.status().as_u16());
        response
    }

    /// Returns the response to OPTIONS, which needs no token: the methods of a path are documented.
    fn allowed_methods(&self, route: Option<&Route>) -> Response {
        let mut response = response::empty(StatusCode::NO_CONTENT);
        let Some(route) = route else { return response };
        let endpoints =
            if is_disabled(&self.state.options, route.path) { &[][..] } else { &route.endpoints[..] };
        let methods = endpoints.iter().flat_map(Endpoint::operations).flat_map(|(method, _)| {
            let head = (method == Method::GET).then_some(Method::HEAD);
            [method].into_iter().chain(head)
        });
        let allow: Vec<_> = methods.chain([Method::OPTIONS]).map(|method| method.to_string()).collect();
        if let Ok(allow) = HeaderValue::try_from(allow.join(", ")) {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

/// Returns the method by which a request is routed. HEAD has the same response as GET, whose body
/// the server leaves out (RFC 9110, section 9.3.2). A question of a proxy keeps the method that it
/// is about.
fn effective_method(method: &Method, verifying: bool) -> &Method {
    if *method == Method::HEAD && !verifying { &Method::GET } else { method }
}

/// Returns a problem in the form of its path.
fn for_path(problem: Problem, path: &str) -> Problem {
    if paths::is_verify(path) { problem.for_forward_auth() } else { problem }
}

/// Returns whether the client of a request may be offered the scheme Basic.
fn offers_basic(request: &Request) -> bool {
    may_offer_basic(request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}
