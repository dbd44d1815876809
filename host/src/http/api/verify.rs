//! Forward authentication: a proxy asks about every request, with the `Authorization` header of that request, whether it may
//! pass (DESIGN section 5).
//!
//! Proxies decide by the status alone, and make an error of their own of most. So there are three: 200, 401 with a
//! challenge (RFC 6750) that the proxy hands to the client, and 503 while tokens cannot be checked. There is never a body,
//! and the one of the request, which some proxies announce and do not send, is not read.

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use optoken_protocol::headers::{TOKEN_ID, TOKEN_NAME};
use optoken_protocol::paths;
use optoken_protocol::percent;
use optoken_protocol::problem::Problem;

use crate::http::api::endpoint::{ApiRequest, Endpoint, SuccessResponse};
use crate::http::response;
use crate::server::serve::Response;

/// Lets a request pass that got here. Whose it is stands beside, unless the server was started without authentication.
fn verify(request: &ApiRequest) -> Result<Response, Problem> {
    let mut response = response::empty(StatusCode::OK);
    let headers = response.headers_mut();
    if let Some(principal) = request.principal {
        // It may have been deleted since it was accepted.
        let name = request
            .state
            .read(|authority| authority.token_name(principal.id))?
            .ok_or(Problem::InvalidToken)?;
        // What is percent-encoded is ASCII.
        let name = HeaderValue::from_str(&percent::encode(&name)).map_err(|_| Problem::Internal)?;
        headers.insert(TOKEN_ID, HeaderValue::from(principal.id));
        headers.insert(TOKEN_NAME, name);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What the main listener answers about it.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: None,
        path: paths::VERIFY,
        handler: |request| Box::pin(async move { verify(&request) }),
        name: "Verify",
        summary: "Tell a proxy whether a request with this Authorization header may pass, and whose it is; with any method, and \
                      with any body, which is not read",
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
