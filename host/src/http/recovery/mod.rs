//! The recovery listener: replaces the operator token once, without a credential
//! (docs/compatibility.md 5.5, docs/design.md 5.3).
//!
//! A client that succeeds becomes the operator. So every request first passes [`request_origin`],
//! there is one path and no CORS header, and the first success closes recovery. There can be two
//! listeners, TCP and Unix. They open together and close with the success; wrong codes close only
//! the listener that receives them.

pub(crate) mod code;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, HeaderValue};
use hyper::{HeaderMap, Method};
use optoken_protocol::headers::RECOVERY_CODE;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::api::issued_token;
use crate::http::recovery::code::{CodeAttempts, CodeCheck, RecoveryCode};
use crate::http::refusal::{Client, Reason, Refusals, Refused, RequestText};
use crate::http::{OTHER_PATH, body, problem, request_origin};
use crate::metrics::Metrics;
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode};
use crate::server::message::{Answer, Request, Response};
use crate::server::serve::Service;
use crate::token::IssuedToken;

/// The limits of connections. Any local process can connect, and must not keep the operator from
/// doing so. A connection therefore serves one request, and is evictable until the attempt begins.
pub(crate) const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits {
    max_used: 0,
    max_unused: 8,
    evictable_after: Duration::from_millis(250),
    idle_timeout: Duration::from_secs(5),
    shutdown_timeout: Duration::from_secs(5),
    mode: ConnectionMode::SingleRequest,
};

/// How many bytes a body may have. It is ignored, and clients send at most an empty object.
const MAX_BODY_BYTES: usize = 1 << 10;

/// Token recovery, which all its listeners share.
pub(crate) struct Recovery {
    authority: AsyncAuthority,
    metrics: Arc<Metrics>,
    /// The code that a request must present, if there is one.
    code: Option<Arc<RecoveryCode>>,
    /// Held during an attempt, so that of two simultaneous ones at most one succeeds.
    attempt_lock: Arc<Mutex<()>>,
    /// Cancelled when recovery is closed. No attempt succeeds afterwards.
    closed: CancellationToken,
}

/// The service of one recovery listener.
struct RecoveryListener {
    recovery: Arc<Recovery>,
    attempts: Option<CodeAttempts>,
    /// Cancelled when this listener is closed, with recovery or before.
    closed: CancellationToken,
    refusals: Refusals,
}

impl Recovery {
    /// Opens token recovery. It cancels `closed` after its success. Once `closed` is cancelled,
    /// here or by the caller, no attempt succeeds.
    pub(crate) fn new(
        authority: Authority,
        metrics: Arc<Metrics>,
        code: Option<RecoveryCode>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        let (authority, code) = (authority.into_async(), code.map(Arc::new));
        Arc::new(Self { authority, metrics, code, attempt_lock: Arc::default(), closed })
    }

    /// Returns the service of a listener. It cancels `closed` after too many wrong codes.
    pub(crate) fn listener(self: &Arc<Self>, closed: CancellationToken) -> Arc<impl Service> {
        Arc::new(RecoveryListener {
            recovery: Arc::clone(self),
            attempts: self.code.clone().map(CodeAttempts::new),
            closed,
            refusals: Refusals::new(Arc::clone(&self.metrics)),
        })
    }
}

impl Service for RecoveryListener {
    fn call(self: &Arc<Self>, request: Request, connection: &ConnectionHandle) -> Answer {
        let path = if request.uri().path() == paths::REGENERATE { paths::REGENERATE } else { OTHER_PATH };
        let (listener, connection) = (Arc::clone(self), connection.clone());
        Answer::later(async move {
            let response = Arc::clone(&listener)
                .handle(request, connection)
                .await
                .unwrap_or_else(|problem| problem::response(&problem));
            listener.recovery.metrics.http_response("recovery", path, response.status().as_u16());
            response
        })
    }

    fn reject(&self, reason: &'static str, connection: &ConnectionHandle) -> Response {
        self.refusals.malformed(reason, connection.peer());
        let response = problem::malformed_request(reason);
        self.recovery.metrics.http_response("recovery", OTHER_PATH, response.status().as_u16());
        response
    }
}

impl RecoveryListener {
    async fn handle(
        self: Arc<Self>,
        request: Request,
        connection: ConnectionHandle,
    ) -> Result<Response, Problem> {
        // Before the path, so that a rejected client does not learn which paths exist.
        let client = Client::new(connection.peer().clone(), request.headers());
        request_origin::check_recovery_request(&request, connection.peer()).inspect_err(|rejection| {
            rejection.report(Refused::Recovery, &request, &client, &self.refusals);
        })?;
        let not_found = Problem::RecoveryPathNotFound;
        if request.uri().path() != paths::REGENERATE {
            return Err(not_found);
        }
        if request.method() != Method::POST {
            let mut response = problem::response(&not_found);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return Ok(response);
        }
        self.recover(request, client, connection).await
    }

    async fn recover(
        self: Arc<Self>,
        request: Request,
        client: Client,
        connection: ConnectionHandle,
    ) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        body::discard_up_to(body, MAX_BODY_BYTES).await?;
        // A client that disconnects while it waits here has made no attempt.
        let attempt = Arc::clone(&self.recovery.attempt_lock).lock_owned().await;
        let in_flight = connection.begin_request().ok_or(Problem::Unavailable)?;
        // In a separate task: if the client disconnects now, the attempt still completes, and
        // closes recovery.
        let task = tokio::spawn(async move {
            let issued = self.regenerate(&head.headers, &client).await;
            drop((attempt, in_flight));
            issued
        });
        Ok(issued_token::created_response(&task.await.map_err(|_| Problem::UnknownOutcomeRetryable)??))
    }

    /// Replaces the operator token. The caller holds the attempt lock.
    async fn regenerate(&self, headers: &HeaderMap, client: &Client) -> Result<IssuedToken, Problem> {
        if self.closed.is_cancelled() || self.recovery.closed.is_cancelled() {
            return Err(Problem::RecoveryClosed);
        }
        self.check_code(headers, client)?;
        let peer = &client.peer;
        let origin = format!("recovery {peer}");
        let issued = self.recovery.authority.run(move |authority| authority.recover(&origin)).await;
        let issued = issued.inspect_err(|error| self.refusals.command(client, error));
        // Recovery stays open, so doing it again has a token in every case.
        let issued = issued.map_err(|error| problem::repeatable(error.into()))?;
        self.recovery.closed.cancel();
        tracing::info!(token_id = issued.info.id, %peer, "operator token regenerated through token recovery");
        Ok(issued)
    }

    fn check_code(&self, headers: &HeaderMap, client: &Client) -> Result<(), Problem> {
        let Some(attempts) = &self.attempts else {
            return Ok(());
        };
        let mut presented = headers.get_all(RECOVERY_CODE).iter();
        let check = match (presented.next(), presented.next()) {
            (None, _) => {
                let reason = Reason { label: "missing_code", cause: "there is no recovery code" };
                self.refusals.report(Refused::Recovery, client, &reason, RequestText::None);
                return Err(Problem::MissingRecoveryCode);
            }
            (Some(presented), None) => attempts.verify(presented.as_bytes()),
            // One request is one attempt.
            (Some(_), Some(_)) => attempts.verify(b""),
        };
        let CodeCheck::Wrong(left) = check else {
            return Ok(());
        };
        let cause = format!("wrong recovery code, attempts left: {left}");
        let reason = Reason { label: "wrong_code", cause: &cause };
        self.refusals.report(Refused::Recovery, client, &reason, RequestText::None);
        if left == 0 {
            let client_ip = client.peer.client_ip();
            tracing::warn!(
                client_ip,
                "too many wrong recovery codes, closing this listener of token recovery"
            );
            self.closed.cancel();
        }
        Err(Problem::WrongRecoveryCode(left))
    }
}
