//! The recovery listener: one path, no credential, one success (COMPAT 5.5, DESIGN section 5).
//!
//! Whoever gets through becomes the operator, so it hears nobody whom [`door`] turns away, answers nothing else, lets no web
//! page read its answers, and is closed for good by its first success. It may have two doors, an address and a socket;
//! what closes one closes both.

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
use crate::http::api::state::log_command_error;
use crate::http::recovery::code::{CodeCheck, RecoveryCode};
use crate::http::{OTHER_PATH, body, problem, request_origin};
use crate::metrics::Metrics;
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode};
use crate::server::log_throttle::LogThrottle;
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response, Service};
use crate::token::IssuedToken;

/// How clients are treated. Every program of the machine can come, and come again, and must not keep the owner out: one place
/// is enough for him, and whoever takes it has one request and little time, until the door begins to open for him.
pub(crate) const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 8,
    evictable_after: Duration::from_millis(250),
    idle_timeout: Duration::from_secs(5),
    mode: ConnectionMode::SingleRequest,
};

/// The most bytes a body may have: it means nothing, and clients send an empty object at most.
const MAX_BODY_BYTES: usize = 1 << 10;

/// A door that opens once.
struct RecoveryListener {
    authority: AsyncAuthority,
    metrics: Arc<Metrics>,
    /// Asked for where there is one.
    code: Option<RecoveryCode>,
    /// Held while it is tried, so that of two who try at once only one gets through.
    attempt_lock: Arc<Mutex<()>>,
    closed: CancellationToken,
    /// Those who may not come in.
    throttle: LogThrottle,
}

/// All that the recovery listener answers. Cancels `closed` after its one success, and after too many wrong codes; once
/// that is cancelled, by whomever, nobody gets through.
pub(crate) fn service(
    authority: Authority,
    metrics: Arc<Metrics>,
    code: Option<RecoveryCode>,
    closed: CancellationToken,
) -> Arc<impl Service> {
    Arc::new(RecoveryListener {
        authority: authority.into_async(),
        metrics,
        code,
        attempt_lock: Arc::default(),
        closed,
        throttle: LogThrottle::default(),
    })
}

impl Service for RecoveryListener {
    async fn call(self: Arc<Self>, request: Request, connection: ConnectionHandle) -> Response {
        let path = if request.uri().path() == paths::REGENERATE { paths::REGENERATE } else { OTHER_PATH };
        let response = Arc::clone(&self)
            .handle(request, connection)
            .await
            .unwrap_or_else(|problem| problem::response(&problem));
        self.metrics.http_response("recovery", path, response.status().as_u16());
        response
    }
}

impl RecoveryListener {
    async fn handle(
        self: Arc<Self>,
        request: Request,
        connection: ConnectionHandle,
    ) -> Result<Response, Problem> {
        // Before the path: who may not come in is not told either what there is.
        request_origin::check_recovery_request(&request, connection.peer()).inspect_err(|rejection| {
            rejection.log("token recovery", &request, connection.peer(), &self.throttle);
        })?;
        // Lower case, unlike on the main listener.
        let not_found = Problem::RecoveryPathNotFound;
        if request.uri().path() != paths::REGENERATE {
            return Err(not_found);
        }
        if request.method() != Method::POST {
            let mut response = problem::response(&not_found);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return Ok(response);
        }
        self.recover(request, connection).await
    }

    async fn recover(
        self: Arc<Self>,
        request: Request,
        connection: ConnectionHandle,
    ) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        body::discard_up_to(body, MAX_BODY_BYTES).await?;
        // Whoever goes away while he waits for his permit has not tried.
        let attempt = Arc::clone(&self.attempt_lock).lock_owned().await;
        let in_flight = connection.begin_request().ok_or(Problem::Unavailable)?;
        // In a task of its own: a client that goes away in the middle must not leave a door that has opened unspent.
        let task = tokio::spawn(async move {
            let issued = self.regenerate(&head.headers, connection.peer()).await;
            drop((attempt, in_flight));
            issued
        });
        Ok(issued_token::created_response(&task.await.map_err(|_| problem::unknown_outcome())??))
    }

    /// Whoever calls this has the permit.
    async fn regenerate(&self, headers: &HeaderMap, peer: &Peer) -> Result<IssuedToken, Problem> {
        if self.closed.is_cancelled() {
            return Err(Problem::RecoveryClosed);
        }
        self.check_code(headers, peer)?;
        let origin = format!("recovery {peer}");
        let issued = self.authority.run(move |authority| authority.recover(&origin)).await;
        let issued = issued.inspect_err(log_command_error)?;
        self.closed.cancel();
        tracing::info!(token_id = issued.info.id, %peer, "operator token regenerated through token recovery");
        Ok(issued)
    }

    fn check_code(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Problem> {
        let Some(code) = &self.code else {
            return Ok(());
        };
        let mut presented = headers.get_all(RECOVERY_CODE).iter();
        let check = match (presented.next(), presented.next()) {
            (None, _) => return Err(Problem::MissingRecoveryCode),
            (Some(presented), None) => code.verify(presented.as_bytes()),
            // Not several tries in one.
            (Some(_), Some(_)) => code.verify(b""),
        };
        let CodeCheck::Wrong(left) = check else {
            return Ok(());
        };
        tracing::warn!(%peer, left, "token recovery refused: wrong recovery code");
        if left == 0 {
            tracing::warn!("too many wrong recovery codes, closing token recovery");
            self.closed.cancel();
        }
        Err(Problem::WrongRecoveryCode(left))
    }
}
