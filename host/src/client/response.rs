//! Reads a response within limits: any server may have sent it.

use reqwest::Response;
use reqwest::header::LOCATION;
use zeroize::Zeroizing;

use crate::client::error::SendError;
use crate::client::exchange::{Operation, Reply};

/// The most bytes of a list: a catalog has at most 10,000 tokens, whose names have 128 bytes.
const MAX_LIST_BYTES: usize = 16 << 20;

/// The most bytes of any other response.
const MAX_BYTES: usize = 64 << 10;

impl Operation {
    /// Returns the most bytes of a response to it.
    fn max_response_bytes(self) -> usize {
        match self {
            // A server that cannot stage responds with a list to an authentication.
            Self::List | Self::Authenticate => MAX_LIST_BYTES,
            _ => MAX_BYTES,
        }
    }
}

/// Reads the body of a response. That of an error is cut off at the limit, because only its
/// beginning is shown.
pub(super) async fn read_body(operation: Operation, mut response: Response) -> Result<Reply, SendError> {
    let status = response.status();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let limit = if status.is_success() { operation.max_response_bytes() } else { MAX_BYTES };
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    // A buffer that grows leaves copies of a token in memory.
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(0).min(limit)));
    while let Some(chunk) = response.chunk().await.map_err(SendError::Http)? {
        let free = limit - body.len();
        if let Some(fits) = chunk.get(..free).filter(|_| chunk.len() > free) {
            if status.is_success() {
                return Err(SendError::TooLarge { limit });
            }
            body.extend_from_slice(fits);
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, location, body })
}
