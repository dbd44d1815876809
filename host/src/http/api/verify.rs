//! `/api/v3/verify`, and every path below it: forward authentication for a reverse proxy
//! (docs/design.md 5.2).
//!
//! For each request, the proxy sends another one with the same `Authorization` header. It decides
//! by the status alone, and most proxies turn unexpected statuses into errors of their own. So
//! there are four: 200, 401 and 403 with a challenge (RFC 6750) for the client, and 503 while
//! tokens cannot be checked. No response has a body. The body of the request is not read, because
//! some proxies announce one and do not send it.
//!
//! 403 is for a token with permissions: none of them covers the request, or `--verify-request`
//! names no place where the proxy states it with certainty.

use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use optoken_protocol::headers::{CLUSTER_UUID, TOKEN_ID, TOKEN_NAME};
use optoken_protocol::paths;
use optoken_protocol::percent;
use optoken_protocol::problem::Problem;

use crate::http::api::endpoint::{CheckedRequest, Endpoint, Handler, SuccessResponse};
use crate::http::response;
use crate::server::message::Response;
use crate::token::Principal;

/// Accepts the request. The headers identify its token, unless the server runs without
/// authentication.
fn verify(request: &CheckedRequest<'_>) -> Result<Response, Problem> {
    let mut response = response::empty(StatusCode::OK);
    let headers = response.headers_mut();
    if let Some(token) = request.token {
        if let Some(ready) = request.state.verified.get(token) {
            *headers = ready;
            return Ok(response);
        }
        *headers = headers_of(request, token.principal)?;
        request.state.verified.put(token, headers);
        return Ok(response);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Returns the headers of the response to this token, in the order in which they are sent.
fn headers_of(request: &CheckedRequest<'_>, principal: Principal) -> Result<HeaderMap, Problem> {
    // The token may be deleted since authentication.
    let name = request.read(|authority| authority.token_name(principal.id))?.ok_or(Problem::InvalidToken)?;
    // Percent-encoded text is ASCII.
    let name = HeaderValue::from_str(&percent::encode(&name)).map_err(|_| Problem::Internal)?;
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(TOKEN_ID, HeaderValue::from(principal.id));
    headers.insert(TOKEN_NAME, name);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(cluster_uuid) = &request.state.cluster_uuid {
        headers.insert(CLUSTER_UUID, cluster_uuid.clone());
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(headers)
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: None,
        path: paths::VERIFY,
        handler: Handler::Now(verify),
        name: "Verify",
        summary: "Check the token in the Authorization header for a proxy, and identify it; a token with permissions is \
                  checked against the request that --verify-request finds. With any method, and with any body, which is \
                  not read",
        parameters: vec![],
        body: None,
        success: SuccessResponse {
            status: StatusCode::OK,
            headers: vec!["cache-control", TOKEN_ID, TOKEN_NAME],
            content: vec![],
        },
        problems: vec![],
    }]
}
