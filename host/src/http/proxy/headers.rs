//! The headers of a forwarded request and of its response (RFC 9110, section 7.6).
//!
//! What a client states about itself, its address or the original request is removed, before this
//! server states it. Headers that are for the next hop alone end here.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::{
    AUTHORIZATION, CONNECTION, COOKIE, Entry, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

/// Headers for the next hop, beside those that `Connection` names. Those of proxies go by their
/// prefix.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "http2-settings", "keep-alive", "te", "transfer-encoding", "upgrade"];

/// How the names of headers begin that only this server sets, or that could make the upstream see
/// another request. `_` counts as `-`: many servers do not distinguish them.
const RESERVED: [&str; 6] =
    ["x-auth-token-", "forwarded", "x-forwarded-", "x-real-ip", "x-original-", "x-rewrite-url"];

/// Headers that a client may send, or that end here, but not with an underscore for a hyphen.
const ALIASED: [&str; 6] =
    ["authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"];

/// How the names of headers begin that replace the method.
const OVERRIDES: [&str; 2] = ["x-http-method", "x-method-override"];

/// Returns whether a body in HTTP/1 has no coding but the one that the connection removes.
pub(super) fn is_coding_known(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(is_chunked) && codings.next().is_none()
}

/// Removes what is for this hop alone. Returns whether trailers are accepted (`TE: trailers`).
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let accepts_trailers = lists(headers, TE, "trailers");
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let listed = value.as_bytes().split(|byte| *byte == b',');
        named.extend(listed.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    for name in named {
        // The host and the length of a message are for every hop.
        if name != HOST && name != "content-length" {
            remove(headers, &name);
        }
    }
    remove_matching(headers, |name| HOP_BY_HOP.contains(&name) || name.starts_with("proxy-"));
    accepts_trailers
}

/// Removes from a response, or from its trailers, what is for the hop from the upstream alone. The
/// answer of Flight's `Handshake` has the token of its request, which is that of this server.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(AUTHORIZATION);
}

/// Removes what a client may not state: its credential, its identity and the original request.
pub(super) fn remove_reserved(headers: &mut HeaderMap, may_override_method: bool) {
    headers.remove(AUTHORIZATION);
    remove_matching(headers, |name| is_reserved(name, may_override_method));
}

fn is_reserved(name: &str, may_override_method: bool) -> bool {
    let name = if name.contains('_') { Cow::from(name.replace('_', "-")) } else { Cow::from(name) };
    // With an underscore, it reaches some services as the header of that name.
    let is_alias = matches!(&name, Cow::Owned(name) if ALIASED.contains(&name.as_str()));
    // A service that runs programs (CGI) sets the proxy of these by it.
    is_alias
        || name == "proxy"
        || RESERVED.iter().any(|prefix| name.starts_with(prefix))
        || !may_override_method && OVERRIDES.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes what may not stand in the trailers of a request: what is not allowed in its head.
pub(super) fn clean_request_trailers(trailers: &mut HeaderMap, may_override_method: bool) {
    remove_hop_by_hop(trailers);
    remove_reserved(trailers, may_override_method);
    trailers.remove(HOST);
    trailers.remove("content-length");
}

/// Joins the parts of a cookie, which HTTP/2 may divide (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut parts = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (parts.next(), parts.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for part in headers.get_all(COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(part.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Returns whether a request asks for the protocol `websocket` (RFC 6455, section 4.1).
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    lists(headers, CONNECTION, "upgrade") && lists(headers, UPGRADE, "websocket")
}

/// Returns whether a header, which is a list, has this item.
pub(super) fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|item| item.trim().eq_ignore_ascii_case(wanted))
    })
}

/// Marks a body as one of unknown length, in HTTP/1.
pub(super) fn set_chunked(headers: &mut HeaderMap) {
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

fn remove_matching(headers: &mut HeaderMap, matches: impl Fn(&str) -> bool) {
    let found: Vec<_> = headers.keys().filter(|name| matches(name.as_str())).cloned().collect();
    for name in found {
        remove(headers, &name);
    }
}

/// Removes all values of a header.
fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    if let Entry::Occupied(entry) = headers.entry(name) {
        entry.remove_entry_mult();
    }
}

/// Returns the query string without the credential of the API of InfluxDB 1: the parameters `p` and
/// `u`, in any percent-encoding.
pub(super) fn without_credential(query: &str) -> Option<Cow<'_, str>> {
    let is_credential = |part: &str| {
        let parsed = serde_urlencoded::from_str::<Vec<(String, String)>>(part).unwrap_or_default();
        parsed.iter().any(|(name, _)| name == "p" || name == "u")
    };
    if !query.split('&').any(is_credential) {
        return Some(Cow::from(query));
    }
    let rest: Vec<_> = query.split('&').filter(|part| !is_credential(part)).collect();
    if rest.is_empty() { None } else { Some(Cow::from(rest.join("&"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn headers_of_the_hop_end_here() {
        let mut sent = headers(&[
            ("connection", "close, X-Hop ,x-second"),
            ("connection", "keep-alive, host, content-length, authorization"),
            ("x-hop", "1"),
            ("x-hop", "2"),
            ("x-second", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("te", "gzip, Trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("host", "db.example"),
            ("content-length", "7"),
            ("authorization", "Bearer x"),
            ("accept", "*/*"),
        ]);
        assert!(remove_hop_by_hop(&mut sent));
        assert_eq!(names(&sent), ["accept", "content-length", "host", "trailer"]);
        for te in ["gzip", "trailers2", ""] {
            assert!(!remove_hop_by_hop(&mut headers(&[("te", te)])), "{te}");
        }
    }

    #[test]
    fn other_transfer_codings_are_unknown() {
        for (lines, expected) in [
            (&[][..], true),
            (&[("transfer-encoding", "Chunked ")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (&[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")], false),
        ] {
            assert_eq!(is_coding_known(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn client_cannot_state_identity_or_origin() {
        let mut sent = headers(&[
            ("authorization", "Bearer x"),
            ("authorization", "Bearer y"),
            ("x-auth-token-id", "0"),
            ("x_auth_token_id", "0"),
            ("x-auth_token-name", "_admin"),
            ("x-auth-token-", "0"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "1.2.3.5"),
            ("x_forwarded_proto", "https"),
            ("x-forwarded-anything", "1"),
            ("x-real-ip", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x-original-method", "GET"),
            ("x-rewrite-url", "/admin"),
            ("proxy_", "x"),
            ("proxy", "http://attacker.example"),
            ("content_length", "0"),
            ("transfer_encoding", "chunked"),
            ("content_type", "text/plain"),
            ("x-http-method-override", "DELETE"),
            ("x_method_override", "DELETE"),
            ("x-auth", "kept"),
            ("user-agent", "kept"),
        ]);
        let mut scoped = sent.clone();
        remove_reserved(&mut sent, true);
        assert_eq!(
            names(&sent),
            ["proxy_", "user-agent", "x-auth", "x-http-method-override", "x_method_override"]
        );
        remove_reserved(&mut scoped, false);
        assert_eq!(names(&scoped), ["proxy_", "user-agent", "x-auth"]);
    }

    #[test]
    fn trailers_cannot_state_what_headers_cannot() {
        let mut trailers = headers(&[
            ("x-auth-token-id", "0"),
            ("x_forwarded_for", "1.2.3.4"),
            ("authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("content-length", "1"),
            ("host", "x"),
            ("grpc-status", "0"),
        ]);
        clean_request_trailers(&mut trailers, true);
        assert_eq!(names(&trailers), ["grpc-status"]);
    }

    #[test]
    fn token_of_the_upstream_ends_here() {
        let mut received = headers(&[
            ("authorization", "Bearer upstream"),
            ("authorization", "Bearer again"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-type", "application/grpc"),
        ]);
        clean_response(&mut received);
        assert_eq!(names(&received), ["content-type"]);
    }

    #[test]
    fn credential_leaves_the_query() {
        for (query, expected) in [
            ("db=a&q=b", Some("db=a&q=b")),
            ("u=me&p=apiv3_x&db=a", Some("db=a")),
            ("p=apiv3_x", None),
            ("%70=apiv3_x&db=a%20b&q=%2B", Some("db=a%20b&q=%2B")),
            ("db=a&&p&u=", Some("db=a&")),
            ("pp=1&P=2&U=3", Some("pp=1&P=2&U=3")),
            ("", Some("")),
        ] {
            assert_eq!(without_credential(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn cookies_are_one_header() {
        let mut divided = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        join_cookies(&mut divided);
        assert_eq!(divided.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn websocket_needs_both_headers() {
        for (lines, expected) in [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")][..], true),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket")], true),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
        ] {
            assert_eq!(asks_for_websocket(&headers(lines)), expected, "{lines:?}");
        }
    }
}
