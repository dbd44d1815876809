//! How an upstream is reached, and as what: the options of `serve`.

use std::str::FromStr;
use std::time::Duration;

use rustls::ClientConfig;

use crate::http::proxy::token::UpstreamToken;
use crate::http::proxy::url::UpstreamUrl;

/// An upstream, as the operator describes it.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamOptions {
    pub(crate) url: UpstreamUrl,
    /// What this server presents there, in place of the token of the client.
    pub(crate) token: Option<UpstreamToken>,
    /// The configuration of TLS, for https.
    pub(crate) tls: Option<ClientConfig>,
    pub(crate) kind: KindOption,
    pub(crate) version: HttpVersion,
    /// How long a connection may take, with TLS.
    pub(crate) connect_timeout: Duration,
    /// How long the upstream may take for the head of a response, and pause afterwards.
    pub(crate) timeout: Duration,
    /// Whether clients may change the protocol to WebSocket.
    pub(crate) allows_websocket: bool,
    /// How many connections may be open.
    pub(crate) max_connections: usize,
}

/// What kind of service the upstream is, as the operator states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KindOption {
    /// The upstream is asked.
    Auto,
    InfluxDb3,
    Http,
}

/// The HTTP version of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// By TLS, and HTTP/1.1 without; gRPC has HTTP/2.
    Auto,
    Http1,
    Http2,
}

/// A protocol that clients may change to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpgradeProtocol {
    WebSocket,
}

impl FromStr for KindOption {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "influxdb3" => Ok(Self::InfluxDb3),
            "http" => Ok(Self::Http),
            _ => Err("the value is auto, influxdb3 or http"),
        }
    }
}

impl FromStr for HttpVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "1.1" => Ok(Self::Http1),
            "2" => Ok(Self::Http2),
            _ => Err("the value is auto, 1.1 or 2"),
        }
    }
}

impl FromStr for UpgradeProtocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "websocket" { Ok(Self::WebSocket) } else { Err("the value is websocket") }
    }
}
