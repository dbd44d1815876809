//! The main listener: the token API behind authentication (COMPAT 2.1 and 2.2).
//!
//! A request is judged in a fixed order: credential, path, body. Only then does it reach the authority.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::body;
use super::listen::Peer;
use super::problem::Problem;
use super::{CREATE_PATH, REGENERATE_PATH, credentials};
use crate::authority::Authority;
use crate::secret::Secret;
use crate::token::{CommandError, IssuedToken};

/// The most connections that are open at a time: as many as file descriptors mostly are, where nobody raised that.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// How many commands block a thread at a time. They take turns at the store anyway; more would only wait there.
const MAX_COMMANDS: usize = 4;

#[derive(Clone)]
struct Served {
    authority: Authority,
    commands: Arc<Semaphore>,
}

/// All that the main listener answers.
pub(crate) fn router(authority: Authority) -> Router {
    let served = Served { authority, commands: Arc::new(Semaphore::new(MAX_COMMANDS)) };
    Router::new()
        .route(CREATE_PATH, post(create_operator))
        .route(REGENERATE_PATH, post(regenerate))
        .route("/health", get(health))
        .route("/api/v1/health", get(health))
        // A wrong method is no path either (COMPAT 2.2).
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_path)
        .layer(middleware::from_fn_with_state(served.clone(), authenticate))
        .with_state(served)
}

/// Lets only requests with an accepted token pass, and the one that makes the first token.
async fn authenticate(
    State(served): State<Served>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    // For every method, and without a look at the header (COMPAT 2.2, 2.3).
    if request.uri().path() != CREATE_PATH {
        let credential = credentials::take(request.headers_mut())?.ok_or(Problem::NoCredential)?;
        served.authority.authenticate(credential.expose())?;
        request.extensions_mut().insert(credential);
    }
    Ok(next.run(request).await)
}

async fn create_operator(
    State(served): State<Served>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<IssuedToken, Problem> {
    body::discard(request.into_body()).await?;
    command(&served, move |authority| authority.create_operator(&origin(peer))).await
}

async fn regenerate(
    State(served): State<Served>,
    Extension(peer): Extension<Peer>,
    Extension(credential): Extension<Secret>,
    request: Request,
) -> Result<IssuedToken, Problem> {
    body::discard(request.into_body()).await?;
    command(&served, move |authority| authority.regenerate(&credential, &origin(peer))).await
}

async fn health() -> &'static str {
    "OK"
}

async fn no_such_path() -> Response {
    Problem::NoSuchPath("Not found").into_response()
}

/// Carries out a command on a thread that may block. Once begun it is finished and published, also if the client
/// goes away meanwhile.
async fn command(
    served: &Served,
    run: impl FnOnce(&Authority) -> Result<IssuedToken, CommandError> + Send + 'static,
) -> Result<IssuedToken, Problem> {
    // The semaphore is never closed.
    let turn = Arc::clone(&served.commands).acquire_owned().await.map_err(|_| Problem::Unavailable)?;
    let authority = served.authority.clone();
    let issued = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        run(&authority)
    });
    // A thread that panics has gone nobody knows how far.
    Ok(issued.await.map_err(|_| Problem::UnknownOutcome)??)
}

fn origin(Peer(address): Peer) -> String {
    format!("http {address}")
}
