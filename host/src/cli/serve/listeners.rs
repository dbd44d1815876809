//! The listeners of `influxdb3 serve`: the options that say where they are and whether they speak TLS, and opening what
//! they say (COMPAT 5.1, 5.5).

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;
use listenfd::ListenFd;

use crate::cli::serve::address_file::write_address_file;
use crate::private_file::RemoveOnDrop;
use crate::server::listener::Listener;
use crate::server::tls::{self, MinimumVersion, ServerTls};

/// The limit of the limit of bodies: they are held in memory, one for every connection.
const MAX_MAX_REQUEST_SIZE: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub(crate) struct Listeners {
    /// Address of the main listener, HOST:PORT; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", env = "INFLUXDB3_HTTP_BIND_ADDR", default_value = "127.0.0.1:8181")]
    http_bind: String,

    /// Write the address of the main listener, ip:port, to this new file, and remove it at a graceful stop
    ///
    /// The server does not start if the file exists. INFLUXDB3_TCP_LISTINER_FILE_PATH, an older spelling of the variable, counts as well.
    #[expect(clippy::doc_markdown, reason = "the help shows it as it stands")]
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TCP_LISTENER_FILE_PATH")]
    tcp_listener_file_path: Option<PathBuf>,

    /// Most bytes of a request's body, up to 64MiB; units such as 64KiB or 10MB are understood
    #[arg(
        long,
        value_name = "BYTES",
        env = "INFLUXDB3_MAX_HTTP_REQUEST_SIZE",
        default_value = "65536",
        value_parser = request_size
    )]
    pub(crate) max_http_request_size: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct Tls {
    /// Certificate of this server, followed by those that signed it, in PEM; both listeners then speak https only
    #[arg(long = "tls-cert", value_name = "FILE", env = "INFLUXDB3_TLS_CERT")]
    cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM and not encrypted
    #[arg(long = "tls-key", value_name = "FILE", env = "INFLUXDB3_TLS_KEY")]
    key: Option<PathBuf>,

    /// Oldest version of TLS that clients may speak: tls-1.2 or tls-1.3
    #[arg(
        long = "tls-minimum-version",
        value_name = "VERSION",
        env = "INFLUXDB3_TLS_MINIMUM_VERSION",
        default_value = "tls-1.2"
    )]
    minimum_version: MinimumVersion,
}

impl Listeners {
    /// The main listener: the first socket that was passed, or one of its own.
    pub(crate) async fn bind(&self, passed: &mut ListenFd) -> anyhow::Result<Listener> {
        match adopt(passed, 0)? {
            Some(listener) => Ok(listener),
            None => Listener::bind(&self.http_bind).await.context("--http-bind"),
        }
    }

    /// Writes the file that tells where the listener is, where that is asked for.
    pub(crate) fn write_file(&self, listener: &Listener) -> anyhow::Result<Option<RemoveOnDrop>> {
        let older = || env::var_os("INFLUXDB3_TCP_LISTINER_FILE_PATH").map(PathBuf::from);
        let path = self.tcp_listener_file_path.clone().or_else(older);
        path.map(|path| write_address_file(&path, listener.address()))
            .transpose()
            .context("--tcp-listener-file-path")
    }
}

impl Tls {
    /// Reads the files, where TLS is asked for.
    pub(crate) fn load(&self) -> anyhow::Result<Option<ServerTls>> {
        match (&self.cert, &self.key) {
            (Some(certificates), Some(key)) => {
                Ok(Some(tls::server(certificates, key, self.minimum_version)?))
            }
            (None, None) => Ok(None),
            _ => bail!("tls requires both a cert and a key file to be passed in to work"),
        }
    }
}

/// Takes over the socket in this place among those that the service manager has passed, if there are so many.
pub(crate) fn adopt(passed: &mut ListenFd, place: usize) -> anyhow::Result<Option<Listener>> {
    let named = || format!("socket {} of LISTEN_FDS", place + 1);
    let Some(socket) = passed.take_tcp_listener(place).with_context(named)? else {
        return Ok(None);
    };
    Ok(Some(Listener::adopt(socket).with_context(named)?))
}

/// A number of bytes, with a unit or without.
fn request_size(size: &str) -> Result<usize, &'static str> {
    size.parse()
        .ok()
        .filter(|ByteSize(bytes)| (1..=MAX_MAX_REQUEST_SIZE).contains(bytes))
        .and_then(|ByteSize(bytes)| usize::try_from(bytes).ok())
        .ok_or("a size is a number of bytes from 1 to 67108864, or such as 64KiB or 10MB")
}
