//! Which HTTP proxy a request passes.
//!
//! A proxy that is named for this program may see a token. A proxy that the environment names for
//! all programs may not: it passes only connections to a server that is verified inside them.

use std::env;
use std::fmt;

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
    /// A variable of the environment names this proxy, which is not used because it would see the
    /// token.
    Bypass { proxy: String, variable: &'static str },
    /// Requests pass this proxy.
    Through { proxy: String, source: ProxySource, client: Box<Proxy> },
}

/// What names a proxy, so that an error can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxySource {
    /// The option of the command line.
    Option,
    /// The variable of this program.
    OwnVariable,
    /// A variable for all programs.
    Environment(&'static str),
}

impl ProxySource {
    /// Returns how the user connects without the proxy.
    pub(super) fn way_without(self) -> String {
        match self {
            Self::Option => "To connect without it, leave out --proxy.".to_owned(),
            Self::OwnVariable => format!("To connect without it, unset {OWN_VARIABLE}."),
            Self::Environment(variable) => {
                format!("To connect without it, unset {variable}, or add the server to NO_PROXY.")
            }
        }
    }
}

impl fmt::Display for ProxySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "--proxy",
            Self::OwnVariable => OWN_VARIABLE,
            Self::Environment(variable) => variable,
        })
    }
}

/// The variable of this program that names a proxy.
const OWN_VARIABLE: &str = "INFLUXDB3_PROXY";

/// The proxy cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    /// The text is not the URL of a proxy.
    #[error("{0} is not the URL of a proxy, which looks like http://proxy.example:3128")]
    NotAUrl(ProxySource),
    /// The environment names a proxy of another kind.
    #[error(
        "{variable} names the proxy {proxy}, and this program connects through http:// and https:// only; add the server \
         to NO_PROXY, or name another proxy with --proxy"
    )]
    Unsupported { proxy: String, variable: &'static str },
}

impl Route {
    /// Finds the way to a server. `named` is the proxy that the user named for this program.
    pub(super) fn find(
        address: &ServerAddress,
        trust: &Trust,
        named: Option<(&str, ProxySource)>,
    ) -> Result<Self, ProxyError> {
        // A proxy on another machine must not get the token of a server on this one.
        if address.is_loopback() {
            return Ok(Self::Direct);
        }
        if let Some((text, source)) = named {
            return Self::named(text, source);
        }
        let matched = address.url().as_str().parse().ok();
        let Some(found) = matched.and_then(|uri| Matcher::from_env().intercept(&uri)) else {
            return Ok(Self::Direct);
        };
        let proxy = found.uri().to_string();
        let variable = variable_for(address.is_https(), |name| env::var(name).ok());
        if !address.is_https() || trust.no_verify {
            return Ok(Self::Bypass { proxy, variable });
        }
        if !proxy.starts_with("http") {
            return Err(ProxyError::Unsupported { proxy, variable });
        }
        let source = ProxySource::Environment(variable);
        let mut client = Proxy::all(&proxy).map_err(|_| ProxyError::NotAUrl(source))?;
        if let Some(credential) = found.basic_auth() {
            client = client.custom_http_auth(credential.clone());
        }
        Ok(Self::Through { proxy, source, client: Box::new(client) })
    }

    fn named(text: &str, source: ProxySource) -> Result<Self, ProxyError> {
        let not_a_url = ProxyError::NotAUrl(source);
        let Ok(url) = Url::parse(text.trim()) else { return Err(not_a_url) };
        let proxy = url.origin().ascii_serialization();
        if !matches!(url.scheme(), "http" | "https") || url.path() != "/" || url.query().is_some() {
            return Err(not_a_url);
        }
        let Ok(client) = Proxy::all(url) else { return Err(not_a_url) };
        Ok(Self::Through { proxy, source, client: Box::new(client) })
    }

    /// Returns the proxy that requests pass, without its credential.
    pub(super) fn proxy(&self) -> Option<&str> {
        match self {
            Self::Through { proxy, .. } => Some(proxy),
            Self::Direct | Self::Bypass { .. } => None,
        }
    }
}

/// Returns the variable whose proxy a server gets, in the order of [`Matcher::from_env`]: of each
/// pair the first that is set, and then the first pair that names a proxy.
fn variable_for(is_https: bool, variable: impl Fn(&str) -> Option<String>) -> &'static str {
    const PAIRS: [[&str; 2]; 3] =
        [["HTTPS_PROXY", "https_proxy"], ["HTTP_PROXY", "http_proxy"], ["ALL_PROXY", "all_proxy"]];
    let [https, http, all] = PAIRS;
    let set = [if is_https { https } else { http }, all]
        .into_iter()
        .filter_map(|pair| pair.into_iter().find_map(|name| Some((name, variable(name)?))));
    let names_a_proxy = |value: &str| {
        let uri = "http://server.example/".parse().ok();
        let matcher = Matcher::builder().all(value.to_owned()).build();
        uri.is_some_and(|uri| matcher.intercept(&uri).is_some())
    };
    let found = set.into_iter().find(|(_, value)| names_a_proxy(value));
    found.map_or("ALL_PROXY", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_of_the_used_proxy_is_named() {
        let proxy = "http://proxy.example:3128";
        for (set, https, http) in [
            (
                &[("HTTPS_PROXY", proxy), ("https_proxy", proxy), ("ALL_PROXY", proxy)][..],
                "HTTPS_PROXY",
                "ALL_PROXY",
            ),
            (&[("https_proxy", proxy), ("HTTP_PROXY", proxy)], "https_proxy", "HTTP_PROXY"),
            (&[("http_proxy", proxy), ("all_proxy", proxy)], "all_proxy", "http_proxy"),
            // The first of a pair hides the second, and names none.
            (&[("HTTPS_PROXY", ""), ("https_proxy", proxy), ("all_proxy", proxy)], "all_proxy", "all_proxy"),
        ] {
            let variable = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(
                (variable_for(true, variable), variable_for(false, variable)),
                (https, http),
                "{set:?}"
            );
        }
    }
}
