//! The upstream of `optoken serve`: the server in front of which it stands.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use clap::error::ErrorKind;
use tokio::net::lookup_host;

use crate::authority::Authority;
use crate::cli::pasted;
use crate::cli::serve::configured_file::{check_opened, open_trusted};
use crate::cli::serve::reload::{Reloaded, TokenFile};
use crate::cli::token_file::{MAX_BYTES, SavedToken};
use crate::cli::usage_error::UsageError;
use crate::client::{ClientRole, Trust};
use crate::http::proxy::options::{HttpVersion, KindOption, UpgradeProtocol, UpstreamOptions};
use crate::http::proxy::token::UpstreamToken;
use crate::http::proxy::url::{UpstreamUrl, UrlError};
use crate::metrics::ReloadedFile;
use crate::private_file::Mode;
use crate::private_file::ownership::{Readers, readers_of, trust_file_at};
use crate::secret::Secret;

/// Names the option in errors, even if a variable of the environment sets it.
const UPSTREAM: &str = "--upstream";

const TOKEN_FILE: &str = "--upstream-token-file";

const CA: &str = "--upstream-ca";

#[derive(Debug, Args)]
#[command(next_help_heading = "Upstream")]
#[expect(clippy::struct_field_names, reason = "they are the names of the options")]
pub(crate) struct Upstream {
    /// Stand in front of this server: http(s)://HOST[:PORT][/BASE]
    ///
    /// The token API is answered here. Every other request needs an accepted token, and is passed
    /// on to the upstream, HTTP/1.1, HTTP/2 and gRPC alike, without the token of the client. The
    /// upstream must be out of reach of the clients themselves.
    ///
    /// /ping, /health and /metrics are then those of the upstream; those of this server are
    /// /api/v3/optoken/health and /api/v3/optoken/metrics.
    #[arg(long, value_name = "URL", env = "INFLUXDB3_UPSTREAM")]
    upstream: Option<String>,

    /// Present the token in this file to the upstream, in place of that of the client
    ///
    /// The file holds the token alone, or JSON with a `token`. It may be readable to the owner and
    /// to a group of the server, and to no other user. A changed file is noticed within a minute,
    /// or at once by SIGHUP. Without the option, the upstream gets no token.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_UPSTREAM_TOKEN_FILE", requires = "upstream")]
    upstream_token_file: Option<PathBuf>,

    /// Trust the certificates in this file for an upstream with https, beside those of the system
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_UPSTREAM_CA", requires = "upstream")]
    upstream_ca: Option<PathBuf>,

    /// What the upstream is: influxdb3, http (any other service), or auto, which asks it
    ///
    /// The kind decides what tokens with permissions may do there. Until an upstream that is asked
    /// has answered, they may do less.
    #[arg(
        long,
        value_name = "KIND",
        env = "INFLUXDB3_UPSTREAM_KIND",
        default_value = "auto",
        requires = "upstream"
    )]
    upstream_kind: KindOption,

    /// HTTP version of the upstream: 1.1, 2, or auto
    ///
    /// With auto, TLS decides. Without TLS it is 1.1, and 2 for gRPC.
    #[arg(
        long,
        value_name = "VERSION",
        env = "INFLUXDB3_UPSTREAM_HTTP_VERSION",
        default_value = "auto",
        requires = "upstream"
    )]
    upstream_http_version: HttpVersion,

    /// How long a connection to the upstream may take, with TLS
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_UPSTREAM_CONNECT_TIMEOUT",
        default_value = "5s",
        value_parser = timeout,
        requires = "upstream"
    )]
    upstream_connect_timeout: Duration,

    /// How long both sides of a request may be silent: until the response begins, and between its
    /// bytes
    ///
    /// A stream or an upgraded connection that is silent for longer ends.
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_UPSTREAM_TIMEOUT",
        default_value = "60s",
        value_parser = timeout,
        requires = "upstream"
    )]
    upstream_timeout: Duration,

    /// Allow this change of the protocol to clients with an accepted token: websocket
    ///
    /// The request is authorized before the change, and every second after it. What goes through is
    /// not read.
    #[arg(long, value_name = "PROTOCOL", env = "INFLUXDB3_UPSTREAM_UPGRADE", requires = "upstream")]
    upstream_upgrade: Option<UpgradeProtocol>,
}

/// The file of the token of the upstream, which can be read again.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamTokenFile {
    path: PathBuf,
    token: UpstreamToken,
}

impl Upstream {
    /// Returns the URL, if the user wants an upstream. It is not parsed with the command line,
    /// whose parser would quote a password in an error.
    fn url(&self) -> Result<Option<UpstreamUrl>, UsageError> {
        let parsed = self.upstream.as_deref().map(str::parse).transpose();
        parsed.map_err(|error: UrlError| UsageError {
            command: &["serve"],
            kind: ErrorKind::ValueValidation,
            text: format!("{UPSTREAM}: {error}"),
        })
    }

    /// Returns whether the user wants an upstream.
    pub(crate) const fn is_set(&self) -> bool {
        self.upstream.is_some()
    }

    /// Returns the upstream, if the user wants one, and the file of its token.
    pub(crate) fn load(
        &self,
        max_connections: usize,
    ) -> anyhow::Result<Option<(UpstreamOptions, Option<UpstreamTokenFile>)>> {
        let Some(url) = &self.url()? else { return Ok(None) };
        let token = match &self.upstream_token_file {
            Some(path) => Some(UpstreamTokenFile::read(path)?),
            None => None,
        };
        if token.is_some() && !url.is_https() && !url.is_loopback() {
            tracing::warn!(
                "{UPSTREAM}: the token of the upstream crosses the network to {url} in the clear; use https://"
            );
        }
        if self.upstream_ca.is_some() && !url.is_https() {
            tracing::warn!("{CA} has no effect for {url}, which has no TLS");
        }
        let tls = url.is_https().then(|| self.trust()?.client_config(true).map_err(anyhow::Error::from));
        let options = UpstreamOptions {
            url: url.clone(),
            token: token.as_ref().map(|file| file.token.clone()),
            tls: tls.transpose()?,
            kind: self.upstream_kind,
            version: self.upstream_http_version,
            connect_timeout: self.upstream_connect_timeout,
            timeout: self.upstream_timeout,
            allows_websocket: self.upstream_upgrade.is_some(),
            max_connections,
        };
        Ok(Some((options, token)))
    }

    fn trust(&self) -> anyhow::Result<Trust> {
        if let Some(path) = &self.upstream_ca {
            trust_file_at(path).with_context(|| format!("{CA}: cannot use {}", path.display()))?;
        }
        Ok(Trust { role: ClientRole::Proxy, ca: self.upstream_ca.clone(), no_verify: false })
    }

    /// Fails if the upstream is this server itself, which listens at this address.
    pub(crate) async fn reject_loop(&self, listener: SocketAddr) -> anyhow::Result<()> {
        let Some(url) = self.url()?.filter(|url| url.port() == listener.port()) else {
            return Ok(());
        };
        // A name that is not known yet may be known later.
        let Ok(found) = lookup_host((url.host(), url.port())).await else { return Ok(()) };
        let found: Vec<_> = found.collect();
        let own = found.iter().filter(|address| is_own(**address, listener)).count();
        if own > 0 && own == found.len() {
            bail!("{UPSTREAM}: {url} is the address of this server; give that of the server behind it");
        }
        if own > 0 {
            tracing::warn!("{UPSTREAM}: an address of {url} is that of this server");
        }
        Ok(())
    }
}

/// Returns whether a connection to this address, whose port is that of the listener, reaches the
/// listener.
fn is_own(address: SocketAddr, listener: SocketAddr) -> bool {
    let (ip, own) = (address.ip().to_canonical(), listener.ip().to_canonical());
    if !own.is_unspecified() {
        return ip == own || ip.is_unspecified() && own.is_loopback();
    }
    // The system binds the addresses of this machine only.
    (own.is_ipv6() || ip.is_ipv4()) && UdpSocket::bind((ip, 0)).is_ok()
}

impl UpstreamTokenFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let token = read_token(path).with_context(|| failed(path))?;
        let token = UpstreamToken::new(&token).with_context(|| failed(path))?;
        Ok(Self { path: path.to_owned(), token })
    }
}

impl TokenFile for UpstreamTokenFile {
    const FILE: ReloadedFile = ReloadedFile::UpstreamToken;
    const KEPT: &'static str = "the upstream gets the previous token";

    fn path(&self) -> &Path {
        &self.path
    }

    fn reload(&mut self, _: &Authority, _: bool) -> anyhow::Result<Reloaded> {
        let token = read_token(&self.path).with_context(|| failed(&self.path))?;
        if !self.token.replace(&token).with_context(|| failed(&self.path))? {
            return Ok(Reloaded::Same);
        }
        tracing::info!("the upstream gets the new token of {}", self.path.display());
        Ok(Reloaded::Read)
    }
}

fn failed(path: &Path) -> String {
    format!("{TOKEN_FILE}: cannot use {}", path.display())
}

fn read_token(path: &Path) -> anyhow::Result<Secret> {
    let (file, checked) = open_trusted(path)?;
    let metadata = file.metadata()?;
    check_opened(checked.as_ref(), &metadata)?;
    ensure!(metadata.len() < MAX_BYTES as u64, "it is longer than 64 KiB; was the right file given?");
    let (mode, shown) = (Mode::of(&metadata), path.display());
    ensure!(!mode.is_writable_by_others(), "others can change it (mode {mode:o}); run: chmod go-w {shown}");
    ensure!(
        readers_of(&metadata) != Readers::Others,
        "others can read the token (mode {mode:o}); run: chmod 0600 {shown}"
    );
    let token = SavedToken::from_file(&file)?.token;
    // JSON may hold any text.
    if let Err(error) = pasted::token(token.expose()) {
        bail!("the token in it {error}");
    }
    Ok(token)
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("no request could be done in time".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(format!("{error}; a duration is one like 500ms, 5s or 1m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_recognised() {
        for (address, listener, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            // TEST-NET-3: no machine has it.
            ("203.0.113.7:1", "0.0.0.0:1", false),
            ("203.0.113.7:1", "127.0.0.1:1", false),
        ] {
            let own = is_own(address.parse().unwrap(), listener.parse().unwrap());
            assert_eq!(own, expected, "{address} {listener}");
        }
    }
}
