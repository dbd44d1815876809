//! The responses of this server to requests that it does not pass on, or whose upstream fails: as
//! HTTP, and as gRPC to its clients, which read no other.

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use optoken_protocol::media_type::TEXT;
use optoken_protocol::percent;
use optoken_protocol::problem::{MISSING_PERMISSION, Problem};

use crate::http::problem;
use crate::http::response;
use crate::server::body::ResponseBody;
use crate::server::message::Response;

/// Why a request is not passed on, or has no response of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As for a request to this server.
    Problem(Problem),
    /// The token is accepted, and lacks the permission, for this reason.
    MissingPermission(&'static str),
    /// The method is not for a server behind another one.
    Method,
    /// The upstream cannot be reached, or does not speak HTTP.
    BadGateway,
    /// The upstream has not answered in time.
    GatewayTimeout,
    /// The client has not sent its request in time.
    RequestTimeout,
    /// The client has sent a malformed body.
    BadBody,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Problem(problem) => problem::status(problem),
            Self::MissingPermission(_) => problem::status(&Problem::MissingPermission),
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BadBody => StatusCode::BAD_REQUEST,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Problem(problem) => problem.text().into_owned(),
            Self::MissingPermission(reason) => format!("{MISSING_PERMISSION}: {reason}"),
            Self::Method => "this server passes no request of this method on".to_owned(),
            Self::BadGateway => "the upstream of this server cannot be reached, try again later".to_owned(),
            Self::GatewayTimeout => {
                "the upstream of this server has not answered in time, try again later".to_owned()
            }
            Self::RequestTimeout => "the request did not arrive in time".to_owned(),
            Self::BadBody => "the body of the request is malformed".to_owned(),
        }
    }

    /// The status of gRPC: `google.rpc.Code`.
    fn grpc_status(&self) -> u16 {
        match self.status() {
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_IMPLEMENTED => 12,
            StatusCode::REQUEST_TIMEOUT => 4,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => 14,
            StatusCode::PAYLOAD_TOO_LARGE => 8,
            // Without a credential that can be read.
            StatusCode::BAD_REQUEST if matches!(self, Self::Problem(Problem::MalformedCredential)) => 16,
            StatusCode::BAD_REQUEST => 3,
            _ => 13,
        }
    }

    /// Returns the response, in the form that the client reads. The scheme Basic is offered to
    /// programs alone.
    pub(crate) fn response(&self, is_grpc: bool, offers_basic: bool) -> Response {
        if is_grpc { self.as_grpc() } else { self.as_http(offers_basic) }
    }

    /// The status stands in the head, and there is no message and no trailer.
    fn as_grpc(&self) -> Response {
        let mut response = Response::new(ResponseBody::unframed());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(self.grpc_status()));
        // Percent-encoded text is ASCII.
        if let Ok(message) = HeaderValue::from_str(&percent::encode(&self.text())) {
            headers.insert("grpc-message", message);
        }
        response
    }

    fn as_http(&self, offers_basic: bool) -> Response {
        match self {
            Self::Problem(problem) => return problem::response_to(problem, offers_basic),
            Self::MissingPermission(_) => {
                let mut response = problem::response_to(&Problem::MissingPermission, offers_basic);
                // The reason is a text of this program, without a quote.
                *response.body_mut() = format!(r#"{{"error": "{}"}}"#, self.text()).into();
                return response;
            }
            _ => {}
        }
        let mut response = response::content(TEXT, self.text());
        *response.status_mut() = self.status();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::RequestTimeout | Self::BadBody) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Returns whether a request is one of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let prefix = value.as_bytes().get(..b"application/grpc".len());
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"application/grpc"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_a_status_of_each_protocol() {
        for (refusal, http, grpc) in [
            (Problem::MissingCredential.into(), 401, "16"),
            (Problem::InvalidToken.into(), 401, "16"),
            (Problem::MalformedCredential.into(), 400, "16"),
            (Refusal::MissingPermission("there is none"), 403, "7"),
            (Problem::Unavailable.into(), 503, "14"),
            (Refusal::BadGateway, 502, "14"),
            (Refusal::GatewayTimeout, 504, "14"),
            (Refusal::Method, 501, "12"),
            (Refusal::RequestTimeout, 408, "4"),
        ] {
            assert_eq!(refusal.response(false, false).status().as_u16(), http, "{refusal:?}");
            let response = refusal.response(true, false);
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "application/grpc");
            assert_eq!(response.headers()["grpc-status"], grpc, "{refusal:?}");
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(!message.is_empty() && !message.contains(' '), "{message}");
        }
        let refused = Refusal::MissingPermission("there is none").response(false, true);
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("insufficient_scope"), "{challenge}");
    }

    #[test]
    fn grpc_is_recognised_by_its_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC-web", true),
            ("application/json", false),
            ("text/application/grpc", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
