//! Forward authentication: a proxy asks about every request, with the `Authorization` header of that request, whether it may
//! pass (DESIGN section 5).
//!
//! Proxies decide by the status alone, and make an error of their own of most. So there are three: 200, 401 with a
//! challenge (RFC 6750) that the proxy hands to the client, and 503 while tokens cannot be checked. There is never a body,
//! and the one of the request, which some proxies announce and do not send, is not read.

use std::fmt::Write as _;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};

use crate::http::api::endpoint::{Call, Endpoint, Success};
use crate::http::problem::Problem;
use crate::http::{VERIFY_PATH, response};
use crate::server::serve::Response;

/// The id of the token, in decimal.
pub(crate) const TOKEN_ID_HEADER: &str = "x-auth-token-id";
/// The name of the token, percent-encoded.
pub(crate) const TOKEN_NAME_HEADER: &str = "x-auth-token-name";

/// Lets a request pass that got here. Whose it is stands beside, unless the server was started without authentication.
fn verify(call: &Call) -> Result<Response, Problem> {
    let mut response = response::empty(StatusCode::OK);
    let headers = response.headers_mut();
    if let Some(principal) = call.principal {
        // It may have been deleted since it was accepted.
        let name =
            call.state.read(|authority| authority.token_name(principal.id))?.ok_or(Problem::InvalidToken)?;
        // What is percent-encoded is ASCII.
        let name = HeaderValue::from_str(&percent_encoded(&name)).map_err(|_| Problem::Internal)?;
        headers.insert(TOKEN_ID_HEADER, HeaderValue::from(principal.id));
        headers.insert(TOKEN_NAME_HEADER, name);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// As a component of a URL: all but the unreserved characters of RFC 3986 section 2.3. A header can carry no other text than
/// ASCII, and all languages can decode this.
fn percent_encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Nothing can go wrong in writing to a string.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// What the main listener answers about it.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: None,
        path: VERIFY_PATH,
        handler: |call| Box::pin(async move { verify(&call) }),
        name: "Verify",
        summary: "Tell a proxy whether a request with this Authorization header may pass, and whose it is; with any method, and \
                      with any body, which is not read",
        parameters: vec![],
        body: None,
        success: Success {
            status: StatusCode::OK,
            headers: vec!["cache-control", TOKEN_ID_HEADER, TOKEN_NAME_HEADER],
            content: vec![],
        },
        problems: vec![],
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_percent_encoded() {
        for (name, encoded) in [
            ("_admin", "_admin"),
            ("a-Z.0~", "a-Z.0~"),
            ("two words", "two%20words"),
            ("50%", "50%25"),
            ("a+b,c=d;\"e\"", "a%2Bb%2Cc%3Dd%3B%22e%22"),
            ("Grüße \u{1f511}", "Gr%C3%BC%C3%9Fe%20%F0%9F%94%91"),
        ] {
            assert_eq!(percent_encoded(name), encoded);
        }
    }
}
