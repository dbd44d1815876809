//! The recovery listener: one path, no credential, one success (COMPAT 5.5, DESIGN section 5).
//!
//! Whoever reaches it becomes the operator, so it answers nothing else, lets no web page read its answers, and is closed
//! for good by its first success.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::body;
use super::listen::Peer;
use super::problem::Problem;
use super::{OTHER_PATH, REGENERATE_PATH};
use crate::authority::Authority;
use crate::token::IssuedToken;

/// The most connections that are open at a time: one is enough, and a few that were left open must not block it.
pub(crate) const MAX_CONNECTIONS: usize = 8;

/// A door that opens once.
#[derive(Clone)]
struct Door {
    authority: Authority,
    /// Whether it has opened. Held while it is tried, so that of two who try at once only one gets through.
    spent: Arc<Mutex<bool>>,
    closed: CancellationToken,
}

/// All that the recovery listener answers. Cancels `closed` after its one success.
pub(crate) fn router(authority: Authority, closed: CancellationToken) -> Router {
    let counting = authority.clone();
    let count = middleware::from_fn(move |request: Request, next: Next| {
        let authority = counting.clone();
        async move {
            let path = if request.uri().path() == REGENERATE_PATH { REGENERATE_PATH } else { OTHER_PATH };
            let answer = next.run(request).await;
            authority.metrics().answered("recovery", path, answer.status().as_u16());
            answer
        }
    });
    Router::new()
        .route(REGENERATE_PATH, post(recover))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_path)
        .layer(count)
        .with_state(Door { authority, spent: Arc::default(), closed })
}

async fn recover(
    State(door): State<Door>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Result<IssuedToken, Problem> {
    body::discard(request.into_body()).await?;
    let Door { authority, spent, closed } = door;
    // In a task of its own: a client that goes away in the middle must not leave a door that has opened unspent.
    let opening = tokio::spawn(async move {
        let mut spent = spent.lock().await;
        if *spent {
            return Err(Problem::RecoverySpent);
        }
        let issued = tokio::task::spawn_blocking(move || authority.recover(&origin(peer)));
        // A thread that panics has gone nobody knows how far.
        let issued = issued.await.map_err(|_| Problem::UnknownOutcome)??;
        *spent = true;
        closed.cancel();
        tracing::info!(token_id = issued.info.id, %peer, "operator token regenerated through token recovery");
        Ok(issued)
    });
    opening.await.map_err(|_| Problem::UnknownOutcome)?
}

async fn no_such_path() -> Response {
    // Lower case, unlike on the main listener.
    Problem::NoSuchPath("not found").into_response()
}

fn origin(peer: SocketAddr) -> String {
    format!("recovery {peer}")
}
