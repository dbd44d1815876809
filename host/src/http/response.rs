//! Complete responses, as the listeners make them.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use optoken_protocol::media_type::{JSON, TEXT};
use optoken_protocol::problem::Problem;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::server::serve::Response;

/// Without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// A success with this body.
pub(crate) fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A success with a body of plain text.
pub(crate) fn text(body: &'static str) -> Response {
    content(TEXT, body)
}

/// A success with a body of JSON.
pub(crate) fn json(body: &impl Serialize) -> Result<Response, Problem> {
    // Nothing that is answered here can fail to be JSON.
    Ok(content(JSON, serde_json::to_vec(body).map_err(|_| Problem::Internal)?))
}

/// The answer to a request that has made a token: JSON with its secret, which is wiped once it is sent.
pub(crate) fn secret(json: Zeroizing<Vec<u8>>) -> Response {
    let mut response = content(JSON, Bytes::from_owner(json));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
