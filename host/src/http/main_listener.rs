//! The main listener: what stands in [`routes`], behind authentication (COMPAT 2.1 and 2.2).
//!
//! A request is judged in a fixed order: credential, path, body. Only then does it reach the authority.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::api::openapi;
use crate::http::api::{self, Call, Endpoint};
use crate::http::problem::Problem;
use crate::http::{
    CONFIRM_PATH, CREATE_PATH, OTHER_PATH, Options, TOKENS_PATH, VERIFY_PATH, credentials, response,
};
use crate::metrics::Metrics;
use crate::secret::{Secret, redact};
use crate::server::connections::{Mode, Terms, Visit};
use crate::server::log_throttle::Complaints;
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response, Service};
use crate::token::Principal;

/// The most connections that are open at a time, where the system lets that many be.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// How clients are treated: by proxies that ask about every request, connections are kept.
pub(crate) fn terms(places: usize) -> Terms {
    Terms {
        places: places.min(MAX_CONNECTIONS),
        grace: Duration::from_secs(1),
        patience: Duration::from_secs(30),
        mode: Mode::Lasting,
    }
}

/// How much of a path is logged, in bytes.
const LOGGED_PATH_BYTES: usize = 256;

/// The name of the catalog, on every answer.
pub(crate) const CLUSTER_UUID: &str = "cluster-uuid";

/// What the listener serves, and with what.
pub(crate) struct Served {
    pub(crate) authority: Authority,
    /// The same, for what may block.
    pub(crate) commands: AsyncAuthority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    endpoints: Vec<Endpoint>,
    /// The OpenAPI document, as JSON.
    pub(crate) document: Option<Bytes>,
    cluster_uuid: Option<HeaderValue>,
    /// Those who may not create the operator token.
    pub(crate) refusals: Complaints,
}

/// All that the main listener answers.
pub(crate) fn service(authority: Authority, metrics: Arc<Metrics>, options: Options) -> Arc<impl Service> {
    let endpoints = api::table(&options);
    Arc::new(Served {
        document: openapi::document(&endpoints, &options).to_json().ok().map(Bytes::from),
        endpoints,
        // A UUID, unless somebody has written the catalog by hand.
        cluster_uuid: HeaderValue::from_str(authority.catalog_id()).ok(),
        commands: authority.clone().into_async(),
        metrics,
        authority,
        options,
        refusals: Complaints::default(),
    })
}

impl Service for Served {
    async fn call(self: Arc<Self>, request: Request, visit: Visit) -> Response {
        let path = self.counted_as(request.uri().path());
        let answer = judge(Arc::clone(&self), visit.peer(), request).await;
        let mut answer = answer.unwrap_or_else(Problem::into_response);
        if let Some(cluster_uuid) = &self.cluster_uuid {
            answer.headers_mut().insert(CLUSTER_UUID, cluster_uuid.clone());
        }
        self.metrics.answered("main", path, answer.status().as_u16());
        answer
    }
}

/// The order of COMPAT 2.2, but for the body, of which nothing is read before its sender is known.
async fn judge(served: Arc<Served>, peer: &Peer, request: Request) -> Result<Response, Problem> {
    // Not for a proxy that asks with the method of its client: who lets any 2xx pass would let this pass.
    if request.method() == Method::OPTIONS && request.uri().path() != VERIFY_PATH {
        return Ok(served.options_of(request.uri().path()));
    }
    let verifying = request.uri().path() == VERIFY_PATH;
    let answer = carry_out(served, peer, request).await;
    answer.map_err(|problem| if verifying { problem.unverified() } else { problem })
}

async fn carry_out(served: Arc<Served>, peer: &Peer, mut request: Request) -> Result<Response, Problem> {
    if is_disabled(&served.options, request.uri().path()) {
        return Err(Problem::WithoutAuth);
    }
    let (credential, principal) = served.authenticate(&mut request)?;
    let endpoint = served
        .endpoints
        .iter()
        // Byte for byte, not by the rules of a router (COMPAT 2.1).
        .find(|endpoint| endpoint.answers(request.method(), request.uri().path()))
        // A wrong method is no path either.
        .ok_or(Problem::NoSuchPath("Not found"))?;
    let peer = peer.clone();
    (endpoint.handler)(Call { served: Arc::clone(&served), credential, peer, principal, request }).await
}

impl Served {
    /// The name of a path in the metrics: there are not to be as many names as clients can think of.
    fn counted_as(&self, path: &str) -> &'static str {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.path == path)
            .map_or(OTHER_PATH, |endpoint| endpoint.path)
    }

    /// What can be asked for at this path. Tells nobody more than the documentation does, so it asks for no token.
    fn options_of(&self, path: &str) -> Response {
        let methods = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.path == path && !is_disabled(&self.options, path))
            .flat_map(Endpoint::operations)
            .map(|(method, _)| method);
        let allow: Vec<_> = methods.chain([Method::OPTIONS]).map(|method| method.to_string()).collect();
        let allow = allow.join(", ");
        let mut answer = response::empty(StatusCode::NO_CONTENT);
        if self.endpoints.iter().any(|endpoint| endpoint.path == path)
            && let Ok(allow) = HeaderValue::try_from(allow)
        {
            answer.headers_mut().insert(ALLOW, allow);
        }
        answer
    }

    /// Lets only requests with an accepted token pass, and those that need none.
    fn authenticate(&self, request: &mut Request) -> Result<(Option<Secret>, Option<Principal>), Problem> {
        // Without a look at the header (COMPAT 2.2, 2.3).
        if is_open(&self.options, request.method(), request.uri().path()) {
            return Ok((None, None));
        }
        let confirmation = is_confirmation(request.method(), request.uri().path());
        // Here the query string counts first; its header may be anything (COMPAT 3.3).
        let presented = match credentials::in_query(request.uri()) {
            Some(secret) => Ok(Some(secret)),
            None => credentials::take(request.headers_mut()),
        };
        let accepted = match presented {
            Err(malformed) => {
                self.metrics.unauthenticated(true);
                Err((malformed.to_string(), malformed.into()))
            }
            // Whatever it is, but it must be one (COMPAT 2.10).
            Ok(credential) if self.options.without_auth => Ok((credential, None)),
            Ok(None) => {
                self.metrics.unauthenticated(false);
                Err(("there is none".to_owned(), Problem::NoCredential))
            }
            Ok(Some(credential)) if confirmation => Ok((Some(credential), None)),
            Ok(Some(credential)) => match self.authority.authenticate(credential.expose()) {
                Ok(principal) => Ok((Some(credential), Some(principal))),
                Err(error) => Err((error.to_string(), error.into())),
            },
        };
        accepted.map_err(|(reason, problem): (String, Problem)| {
            tracing::warn!(path = loggable(request.uri()), "cannot authenticate token: {reason}");
            problem
        })
    }
}

/// Whether a path is open to everybody, whatever they present.
fn is_open(options: &Options, method: &Method, path: &str) -> bool {
    // For every method (COMPAT 2.9) but the one that tells something (DESIGN section 5).
    (path == CREATE_PATH && method != Method::GET)
        || options.disabled_authz.covers(path)
        // The header is then none of ours: it may be meant for what is behind the proxy.
        || options.without_auth && path == VERIFY_PATH
}

/// Whether a request presents a token that is accepted nowhere else, and which its endpoint judges.
fn is_confirmation(method: &Method, path: &str) -> bool {
    method == Method::POST && path == CONFIRM_PATH
}

/// Whether there is nothing to do about tokens at a path, as none is asked for (COMPAT 2.10).
fn is_disabled(options: &Options, path: &str) -> bool {
    options.without_auth && path.starts_with(TOKENS_PATH)
}

/// Whether a path is only for who has a token.
pub(crate) fn asks_for_a_token(options: &Options, method: &Method, path: &str) -> bool {
    !options.without_auth && !is_open(options, method, path)
}

/// All that [`judge`] can say against a request for this path before its endpoint gets to see it.
pub(crate) fn refusals(options: &Options, method: &Method, path: &str) -> Vec<Problem> {
    let problems = if is_disabled(options, path) {
        vec![Problem::WithoutAuth]
    } else if is_open(options, method, path) {
        vec![]
    } else if is_confirmation(method, path) {
        vec![Problem::MalformedCredential, Problem::NoCredential]
    } else if options.without_auth {
        vec![Problem::MalformedCredential]
    } else {
        vec![Problem::MalformedCredential, Problem::NoCredential, Problem::InvalidToken, Problem::Unavailable]
    };
    if path == VERIFY_PATH { problems.into_iter().map(Problem::unverified).collect() } else { problems }
}

/// The path of a request, without its query string, which may hold a token.
fn loggable(uri: &Uri) -> String {
    let mut path = redact(uri.path()).into_owned();
    path.truncate(path.floor_char_boundary(LOGGED_PATH_BYTES));
    path.escape_debug().to_string()
}
