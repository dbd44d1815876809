//! The host that a request names (RFC 9112, section 3.2; RFC 9113, section 8.3.1).
//!
//! Two parties that read different hosts in one request can be played off against each other. So a
//! server rejects a request whose host is missing, ambiguous or malformed. Does not decide which
//! hosts are those of this server.

use std::net::Ipv6Addr;

use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Version};

/// Checks that a request names one host. HTTP/1.0 needs none: it is older than the header.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("the request names its host more than once");
    }
    if !host.is_none_or(is_valid) {
        return Err("the Host header is malformed");
    }
    // In HTTP/1 this is a whole URL, as requests to a proxy have it, or the target of CONNECT. It
    // does not replace the header.
    let authority = request.uri().authority().map(Authority::as_str).map(str::as_bytes);
    match (request.version(), host, authority) {
        (Version::HTTP_11, None, _) | (Version::HTTP_2, None, None) => Err("the request has no Host header"),
        (Version::HTTP_2, Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            Err("the request names its host more than once, with different names")
        }
        _ => Ok(()),
    }
}

/// Returns whether this is `uri-host [":" port]` of RFC 3986. The host may be empty.
fn is_valid(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        // The colons of an IPv6 address stand in brackets.
        Some(colon) if !host.ends_with(b"]") => {
            let (name, port) = host.split_at(colon);
            (name, port.get(1..).unwrap_or_default())
        }
        _ => (host, &b""[..]),
    };
    port.iter().all(u8::is_ascii_digit) && (is_registered_name(name) || is_ipv6_literal(name))
}

fn is_registered_name(name: &[u8]) -> bool {
    // Percent sequences are left out: no name of DNS needs them.
    let is_sign = |byte: &u8| {
        matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
    };
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte))
}

fn is_ipv6_literal(name: &[u8]) -> bool {
    let address = name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let address = address.and_then(|address| std::str::from_utf8(address).ok());
    address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_http_1_is_present_once_and_valid() {
        for (hosts, valid) in [
            (&["localhost"][..], true),
            (&["localhost:8181"], true),
            (&["localhost:"], true),
            (&["db_1.example:443"], true),
            (&["127.0.0.1"], true),
            (&["[::1]"], true),
            (&["[::1]:8181"], true),
            (&[""], true),
            (&[], false),
            (&["localhost", "localhost"], false),
            (&["localhost", "evil.example"], false),
            (&["localhost evil.example"], false),
            (&["localhost, evil.example"], false),
            (&["user@localhost"], false),
            (&["localhost/"], false),
            (&["localhost?"], false),
            (&["localhost#"], false),
            (&["local\\host"], false),
            (&["localhost:1:2"], false),
            (&["localhost:http"], false),
            (&["localhost:-1"], false),
            (&["::1"], false),
            (&["::1:8181"], false),
            (&["[::1"], false),
            (&["::1]"], false),
            (&["[]"], false),
            (&["[::1%25lo]:8181"], false),
            (&["[localhost]:8181"], false),
            (&["[::1]8181"], false),
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11] {
                let request = Request::get("/").version(version);
                let request = hosts.iter().fold(request, |request, host| request.header(HOST, *host));
                let expected = valid || version == Version::HTTP_10 && hosts.is_empty();
                assert_eq!(check(&request.body(()).unwrap()).is_ok(), expected, "{version:?} {hosts:?}");
            }
        }
        let latin = Request::get("/").version(Version::HTTP_11).header(HOST, &b"l\xf6calhost"[..]);
        assert!(check(&latin.body(()).unwrap()).is_err());
        let absolute = Request::get("http://localhost/").version(Version::HTTP_11);
        assert!(check(&absolute.body(()).unwrap()).is_err());
    }

    #[test]
    fn host_of_http_2_agrees_with_authority() {
        for (uri, hosts, valid) in [
            ("http://localhost:8181/", &[][..], true),
            ("http://localhost:8181/", &["LOCALHOST:8181"], true),
            ("/", &["localhost:8181"], true),
            ("/", &[], false),
            ("http://localhost:8181/", &["evil.example"], false),
            ("http://localhost:8181/", &["localhost"], false),
            ("http://localhost:8181/", &["localhost:8181", "localhost:8181"], false),
        ] {
            let request = Request::get(uri).version(Version::HTTP_2);
            let request = hosts.iter().fold(request, |request, host| request.header(HOST, *host));
            assert_eq!(check(&request.body(()).unwrap()).is_ok(), valid, "{uri} {hosts:?}");
        }
    }
}
