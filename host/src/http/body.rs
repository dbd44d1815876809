//! Reads request bodies, within limits of size and time. Both listeners do.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time;

use super::problem::Problem;

/// The most bytes the body of a token command may have. No command takes more than a few hundred.
const MAX_BODY_BYTES: usize = 64 << 10;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a body that means nothing here, so that the client gets to read the answer; not if it is too large.
pub(super) async fn discard(body: Body) -> Result<(), Problem> {
    let too_large = || Problem::BodyTooLarge(MAX_BODY_BYTES);
    if http_body::Body::size_hint(&body).lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let read = async {
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| {
                if error.is::<LengthLimitError>() { too_large() } else { Problem::BodyUnreadable }
            })?;
        }
        Ok(())
    };
    time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(Problem::BodyUnreadable))
}
