//! Builds the responses of both listeners.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use optoken_protocol::media_type::{JSON, TEXT};
use optoken_protocol::problem::Problem;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::server::message::Response;

/// Returns a response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Returns a success with this body.
pub(crate) fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns a success with a body of plain text.
pub(crate) fn text(body: &'static str) -> Response {
    content(TEXT, body)
}

/// Returns a success with a body of JSON.
pub(crate) fn json(body: &impl Serialize) -> Result<Response, Problem> {
    // No type of this API fails to serialize.
    Ok(content(JSON, serde_json::to_vec(body).map_err(|_| Problem::Internal)?))
}

/// Returns the response to a request that has created a token. The JSON holds the secret of the
/// token, and is wiped after it is sent.
pub(crate) fn secret(json: Zeroizing<Vec<u8>>) -> Response {
    let mut response = content(JSON, Bytes::from_owner(json));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
