//! `--upstream`: passes requests on to another server, and its responses back.
//!
//! The main listener authenticates a request before it comes here. Nothing is buffered: both bodies
//! pass through frame by frame, as fast as the slower side.

mod authorize;
mod body;
mod connect;
mod exchange;
pub(crate) mod failure;
mod headers;
mod kind;
pub(crate) mod options;
mod plan;
mod pool;
mod probe;
pub(crate) mod token;
mod upgrade;
pub(crate) mod url;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use hyper::http::uri::Uri;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, StatusCode};
use optoken_protocol::headers::{TOKEN_ID, TOKEN_NAME};
use optoken_protocol::percent;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::sanitize;

use crate::access::AuthorizeError;
use crate::authority::Authority;
use crate::http::influxdb3::system_tokens_query::SystemTokens;
use crate::http::influxdb3::target::{OwnedTarget, ServiceKind};
use crate::http::proxy::body::{RequestBody, ResponseStream};
use crate::http::proxy::connect::{Connector, Versions};
use crate::http::proxy::exchange::{End, Exchange, Grant, Registry};
use crate::http::proxy::failure::{Refusal, is_grpc};
use crate::http::proxy::kind::SharedKind;
use crate::http::proxy::options::{HttpVersion, KindOption, UpstreamOptions};
use crate::http::proxy::plan::Plan;
use crate::http::proxy::pool::{Held, Pool, SendError};
use crate::metrics::upstream::{Failure, UpstreamMetrics};
use crate::secret::Secret;
use crate::server::body::ResponseBody;
use crate::server::connections::ConnectionHandle;
use crate::server::log_throttle::LogThrottle;
use crate::server::message::{self, Response};
use crate::server::peer::Peer;
use crate::token::{Principal, TokenKind};

/// How many bytes of a path are logged.
const LOGGED_PATH_BYTES: usize = 256;

/// An upstream, and the requests that are in flight there.
pub(crate) struct Proxy {
    options: UpstreamOptions,
    kind: SharedKind,
    pool: Arc<Pool>,
    exchanges: Arc<Registry>,
    authority: Authority,
    metrics: UpstreamMetrics,
    failures: LogThrottle,
}

/// A request whose head was read, and whose body may have been read in part.
pub(crate) struct Received {
    plan: Plan,
    body: RequestBody,
    on_upgrade: OnUpgrade,
    /// Whether its path is in normal form.
    is_normal: bool,
}

impl Received {
    /// Returns the request with what was read of its body, for an endpoint of this server.
    pub(crate) fn into_local(self) -> Request<Bytes> {
        let mut request = Request::new(self.body.into_read());
        let target = match &self.plan.query {
            Some(query) => format!("{}?{query}", self.plan.path),
            None => self.plan.path,
        };
        *request.method_mut() = self.plan.method;
        *request.uri_mut() = Uri::try_from(target).unwrap_or_default();
        *request.headers_mut() = self.plan.headers;
        request
    }
}

impl Proxy {
    /// Prepares to pass requests on. Connects when the first one comes.
    pub(crate) fn new(options: UpstreamOptions, authority: Authority, metrics: &UpstreamMetrics) -> Self {
        metrics.show();
        let connector = Connector::new(options.url.clone(), options.tls.as_ref(), options.connect_timeout);
        let pool = Pool::new(connector, options.max_connections);
        let kind = SharedKind::new(match options.kind {
            KindOption::InfluxDb3 => ServiceKind::InfluxDb3,
            KindOption::Http => ServiceKind::Http,
            KindOption::Auto => ServiceKind::Unspecified,
        });
        if options.kind == KindOption::Auto {
            let versions = versions(&options, false);
            tokio::spawn(probe::detect(Arc::clone(&pool), options.clone(), versions, kind.clone()));
        }
        let idle = Arc::clone(&pool);
        let close_idle = move || idle.close_idle();
        Self {
            kind,
            exchanges: Registry::new(authority.clone(), metrics.clone(), options.timeout, close_idle),
            pool,
            authority,
            metrics: metrics.clone(),
            failures: LogThrottle::default(),
            options,
        }
    }

    /// Reads the head of a request. `path` is its path in normal form, if it has one.
    pub(crate) fn receive(
        &self,
        mut request: message::Request,
        path: Option<&str>,
        is_scoped: bool,
    ) -> Result<Received, Refusal> {
        // The upstream would show its own token in the response to TRACE.
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.method() == "TRACK" {
            return Err(Refusal::Method);
        }
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (parts, incoming) = request.into_parts();
        let body = RequestBody::new(incoming, parts.version);
        let plan = Plan::new(parts, path, &self.options.url, is_scoped, self.options.allows_websocket)?;
        Ok(Received { plan, body, on_upgrade, is_normal: path.is_some() })
    }

    /// Returns how a query in SQL uses the table of tokens.
    pub(crate) async fn system_tokens(&self, received: &mut Received) -> Result<SystemTokens, Refusal> {
        authorize::system_tokens(self.kind.get(), &received.plan, &mut received.body).await
    }

    /// Passes a request on. `identity` is the credential and its token, unless the request needs
    /// none.
    pub(crate) async fn forward(
        &self,
        received: Received,
        identity: Option<(Secret, Principal)>,
        connection: &ConnectionHandle,
    ) -> Result<Response, Refusal> {
        let Received { mut plan, mut body, on_upgrade, is_normal } = received;
        let grant = match &identity {
            Some((credential, token)) => {
                Some(self.authorize(&plan, &mut body, credential, *token, is_normal).await?)
            }
            None => None,
        };
        self.state_origin(&mut plan, connection.peer(), identity.as_ref().map(|(_, token)| token))?;
        plan.state_length(&body);
        let target = self.options.url.target(&plan.path, plan.query.as_deref());
        let malformed = || Problem::InvalidArgument("the request target is malformed".to_owned());
        let target = target.ok_or_else(malformed)?;
        let exchange = self.exchanges.begin(grant, connection.clone());
        body.attach(Arc::clone(&exchange));
        let answered =
            self.exchange(&plan, &Uri::from(target), body, exchange, (on_upgrade, connection)).await;
        let status = answered.as_ref().map(|response| response.status().as_u16()).ok();
        self.metrics.answered(status);
        tracing::debug!(
            method = %plan.method,
            path = sanitize(&plan.path, LOGGED_PATH_BYTES),
            status,
            peer = %connection.peer(),
            "passed on to the upstream"
        );
        answered
    }

    /// Authorizes a request. A token with all permissions may do everything, and its requests are
    /// not read.
    async fn authorize(
        &self,
        plan: &Plan,
        body: &mut RequestBody,
        credential: &Secret,
        token: Principal,
        is_normal: bool,
    ) -> Result<Grant, Refusal> {
        let is_scoped = token.kind == TokenKind::Scoped;
        // What has no normal form may be another request for the upstream.
        if is_scoped && !(is_normal && plan.host.normal.is_some()) {
            return Err(Refusal::MissingPermission("its path or host has no normal form"));
        }
        // Some services read it as that of upper case.
        if is_scoped && plan.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(Refusal::MissingPermission("its method has a lower-case letter"));
        }
        let target = if is_scoped {
            authorize::target(self.kind.get(), plan, body).await?
        } else {
            OwnedTarget::Administration("all permissions")
        };
        let grant = Grant {
            credential: credential.clone(),
            kind: token.kind,
            method: plan.method.as_str().to_owned(),
            host: plan.host.normal.clone().unwrap_or_default(),
            path: plan.path.clone(),
            query: plan.query.clone(),
            target,
        };
        if is_scoped {
            self.authority.authorize(credential.expose(), &grant.access()).map_err(|error| match error {
                AuthorizeError::Forbidden => Refusal::MissingPermission(grant.target.refusal()),
                AuthorizeError::Authentication(error) => Refusal::Problem(error.into()),
            })?;
        }
        Ok(grant)
    }

    /// Sends a request, and returns the response as it arrives.
    async fn exchange(
        &self,
        plan: &Plan,
        target: &Uri,
        body: RequestBody,
        exchange: Arc<Exchange>,
        client: (OnUpgrade, &ConnectionHandle),
    ) -> Result<Response, Refusal> {
        let sent = tokio::select! {
            biased;
            sent = self.send(plan, target, body, &exchange) => Some(sent),
            () = exchange.stop().cancelled() => None,
        };
        let (mut received, held) = match (sent, exchange.end()) {
            (Some(Ok(sent)), _) => sent,
            // The end of the exchange is the cause of a failure.
            (_, Some(End::Revoked)) => return Err(Problem::InvalidToken.into()),
            (_, Some(End::ClientTimeout)) => return Err(Refusal::RequestTimeout),
            (Some(Err(error)), None) => return Err(self.failed(&error, &exchange)),
            _ => return Err(Refusal::GatewayTimeout),
        };
        exchange.answered.store(true, Ordering::Relaxed);
        exchange.note_progress();
        if received.status() == StatusCode::SWITCHING_PROTOCOLS {
            let is_websocket = headers::lists(received.headers(), UPGRADE, "websocket");
            if !plan.is_websocket || !is_websocket {
                let cause = "it changes to a protocol that was not asked for".to_owned();
                let error = SendError { failure: Failure::Protocol, cause, unsent: None };
                return Err(self.failed(&error, &exchange));
            }
            let on_upgrade = hyper::upgrade::on(&mut received);
            return Ok(switch_protocols(received.into_parts().0.headers, on_upgrade, exchange, client));
        }
        let (parts, incoming) = received.into_parts();
        // The version and the reason are those of the other connection.
        let mut response = Response::default();
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        headers::clean_response(response.headers_mut());
        if plan.method != Method::HEAD && parts.status != StatusCode::NOT_MODIFIED {
            state_response_length(response.headers_mut(), &incoming);
        }
        *response.body_mut() = ResponseBody::stream(Box::pin(ResponseStream::new(incoming, exchange, held)));
        Ok(response)
    }

    async fn send(
        &self,
        plan: &Plan,
        target: &Uri,
        body: RequestBody,
        exchange: &Arc<Exchange>,
    ) -> Result<(hyper::Response<Incoming>, Held), SendError> {
        let versions =
            if plan.is_websocket { Versions::Http1 } else { versions(&self.options, is_grpc(&plan.headers)) };
        let mut may_repeat =
            body.is_end_stream() && matches!(plan.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let mut request = Request::new(body);
        let mut is_fresh = plan.is_websocket;
        let mut may_replace = true;
        loop {
            let prepare = |request: &mut Request<RequestBody>, is_http2| {
                if is_http2 {
                    plan.write_http2(target, &self.options.url, request);
                } else {
                    plan.write_http1(target, request);
                }
            };
            match self.pool.send(request, versions, is_fresh, prepare).await {
                Ok(sent) => return Ok(sent),
                // The upstream has closed the connection before.
                Err(SendError { unsent: Some(unsent), .. }) if may_replace => {
                    may_replace = false;
                    request = *unsent;
                }
                Err(error) if may_repeat && error.failure == Failure::Reset => {
                    tracing::debug!("upstream failed, and is asked again: {}", error.cause);
                    may_repeat = false;
                    let mut body = RequestBody::empty();
                    body.attach(Arc::clone(exchange));
                    request = Request::new(body);
                }
                Err(error) => return Err(error),
            }
            is_fresh = true;
        }
    }

    /// Counts and logs a failure, and returns what the client gets, which has no cause.
    fn failed(&self, error: &SendError, exchange: &Exchange) -> Refusal {
        if exchange.client_failed.load(Ordering::Relaxed) {
            return Refusal::BadBody;
        }
        self.metrics.failed(error.failure);
        let (reason, cause, url) = (error.failure.label(), &error.cause, &self.options.url);
        if self.failures.allow() {
            tracing::warn!(reason, "the upstream {url} failed: {cause}");
        } else {
            tracing::debug!(reason, "the upstream {url} failed: {cause}");
        }
        if error.failure == Failure::Timeout { Refusal::GatewayTimeout } else { Refusal::BadGateway }
    }

    /// Adds the headers that name the client and its token.
    fn state_origin(&self, plan: &mut Plan, peer: &Peer, token: Option<&Principal>) -> Result<(), Problem> {
        let headers = &mut plan.headers;
        if let Some(token) = token {
            // The token may be deleted since authentication.
            let name = self.authority.token_name(token.id)?.ok_or(Problem::InvalidToken)?;
            // Percent-encoded text is ASCII.
            let name = HeaderValue::from_str(&percent::encode(&name)).map_err(|_| Problem::Internal)?;
            headers.insert(TOKEN_ID, HeaderValue::from(token.id));
            headers.insert(TOKEN_NAME, name);
        }
        let ip = HeaderValue::from_str(&peer.client_ip()).map_err(|_| Problem::Internal)?;
        let is_tls = matches!(peer, Peer::Tcp { tls: Some(_), .. });
        headers.insert("x-forwarded-for", ip.clone());
        headers.insert("x-real-ip", ip);
        headers.insert("x-forwarded-proto", HeaderValue::from_static(if is_tls { "https" } else { "http" }));
        headers.insert("x-forwarded-host", plan.host.text.clone());
        if let Some(token) = &self.options.token {
            headers.insert(AUTHORIZATION, token.header());
        }
        Ok(())
    }
}

/// Returns the HTTP versions that a request may have at the upstream.
fn versions(options: &UpstreamOptions, is_grpc: bool) -> Versions {
    match options.version {
        HttpVersion::Auto if is_grpc => Versions::Http2,
        HttpVersion::Auto if options.url.is_https() => Versions::Any,
        HttpVersion::Auto | HttpVersion::Http1 => Versions::Http1,
        HttpVersion::Http2 => Versions::Http2,
    }
}

/// Returns the response that changes the protocol. Bytes pass through after it.
fn switch_protocols(
    headers: HeaderMap,
    upstream: OnUpgrade,
    exchange: Arc<Exchange>,
    (client, connection): (OnUpgrade, &ConnectionHandle),
) -> Response {
    let mut response = Response::new(ResponseBody::unframed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers::clean_response(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // Silence of both sides is the fault of neither.
    exchange.awaits_client.store(true, Ordering::Relaxed);
    connection.set_tunnel(Box::pin(async move {
        upgrade::tunnel(client, upstream, &exchange).await;
        exchange.finish(End::Complete);
    }));
    response
}

fn state_response_length(headers: &mut HeaderMap, body: &Incoming) {
    match body.size_hint().exact() {
        Some(length) if headers.contains_key(CONTENT_LENGTH) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        _ => {
            headers.remove(CONTENT_LENGTH);
        }
    }
}
