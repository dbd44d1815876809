//! A request as it goes to the upstream, over either version of HTTP.

use std::borrow::Cow;

use hyper::body::Body as _;
use hyper::ext::on_informational;
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TE, UPGRADE};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Uri};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use optoken_protocol::credentials::QUERY_PARAMETER_PATHS;
use optoken_protocol::host::normalize_host;
use optoken_protocol::problem::Problem;
use tokio_util::sync::CancellationToken;

use crate::http::proxy::body::RequestBody;
use crate::http::proxy::headers;
use crate::http::proxy::url::UpstreamUrl;

/// The head of a request without what is for this hop alone, and without what a client may not
/// state.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// The path, in normal form if it has one.
    pub(super) path: String,
    /// The query string without a credential.
    pub(super) query: Option<String>,
    pub(super) host: Host,
    accepts_trailers: bool,
    expects_continue: bool,
    pub(super) is_websocket: bool,
}

/// The host of a request.
#[derive(Clone)]
pub(super) struct Host {
    /// As it is passed on: in normal form, with its port, if it has one.
    pub(super) text: HeaderValue,
    /// Its normal form, without the port.
    pub(super) normal: Option<String>,
}

impl Host {
    /// Returns the host that the client names, or that of the upstream if it names none.
    fn of(parts: &Parts, url: &UpstreamUrl) -> Result<Self, Problem> {
        let authority = parts.uri.authority().map(Authority::as_str);
        let header = parts.headers.get(HOST);
        if let (Some(authority), Some(header)) = (authority, header)
            && !header.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
        {
            let text = "the request names its host more than once, with different names";
            return Err(Problem::InvalidArgument(text.to_owned()));
        }
        let named = authority.or_else(|| header.and_then(|header| header.to_str().ok()));
        let named = named.filter(|host| !host.is_empty()).unwrap_or(url.authority().as_str());
        let normal = normalize_host(named).map(Cow::into_owned).ok();
        let port = named.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
        let text = match (&normal, port.filter(|port| !port.is_empty())) {
            (Some(normal), Some(port)) => format!("{normal}:{port}"),
            (Some(normal), None) => normal.clone(),
            (None, _) => named.to_owned(),
        };
        Ok(Self { text: HeaderValue::try_from(text).map_err(|_| Problem::Internal)?, normal })
    }
}

impl Plan {
    /// Reads the head of a request. `path` is its path in normal form, if it has one.
    pub(super) fn new(
        parts: Parts,
        path: Option<&str>,
        url: &UpstreamUrl,
        is_scoped: bool,
        allows_websocket: bool,
    ) -> Result<Self, Problem> {
        if !headers::is_coding_known(&parts.headers) {
            let text = "the body has a transfer coding beside chunked";
            return Err(Problem::InvalidArgument(text.to_owned()));
        }
        let host = Host::of(&parts, url)?;
        let is_http_11 = parts.version == Version::HTTP_11;
        let path = path.unwrap_or(parts.uri.path()).to_owned();
        let query = parts.uri.query().map(Cow::from);
        let query = if QUERY_PARAMETER_PATHS.contains(&path.as_str()) {
            query.and_then(|query| headers::without_credential(&query).map(Cow::into_owned))
        } else {
            query.map(Cow::into_owned)
        };
        let (method, mut headers) = (parts.method, parts.headers);
        let is_websocket =
            allows_websocket && is_http_11 && method == Method::GET && headers::asks_for_websocket(&headers);
        let accepts_trailers = headers::remove_hop_by_hop(&mut headers);
        headers::remove_reserved(&mut headers, !is_scoped);
        headers::join_cookies(&mut headers);
        headers.remove(HOST);
        let expects_continue = removes_expectation(&mut headers) && is_http_11;
        Ok(Self { method, headers, path, query, host, accepts_trailers, expects_continue, is_websocket })
    }

    /// States the length of the body, as far as it is known.
    pub(super) fn state_length(&mut self, body: &RequestBody) {
        match body.size_hint().exact() {
            Some(length) if length > 0 || self.headers.contains_key(CONTENT_LENGTH) => {
                self.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Some(_) => {}
            None => {
                self.headers.remove(CONTENT_LENGTH);
            }
        }
    }

    /// Writes the head of a request over HTTP/1.1. A request that expects an interim response waits
    /// for it with its body.
    pub(super) fn write_http1(&self, target: &Uri, request: &mut Request<RequestBody>) {
        self.write(request, Version::HTTP_11);
        *request.uri_mut() = target.clone();
        let (is_empty, length) = (request.body().is_end_stream(), request.body().size_hint().exact());
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.text.clone());
        if self.is_websocket {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        } else if self.accepts_trailers {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if !is_empty && length.is_none() {
            headers::set_chunked(headers);
        }
        if self.expects_continue && !is_empty {
            headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
            let opened = CancellationToken::new();
            request.body_mut().hold_until(&opened);
            on_informational(request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    opened.cancel();
                }
            });
        }
    }

    /// Writes the head of a request over HTTP/2.
    pub(super) fn write_http2(&self, target: &Uri, url: &UpstreamUrl, request: &mut Request<RequestBody>) {
        self.write(request, Version::HTTP_2);
        let mut uri = target.clone().into_parts();
        uri.scheme = Some(url.scheme());
        let authority = Authority::try_from(self.host.text.as_bytes()).ok();
        uri.authority = Some(authority.unwrap_or_else(|| url.authority().clone()));
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_else(|_| target.clone());
    }

    fn write(&self, request: &mut Request<RequestBody>, version: Version) {
        *request.version_mut() = version;
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if self.accepts_trailers {
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Removes the expectation of an interim response, and returns whether there is one.
fn removes_expectation(headers: &mut HeaderMap) -> bool {
    let is_expected =
        headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_expected {
        headers.remove(EXPECT);
    }
    is_expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, host: Option<&str>) -> Parts {
        let request = Request::get(uri);
        let request = host.into_iter().fold(request, |request, host| request.header(HOST, host));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn host_is_that_of_the_client_in_normal_form() {
        let url: UpstreamUrl = "http://behind.example:8181".parse().unwrap();
        for (uri, header, text, normal) in [
            ("/", Some("Db.Example:8181"), "db.example:8181", Some("db.example")),
            ("/", Some("db.example."), "db.example", Some("db.example")),
            ("/", Some("db.example.:80"), "db.example:80", Some("db.example")),
            ("/", Some("[::1]:8181"), "[::1]:8181", Some("[::1]")),
            ("/", Some("[::1]"), "[::1]", Some("[::1]")),
            ("/", Some("a..b"), "a..b", None),
            ("/", None, "behind.example:8181", Some("behind.example")),
            ("/", Some(""), "behind.example:8181", Some("behind.example")),
            ("http://X.example/", Some("x.example"), "x.example", Some("x.example")),
            ("http://X.example/", None, "x.example", Some("x.example")),
        ] {
            let host = Host::of(&parts(uri, header), &url).unwrap();
            assert_eq!((host.text.to_str().unwrap(), host.normal.as_deref()), (text, normal), "{header:?}");
        }
        for (uri, header) in [("http://a/", "b"), ("http://a/", "a:80"), ("http://u@a/", "a")] {
            assert!(Host::of(&parts(uri, Some(header)), &url).is_err(), "{uri} {header}");
        }
    }

    #[test]
    fn credential_of_the_query_is_removed_where_it_is_read() {
        let url: UpstreamUrl = "http://x".parse().unwrap();
        for (path, expected) in [("/query", Some("db=a")), ("/write", Some("db=a")), ("/x", Some("p=b&db=a"))]
        {
            let parts = parts("/?p=b&db=a", Some("x"));
            let plan = Plan::new(parts, Some(path), &url, false, false).unwrap();
            assert_eq!(plan.query.as_deref(), expected, "{path}");
        }
    }
}
