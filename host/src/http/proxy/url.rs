//! The address of an upstream: `http(s)://HOST[:PORT][/BASE]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use thiserror::Error;

/// The URL of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamUrl {
    is_https: bool,
    /// Host and port, as the upstream knows them. Without the default port.
    authority: Authority,
    port: u16,
    /// What stands before the path of each request; without a slash at its end.
    base: String,
}

/// Why a text is no URL of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum UrlError {
    /// It has no scheme, or another one.
    #[error("the URL begins with http:// or https://, such as http://127.0.0.1:8181")]
    Scheme,
    /// It has a user or a password.
    #[error("the URL has a user or a password; give the token of the upstream with --upstream-token-file")]
    User,
    /// It has a query string or a fragment.
    #[error("the URL has a query string or a fragment; remove everything from the ? or # on")]
    Query,
    /// It has no host.
    #[error("the URL has no host, such as 127.0.0.1 in http://127.0.0.1:8181")]
    Host,
    /// Its port is no number from 1 to 65535.
    #[error("the port of the URL is a number from 1 to 65535")]
    Port,
    /// Its path would be read differently by different servers.
    #[error("the path of the URL may not have . or .. segments, doubled slashes, % or \\")]
    Base,
    /// It is malformed in another way.
    #[error("this is no URL; one is http://HOST:PORT or https://HOST:PORT/BASE")]
    Malformed,
}

impl UpstreamUrl {
    pub(crate) const fn is_https(&self) -> bool {
        self.is_https
    }

    pub(crate) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the host without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) const fn scheme(&self) -> Scheme {
        if self.is_https { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Returns whether no other machine sees the requests: the host is a loopback address.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Returns the target of a request at the upstream; `None` if it is malformed.
    pub(super) fn target(&self, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
        // The target of `OPTIONS *` names no resource.
        if !path.starts_with('/') {
            return None;
        }
        let mut target =
            String::with_capacity(self.base.len() + path.len() + query.map_or(0, |query| query.len() + 1));
        target.push_str(&self.base);
        target.push_str(path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        PathAndQuery::from_maybe_shared(target).ok()
    }
}

impl FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.contains('@') {
            return Err(UrlError::User);
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if name.is_empty() || name == "[]" {
            return Err(UrlError::Host);
        }
        let default_port = if is_https { 443 } else { 80 };
        let port = match port {
            None => default_port,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?
            }
            Some(_) => return Err(UrlError::Port),
        };
        let base = base.trim_end_matches('/');
        let is_plain = |segment: &str| {
            let is_plain_byte =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte);
            !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain_byte)
        };
        if !base.is_empty() && !base.split('/').skip(1).all(is_plain) {
            return Err(UrlError::Base);
        }
        let name = name.to_ascii_lowercase();
        let authority = if port == default_port { name } else { format!("{name}:{port}") };
        let authority: Authority = authority.parse().map_err(|_| UrlError::Malformed)?;
        let url = Self { is_https, authority, port, base: base.to_owned() };
        let is_ip_literal = url.authority.host().starts_with('[');
        if is_ip_literal && url.host().parse::<IpAddr>().is_err() || Uri::from_str(&url.to_string()).is_err()
        {
            return Err(UrlError::Malformed);
        }
        Ok(url)
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_shown() {
        for (text, shown, port) in [
            ("http://127.0.0.1:8181", "http://127.0.0.1:8181", 8181),
            ("http://127.0.0.1:8181/", "http://127.0.0.1:8181", 8181),
            ("HTTP://Db.Example", "http://db.example", 80),
            ("https://db.example:443/", "https://db.example", 443),
            ("https://db.example:80/", "https://db.example:80", 80),
            ("http://[::1]:8086/base/path/", "http://[::1]:8086/base/path", 8086),
            ("http://[::1]", "http://[::1]", 80),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.port()), (shown, port), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_by_what_is_wrong() {
        for (text, error) in [
            ("", UrlError::Scheme),
            ("127.0.0.1:8181", UrlError::Scheme),
            ("localhost", UrlError::Scheme),
            ("ftp://x", UrlError::Scheme),
            ("unix:/run/x", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http://:80", UrlError::Host),
            ("http:///x", UrlError::Host),
            ("http://[]:80", UrlError::Host),
            ("http://user:secret@x", UrlError::User),
            ("http://user@x/", UrlError::User),
            ("http://x/?a", UrlError::Query),
            ("http://x#a", UrlError::Query),
            ("http://x:", UrlError::Port),
            ("http://x:0", UrlError::Port),
            ("http://x:65536", UrlError::Port),
            ("http://x:+80", UrlError::Port),
            ("http://x:http", UrlError::Port),
            ("http://x/a//b", UrlError::Base),
            ("http://x/a/../b", UrlError::Base),
            ("http://x/a/.", UrlError::Base),
            ("http://x/%61", UrlError::Base),
            ("http://x/a;b", UrlError::Base),
            ("http://x/a b", UrlError::Base),
            ("http://x/a\\b", UrlError::Base),
            ("http://a b", UrlError::Malformed),
            ("http://a\\b", UrlError::Malformed),
            ("http://[::1", UrlError::Malformed),
            ("http://[x]:1", UrlError::Malformed),
            ("http://::1", UrlError::Malformed),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn base_stands_before_the_path() {
        let url: UpstreamUrl = "http://x/base/".parse().unwrap();
        assert_eq!(url.target("/a", Some("b=c")).unwrap().as_str(), "/base/a?b=c");
        assert_eq!(url.target("/a%2Fb", None).unwrap().as_str(), "/base/a%2Fb");
        let url: UpstreamUrl = "http://x".parse().unwrap();
        assert_eq!(url.target("/", Some("")).unwrap().as_str(), "/?");
        for path in ["*", "", "x", "/a b"] {
            assert_eq!(url.target(path, None), None, "{path}");
        }
    }

    #[test]
    fn loopback_is_seen() {
        for (text, expected) in [
            ("http://localhost:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://db.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>().unwrap().is_loopback(), expected, "{text}");
        }
    }
}
