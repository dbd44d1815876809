//! The recovery listener: one path, no credential, one success (COMPAT 5.5, DESIGN section 5).
//!
//! Whoever gets through becomes the operator, so it hears nobody whom [`door`] turns away, answers nothing else, lets no web
//! page read its answers, and is closed for good by its first success. It may have two doors, an address and a socket;
//! what closes one closes both.

pub(crate) mod code;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::problem::Problem;
use crate::http::recovery::code::{RecoveryCode, Verdict};
use crate::http::request_origin;
use crate::http::{OTHER_PATH, RECOVERY_CODE_HEADER, REGENERATE_PATH, body};
use crate::metrics::Metrics;
use crate::server::connections::{Service, Terms, Visit};
use crate::server::log_throttle::Complaints;
use crate::server::peer::Peer;
use crate::token::IssuedToken;

/// How clients are treated. Every program of the machine can come, and come again, and must not keep the owner out: one place
/// is enough for him, and whoever takes it has one request and little time, until the door begins to open for him.
pub(crate) const TERMS: Terms = Terms {
    places: 8,
    grace: Duration::from_millis(250),
    patience: Duration::from_secs(5),
    service: Service::Brief,
};

/// The most bytes a body may have: it means nothing, and clients send an empty object at most.
const MAX_BODY_BYTES: usize = 1 << 10;

/// A door that opens once.
#[derive(Clone)]
struct Door {
    authority: AsyncAuthority,
    /// Asked for where there is one.
    code: Option<Arc<RecoveryCode>>,
    /// Held while it is tried, so that of two who try at once only one gets through.
    turn: Arc<Mutex<()>>,
    closed: CancellationToken,
}

/// All that the recovery listener answers. Cancels `closed` after its one success, and after too many wrong codes; once
/// that is cancelled, by whomever, nobody gets through.
pub(crate) fn router(
    authority: Authority,
    metrics: Arc<Metrics>,
    code: Option<RecoveryCode>,
    closed: CancellationToken,
) -> Router {
    let count = middleware::from_fn(move |request: Request, next: Next| {
        let metrics = Arc::clone(&metrics);
        async move {
            let path = if request.uri().path() == REGENERATE_PATH { REGENERATE_PATH } else { OTHER_PATH };
            let answer = next.run(request).await;
            metrics.answered("recovery", path, answer.status().as_u16());
            answer
        }
    });
    Router::new()
        .route(REGENERATE_PATH, post(recover))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_path)
        // Before the path: who may not come in is not told either what there is.
        .layer(middleware::from_fn_with_state(Arc::<Complaints>::default(), admit))
        .layer(count)
        .with_state(Door {
            authority: authority.into_async(),
            code: code.map(Arc::new),
            turn: Arc::default(),
            closed,
        })
}

async fn admit(
    State(refusals): State<Arc<Complaints>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    request_origin::judge_recovery(&request, &peer).map_err(|refusal| {
        refusal.log("token recovery", &request, &peer, &refusals);
        Problem::Unwelcome(refusal)
    })?;
    Ok(next.run(request).await)
}

async fn recover(
    State(door): State<Door>,
    Extension(peer): Extension<Peer>,
    Extension(visit): Extension<Visit>,
    request: Request,
) -> Result<IssuedToken, Problem> {
    let (head, body) = request.into_parts();
    body::discard_up_to(body, MAX_BODY_BYTES).await?;
    // Whoever goes away while he waits for his turn has not tried.
    let turn = Arc::clone(&door.turn).lock_owned().await;
    let attended = visit.begin().ok_or(Problem::Unavailable)?;
    // In a task of its own: a client that goes away in the middle must not leave a door that has opened unspent.
    let opening = tokio::spawn(async move {
        let opened = door.open(&head.headers, &peer).await;
        drop((turn, attended));
        opened
    });
    opening.await.map_err(|_| Problem::UnknownOutcome)?
}

impl Door {
    /// Whoever calls this has the turn.
    async fn open(self, headers: &HeaderMap, peer: &Peer) -> Result<IssuedToken, Problem> {
        if self.closed.is_cancelled() {
            return Err(Problem::RecoveryClosed);
        }
        self.check_code(headers, peer)?;
        let origin = format!("recovery {peer}");
        let issued = self.authority.run(move |authority| authority.recover(&origin)).await?;
        self.closed.cancel();
        tracing::info!(token_id = issued.info.id, %peer, "operator token regenerated through token recovery");
        Ok(issued)
    }

    fn check_code(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Problem> {
        let Some(code) = &self.code else {
            return Ok(());
        };
        let mut presented = headers.get_all(RECOVERY_CODE_HEADER).iter();
        let verdict = match (presented.next(), presented.next()) {
            (None, _) => return Err(Problem::NoRecoveryCode),
            (Some(presented), None) => code.judge(presented.as_bytes()),
            // Not several tries in one.
            (Some(_), Some(_)) => code.judge(b""),
        };
        let Verdict::Wrong(left) = verdict else {
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

async fn no_such_path() -> Response {
    // Lower case, unlike on the main listener.
    Problem::NoSuchPath("not found").into_response()
}
