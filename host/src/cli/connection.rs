//! The options of every command that contacts a server: which server, and with which token.

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::stderr::warn;
use crate::cli::token_file::SavedToken;
use crate::client::{Client, ClientError, DEFAULT_HOST, Trust};
use crate::secret::Secret;

/// The argument that reads a token or a code from standard input.
pub(crate) const STDIN: &str = "-";

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// URL of the server, or unix:PATH for its recovery socket
    #[arg(short = 'H', long, value_name = "URL", env = "INFLUXDB3_HOST_URL", default_value = DEFAULT_HOST)]
    host: String,

    /// Token to authenticate with; - reads it from standard input
    ///
    /// Other users of this machine can see an argument while the command runs. They cannot see
    /// standard input, the environment or a file.
    #[arg(long, value_name = "TOKEN", env = "INFLUXDB3_AUTH_TOKEN", hide_env_values = true)]
    token: Option<Secret>,

    /// File with the token to authenticate with
    ///
    /// It holds the token alone, or JSON as --offline writes it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Time limit of each request
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// File with further trusted certificates, beside those of the system
    ///
    /// A file named .der holds one certificate in DER, any other file one or more in PEM.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TLS_CA")]
    tls_ca: Option<PathBuf>,

    /// Do not check the certificate of the server
    ///
    /// An attacker on the network then gets the token. Prefer --tls-ca.
    #[arg(long, env = "INFLUXDB3_TLS_NO_VERIFY")]
    tls_no_verify: bool,
}

impl Connection {
    /// Returns the token, if there is one. An empty variable counts as none. `argument` is a token
    /// elsewhere on the command line, and takes precedence. `asks` is set if the command reads the
    /// answer to a question from standard input.
    pub(crate) fn token(&self, argument: Option<&Secret>, asks: bool) -> anyhow::Result<Option<Secret>> {
        // Options take precedence over the environment.
        let token = match (argument, &self.token_file) {
            (Some(argument), _) => Some(argument),
            (None, Some(path)) => return Ok(Some(SavedToken::read(path)?.token)),
            (None, None) => self.token.as_ref(),
        };
        match token.filter(|token| !token.expose().is_empty()) {
            Some(token) if token.expose() == STDIN => {
                ensure!(
                    !asks,
                    "the token is read from standard input, so no question can be answered there: add --yes"
                );
                from_stdin().map(Some)
            }
            token => Ok(token.cloned()),
        }
    }

    /// Returns the file of the token.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Returns a client of the server. Warns if an attacker on the network could read or take the
    /// token that requests and responses carry (`carries_token`).
    pub(crate) fn client(&self, carries_token: bool) -> Result<Client, ClientError> {
        let trust = Trust { ca: self.tls_ca.clone(), no_verify: self.tls_no_verify };
        let client = Client::new(&self.host, &trust, self.timeout)?;
        if self.tls_no_verify {
            warn("--tls-no-verify: the server is not verified; an attacker in its place would get the token");
        }
        if carries_token && client.is_plaintext() {
            warn(
                "the token crosses the network in the clear, and an attacker there can read it; use https:// if the server \
                 supports it",
            );
        }
        Ok(client)
    }
}

fn from_stdin() -> anyhow::Result<Secret> {
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut line).context("cannot read the token from standard input")?;
    let token = line.trim();
    ensure!(!token.is_empty(), "there is no token on standard input");
    Ok(token.to_owned().into())
}
