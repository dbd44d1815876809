//! The main listener of `optoken serve`, and TLS of all listeners (docs/compatibility.md 5.1 and
//! 5.5).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;
use listenfd::ListenFd;

use crate::cli::serve::address_file::write_address_file;
use crate::private_file::RemoveOnDrop;
use crate::server::listener::Listener;
use crate::server::tls::{self, MinimumVersion, ServerTls};

/// Upper bound for `--max-http-request-size`: bodies are held in memory, one per connection.
const MAX_MAX_REQUEST_SIZE: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub(crate) struct Listeners {
    /// Address of the main listener, HOST:PORT; port 0 lets the system choose a port
    #[arg(long, value_name = "ADDR", env = "INFLUXDB3_HTTP_BIND_ADDR", default_value = "127.0.0.1:8181")]
    http_bind: String,

    /// Write the address of the main listener, ip:port, to this new file; a graceful stop removes
    /// it
    ///
    /// The server does not start if the file exists. INFLUXDB3_TCP_LISTINER_FILE_PATH, an older
    /// spelling of the variable, is accepted, too.
    #[expect(clippy::doc_markdown, reason = "help shows the text as it is here")]
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TCP_LISTENER_FILE_PATH")]
    tcp_listener_file_path: Option<PathBuf>,

    /// Limit of a request body in bytes, or with a unit, such as 64KiB or 10MB
    ///
    /// A limit above 64MiB is lowered to that.
    #[arg(
        long,
        value_name = "BYTES",
        env = "INFLUXDB3_MAX_HTTP_REQUEST_SIZE",
        default_value = "65536",
        value_parser = request_size
    )]
    max_http_request_size: u64,

    /// Cut off requests in flight after this time at a stop; 0s closes connections at once
    ///
    /// A service manager ends the process after a time of its own: containers after 10 seconds.
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_SHUTDOWN_TIMEOUT",
        default_value = "5s",
        value_parser = humantime::parse_duration
    )]
    pub(crate) shutdown_timeout: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct Tls {
    /// Certificate chain in PEM, that of this server first; all TCP listeners then use https
    ///
    /// A changed file is noticed within a minute, or at once by SIGHUP. New connections get the new
    /// certificate as soon as the key belongs to it.
    #[arg(long = "tls-cert", value_name = "FILE", env = "INFLUXDB3_TLS_CERT")]
    cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM, not encrypted
    #[arg(long = "tls-key", value_name = "FILE", env = "INFLUXDB3_TLS_KEY")]
    key: Option<PathBuf>,

    /// Oldest version of TLS that clients may use: tls-1.2 or tls-1.3
    #[arg(
        long = "tls-minimum-version",
        value_name = "VERSION",
        env = "INFLUXDB3_TLS_MINIMUM_VERSION",
        default_value = "tls-1.2"
    )]
    minimum_version: MinimumVersion,
}

impl Listeners {
    /// Returns the main listener: the first socket of the service manager, or a new one.
    pub(crate) async fn bind(&self, listen_fds: &mut ListenFd) -> anyhow::Result<Listener> {
        match take_listen_fd(listen_fds, 0)? {
            Some(listener) => Ok(listener),
            None => Listener::bind(&self.http_bind).await.context("--http-bind"),
        }
    }

    /// Returns the limit of a request body. A larger one, which InfluxDB needs for its writes, is
    /// lowered with a warning.
    pub(crate) fn max_request_size(&self) -> usize {
        if self.max_http_request_size > MAX_MAX_REQUEST_SIZE {
            tracing::warn!(
                "--max-http-request-size: the limit is 64 MiB, as bodies are held in memory and none here is larger"
            );
        }
        usize::try_from(self.max_http_request_size.min(MAX_MAX_REQUEST_SIZE)).unwrap_or(usize::MAX)
    }

    /// Writes the address file, if the user wants one.
    pub(crate) fn write_address_file(&self, listener: &Listener) -> anyhow::Result<Option<RemoveOnDrop>> {
        let path = self.tcp_listener_file_path.as_deref();
        path.map(|path| write_address_file(path, listener.address()))
            .transpose()
            .context("--tcp-listener-file-path")
    }
}

impl Tls {
    /// Reads certificate and key, if the user wants TLS.
    pub(crate) fn load(&self) -> anyhow::Result<Option<ServerTls>> {
        match (&self.cert, &self.key) {
            (Some(certificates), Some(key)) => Ok(Some(tls::load(certificates, key, self.minimum_version)?)),
            (None, None) => Ok(None),
            _ => bail!("tls requires both a cert and a key file to be passed in to work"),
        }
    }
}

/// Takes the socket with this index among those that the service manager passed, if there is one.
pub(crate) fn take_listen_fd(listen_fds: &mut ListenFd, index: usize) -> anyhow::Result<Option<Listener>> {
    let named = || format!("socket {} of LISTEN_FDS", index + 1);
    let Some(socket) = listen_fds.take_tcp_listener(index).with_context(named)? else {
        return Ok(None);
    };
    Ok(Some(Listener::from_std(socket).with_context(named)?))
}

/// Parses a number of bytes, with or without a unit.
fn request_size(size: &str) -> Result<u64, &'static str> {
    let size = size.parse().ok().map(|ByteSize(bytes)| bytes).filter(|bytes| *bytes > 0);
    size.ok_or("a size is a number of bytes from 1 to 67108864, or such as 64KiB or 10MB")
}
