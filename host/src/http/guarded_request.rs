//! `--verify-request`: where a proxy states the request that it asks about, in forward
//! authentication (docs/design.md 5.2).
//!
//! A token with permissions is accepted for what the service receives. This server passes nothing
//! on, so it cannot give the service the normal form of a request. It therefore believes only a
//! statement that is certain, and that is in normal form already: then the service reads what is
//! authorized here.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use hyper::header::HeaderValue;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request};
use optoken_protocol::host::normalize_host;
use optoken_protocol::paths;
use optoken_protocol::request_path::normalize;
use thiserror::Error;

use crate::access::Access;
use crate::http::influxdb3::rows::{Classified, classify};
use crate::http::influxdb3::target::{OwnedTarget, ServiceKind};

/// The headers of Traefik and others: method, host, path with query string.
const FORWARDED: [&str; 3] = ["x-forwarded-method", "x-forwarded-host", "x-forwarded-uri"];

/// The headers of configurations of nginx.
const ORIGINAL: [&str; 3] = ["x-original-method", "x-original-host", "x-original-uri"];

/// Where a proxy states the request that it asks about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum VerifyRequest {
    /// In `X-Forwarded-Method`, `X-Forwarded-Host` and `X-Forwarded-Uri`.
    Forwarded,
    /// In `X-Original-Method`, `X-Original-Host` and `X-Original-Uri`.
    Original,
    /// In the question itself: its method, its host, and its path below `/api/v3/verify`.
    Path,
    /// Nowhere.
    #[default]
    None,
}

impl FromStr for VerifyRequest {
    type Err = &'static str;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        match source {
            "forwarded" => Ok(Self::Forwarded),
            "original" => Ok(Self::Original),
            "path" => Ok(Self::Path),
            "none" => Ok(Self::None),
            _ => Err("must be forwarded, original, path or none"),
        }
    }
}

/// A request that a proxy asks about. Its host and its path are in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuardedRequest {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    /// What it acts on.
    target: OwnedTarget,
}

/// Why it is not known what a proxy asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum UnknownRequest {
    /// No source is configured.
    #[error("--verify-request does not name where the proxy states the request")]
    NoSource,
    /// The question has no such header.
    #[error("the question has no header {0}")]
    Missing(&'static str),
    /// The question has several of these headers.
    #[error("the question has the header {0} twice")]
    Twice(&'static str),
    /// The question has no path below that of forward authentication.
    #[error("the question has no path below /api/v3/verify")]
    NoPath,
    /// The text is no method, or not in upper case. Some services ignore the case.
    #[error("the stated method is not in upper case")]
    Method,
    /// Services read the host in different ways.
    #[error("the stated host is not certain: it needs one form without a dot at its end")]
    Host,
    /// Services read the path in different ways.
    #[error("the stated path is not certain, or not in normal form")]
    Path,
    /// Some services cut a query string at this character.
    #[error("the stated query string has a #")]
    Query,
}

impl VerifyRequest {
    /// Reads the request that a question is about.
    pub(crate) fn read<B>(self, question: &Request<B>) -> Result<GuardedRequest, UnknownRequest> {
        let uri = question.uri();
        match self {
            Self::None => Err(UnknownRequest::NoSource),
            Self::Forwarded => from_headers(question.headers(), FORWARDED),
            Self::Original => from_headers(question.headers(), ORIGINAL),
            Self::Path => {
                let path = uri.path().strip_prefix(paths::VERIFY).filter(|below| !below.is_empty());
                let path = path.ok_or(UnknownRequest::NoPath)?;
                let host = host_of(question)?;
                GuardedRequest::new(question.method().clone(), host, path, uri.query())
            }
        }
    }
}

impl GuardedRequest {
    fn new(method: Method, host: &str, path: &str, query: Option<&str>) -> Result<Self, UnknownRequest> {
        if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(UnknownRequest::Method);
        }
        if query.is_some_and(|query| query.contains('#')) {
            return Err(UnknownRequest::Query);
        }
        let (host, path) = (certain_host(host)?.into_owned(), certain_path(path)?.into_owned());
        // The headers are those of the question, and nothing here has the body.
        let target = match classify(ServiceKind::Unspecified, &method, &path, query, &HeaderMap::new()) {
            Classified::Known(target) => target,
            Classified::Body(_) => OwnedTarget::Administration("the body names the database"),
        };
        Ok(Self { method, host, path, query: query.map(str::to_owned), target })
    }

    /// Returns what the request does, for the authority.
    pub(crate) fn access(&self) -> Access<'_> {
        Access {
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            target: self.target.as_target(),
        }
    }

    /// Returns the path, for the log.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

/// What a permission would have to cover, for the log.
impl fmt::Display for GuardedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            OwnedTarget::Http => write!(f, "{} of {}", self.method, self.host),
            OwnedTarget::Database { name, action } => write!(f, "{action:?} of the database {name:?}"),
            OwnedTarget::System(name) => f.write_str(name),
            OwnedTarget::Administration(reason) => f.write_str(reason),
        }
    }
}

/// Reads three headers, each of which stands once.
fn from_headers(
    headers: &HeaderMap,
    [method, host, uri]: [&'static str; 3],
) -> Result<GuardedRequest, UnknownRequest> {
    let method = only(headers, method)?.ok_or(UnknownRequest::Missing(method))?;
    let host = only(headers, host)?.ok_or(UnknownRequest::Missing(host))?;
    let uri = only(headers, uri)?.ok_or(UnknownRequest::Missing(uri))?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| UnknownRequest::Method)?;
    let host = host.to_str().map_err(|_| UnknownRequest::Host)?;
    let uri = uri.to_str().map_err(|_| UnknownRequest::Path)?;
    let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    GuardedRequest::new(method, host, path, query)
}

/// Returns the value of a header that stands at most once.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a HeaderValue>, UnknownRequest> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(UnknownRequest::Twice(name)),
    }
}

/// Returns the host of a question. In HTTP/1 a whole URL may name another one than the header does.
fn host_of<B>(question: &Request<B>) -> Result<&str, UnknownRequest> {
    let header = only(question.headers(), "host")?;
    let header = header.map(|host| host.to_str().map_err(|_| UnknownRequest::Host)).transpose()?;
    let authority = question.uri().authority().map(Authority::as_str);
    match (header, authority) {
        (Some(header), Some(authority)) if !header.eq_ignore_ascii_case(authority) => {
            Err(UnknownRequest::Host)
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(UnknownRequest::Missing("host")),
    }
}

/// Returns the normal form of a host that is in normal form but for case and port.
fn certain_host(host: &str) -> Result<Cow<'_, str>, UnknownRequest> {
    let normal = normalize_host(host).map_err(|_| UnknownRequest::Host)?;
    // To some services, a name with a dot at its end is another one.
    match host.get(normal.len()..) {
        Some(port) if port.is_empty() || port.starts_with(':') => Ok(normal),
        _ => Err(UnknownRequest::Host),
    }
}

/// Returns the normal form of a path that is in normal form but for the case of percent-encodings.
fn certain_path(path: &str) -> Result<Cow<'_, str>, UnknownRequest> {
    let normal = normalize(path).map_err(|_| UnknownRequest::Path)?;
    // Normalization changes the case of nothing else.
    if normal.eq_ignore_ascii_case(path) && !normal.split('/').any(is_trimmed_to_dots) {
        Ok(normal)
    } else {
        Err(UnknownRequest::Path)
    }
}

/// Returns whether a service may read a dot segment in a segment. Windows removes dots and spaces
/// at the end of a name. A service that decodes too early ends the path at `?` or `#`.
pub(crate) fn is_trimmed_to_dots(segment: &str) -> bool {
    let kept = segment.split("%23").next().and_then(|kept| kept.split("%3F").next()).unwrap_or_default();
    !kept.is_empty() && kept.replace("%20", ".").bytes().all(|byte| byte == b'.')
}

#[cfg(test)]
mod tests;
