//! What all commands say alike: which server, and with which token.

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::token_file::SavedToken;
use crate::cli::warn;
use crate::client::{Client, ClientError, DEFAULT_HOST, Trust};
use crate::secret::Secret;

/// What stands for standard input in the place of a token.
pub(crate) const STDIN: &str = "-";

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// URL of the server, or unix: and the path of its recovery socket
    #[arg(short = 'H', long, value_name = "URL", env = "INFLUXDB3_HOST_URL", default_value = DEFAULT_HOST)]
    host: String,

    /// The token to authenticate with, or - to read it from standard input
    ///
    /// Other users of this machine can see an argument in the list of processes while the command runs; what comes from
    /// standard input, the environment or a file they do not see.
    #[arg(long, value_name = "TOKEN", env = "INFLUXDB3_AUTH_TOKEN", hide_env_values = true)]
    token: Option<Secret>,

    /// Read the token to authenticate with from this file
    ///
    /// It holds the token alone, or JSON with it as --offline writes it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// How long to wait for each answer of the server
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Trust the certificates in this file, too, beside those that the system trusts
    ///
    /// For a server with a certificate of its own. A file named .der holds one certificate in DER, any other file one or
    /// more in PEM.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TLS_CA")]
    tls_ca: Option<PathBuf>,

    /// Do not check the certificate of the server
    ///
    /// Whoever answers in its place is then given the token. Use --tls-ca instead wherever that is possible.
    #[arg(long, env = "INFLUXDB3_TLS_NO_VERIFY")]
    tls_no_verify: bool,
}

impl Connection {
    /// The token, where there is one. An empty variable counts as none. `argument` is one that was given elsewhere on the
    /// command line, and comes first; `asks` tells that standard input is needed for an answer.
    pub(crate) fn token(&self, argument: Option<&Secret>, asks: bool) -> anyhow::Result<Option<Secret>> {
        // What is typed beats the environment, which may have been forgotten.
        let token = match (argument, &self.token_file) {
            (Some(argument), _) => Some(argument),
            (None, Some(path)) => return Ok(Some(SavedToken::read(path)?.token)),
            (None, None) => self.token.as_ref(),
        };
        match token.filter(|token| !token.expose().is_empty()) {
            Some(token) if token.expose() == STDIN => {
                ensure!(
                    !asks,
                    "the token is read from standard input, where no question can be answered then: add --yes"
                );
                from_stdin().map(Some)
            }
            token => Ok(token.cloned()),
        }
    }

    /// The file that the token is read from.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// A client of that server. Warns where others could read the token that is sent or received (`carries_token`), or
    /// take it.
    pub(crate) fn client(&self, carries_token: bool) -> Result<Client, ClientError> {
        let trust = Trust { ca: self.tls_ca.clone(), no_verify: self.tls_no_verify };
        let client = Client::new(&self.host, &trust, self.timeout)?;
        if self.tls_no_verify {
            warn(
                "--tls-no-verify: the server is not verified; whoever answers in its place is given the token",
            );
        }
        if carries_token && client.is_in_the_clear() {
            warn(
                "the token crosses the network in the clear, and whoever is on the way can read it; use https:// where the \
                 server has it",
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
