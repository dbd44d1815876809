//! Connections to an upstream: TCP, and TLS with the choice of the HTTP version.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::TlsFailure;
use crate::http::proxy::url::UpstreamUrl;
use crate::metrics::upstream::Failure;

/// The names of the HTTP versions in TLS (ALPN).
const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Which HTTP versions a connection may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Http1,
    Http2,
    /// The upstream chooses, if it can: over TLS.
    Any,
}

/// A new connection.
pub(super) enum Connected {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) failure: Failure,
    pub(super) cause: String,
}

/// Connects to one upstream.
pub(super) struct Connector {
    url: UpstreamUrl,
    tls: Option<Tls>,
    timeout: Duration,
}

/// The configurations of a TLS client, by what it offers.
struct Tls {
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
}

impl Connector {
    /// `tls` is that of an upstream with https.
    pub(super) fn new(url: UpstreamUrl, tls: Option<&ClientConfig>, timeout: Duration) -> Self {
        let offering = |tls: &ClientConfig, protocols: &[&[u8]]| {
            let mut config = tls.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let name = ServerName::try_from(url.host().to_owned()).ok();
        let tls = tls.zip(name).map(|(tls, name)| Tls {
            name,
            http1: offering(tls, &[HTTP_1]),
            http2: offering(tls, &[HTTP_2]),
            any: offering(tls, &[HTTP_2, HTTP_1]),
        });
        Self { url, tls, timeout }
    }

    /// Connects within the time limit. Returns whether the connection has HTTP/2.
    pub(super) async fn connect(&self, versions: Versions) -> Result<(Connected, bool), ConnectError> {
        let timed_out = || ConnectError {
            failure: Failure::Timeout,
            cause: format!("no connection within {}", humantime::format_duration(self.timeout)),
        };
        time::timeout(self.timeout, self.connect_unlimited(versions)).await.map_err(|_| timed_out())?
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn connect_unlimited(&self, versions: Versions) -> Result<(Connected, bool), ConnectError> {
        let failed = |error: io::Error| ConnectError { failure: Failure::Connect, cause: error.to_string() };
        let stream = self.connect_tcp().await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        if !self.url.is_https() {
            return Ok((Connected::Plain(stream), versions == Versions::Http2));
        }
        let failed = |cause| ConnectError { failure: Failure::Tls, cause };
        let tls =
            self.tls.as_ref().ok_or_else(|| failed("the host is no name of a certificate".to_owned()))?;
        let config = match versions {
            Versions::Http1 => &tls.http1,
            Versions::Http2 => &tls.http2,
            Versions::Any => &tls.any,
        };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(tls.name.clone(), stream);
        let stream = connecting.await.map_err(|error| {
            failed(match TlsFailure::find(&error) {
                Some(TlsFailure::Untrusted { reason, hint }) => format!("{reason}; {hint}"),
                Some(TlsFailure::OtherProtocol(_)) => {
                    format!("{error}; does the upstream have TLS 1.2 or 1.3 at this port? If not, its URL begins with http://")
                }
                None => error.to_string(),
            })
        })?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2) || versions == Versions::Http2;
        Ok((Connected::Tls(Box::new(stream)), is_http2))
    }

    /// Tries the addresses of the host one after the other. Each gets its share of the time.
    async fn connect_tcp(&self) -> io::Result<TcpStream> {
        let addresses: Vec<_> = self.resolve().await?;
        let mut failure = io::Error::other("the host has no address");
        for (number, address) in addresses.iter().enumerate() {
            let share = u32::try_from(addresses.len() - number).unwrap_or(u32::MAX).saturating_add(1);
            let attempt = time::timeout(self.timeout / share, TcpStream::connect(address));
            match attempt.await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
                Err(_) if addresses.len() == 1 => {
                    // The whole time is over soon.
                    return TcpStream::connect(address).await;
                }
                Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer")),
            }
        }
        Err(failure)
    }

    /// Returns the addresses of the upstream.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let host = self.url.host();
        let found = lookup_host((host, self.url.port())).await;
        Ok(found.map_err(|error| io::Error::new(error.kind(), format!("{host}: {error}")))?.collect())
    }
}
