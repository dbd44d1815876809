//! Which HTTP proxy a request passes.
//!
//! A proxy that is named for this program may see a token. A proxy that the environment names for
//! all programs may not: it passes only connections to a server that is verified inside them.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Proxy, Url};
use thiserror::Error;

use crate::client::address::ServerAddress;
use crate::client::tls::Trust;

/// The way to a server.
#[derive(Debug)]
pub(super) enum Route {
    /// No proxy is named.
    Direct,
    /// The environment names this proxy, which is not used because it would see the token.
    Bypass { proxy: String },
    /// Requests pass this proxy.
    Through { proxy: String, client: Box<Proxy> },
}

/// The proxy cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    /// The text is not the URL of a proxy.
    #[error(
        "--proxy or INFLUXDB3_PROXY is not the URL of a proxy, which looks like http://proxy.example:3128"
    )]
    NotAUrl,
    /// The environment names a proxy of another kind.
    #[error(
        "the environment names the proxy {proxy}, and this program connects through http:// and https:// only; add the \
         server to NO_PROXY, or name another proxy with --proxy"
    )]
    Unsupported { proxy: String },
}

impl Route {
    /// Finds the way to a server. `named` is the proxy that the user named for this program.
    pub(super) fn find(
        address: &ServerAddress,
        trust: &Trust,
        named: Option<&str>,
    ) -> Result<Self, ProxyError> {
        // A proxy on another machine must not get the token of a server on this one.
        if address.is_loopback() {
            return Ok(Self::Direct);
        }
        if let Some(named) = named {
            return Self::named(named);
        }
        let matched = address.url().as_str().parse().ok();
        let Some(found) = matched.and_then(|uri| Matcher::from_env().intercept(&uri)) else {
            return Ok(Self::Direct);
        };
        let proxy = found.uri().to_string();
        if !address.is_https() || trust.no_verify {
            return Ok(Self::Bypass { proxy });
        }
        if !proxy.starts_with("http") {
            return Err(ProxyError::Unsupported { proxy });
        }
        let mut client = Proxy::all(&proxy).map_err(|_| ProxyError::NotAUrl)?;
        if let Some(credential) = found.basic_auth() {
            client = client.custom_http_auth(credential.clone());
        }
        Ok(Self::Through { proxy, client: Box::new(client) })
    }

    fn named(text: &str) -> Result<Self, ProxyError> {
        let url = Url::parse(text.trim()).map_err(|_| ProxyError::NotAUrl)?;
        let proxy = url.origin().ascii_serialization();
        if !matches!(url.scheme(), "http" | "https") || url.path() != "/" || url.query().is_some() {
            return Err(ProxyError::NotAUrl);
        }
        let client = Proxy::all(url).map_err(|_| ProxyError::NotAUrl)?;
        Ok(Self::Through { proxy, client: Box::new(client) })
    }

    /// Returns the proxy that requests pass, without its credential.
    pub(super) fn proxy(&self) -> Option<&str> {
        match self {
            Self::Through { proxy, .. } => Some(proxy),
            Self::Direct | Self::Bypass { .. } => None,
        }
    }
}
