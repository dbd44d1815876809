//! What all commands say alike: which server, and with which token.

use std::path::PathBuf;

use clap::Args;

use super::warn;
use crate::client::{Client, ClientError, DEFAULT_HOST, Trust};
use crate::secret::Secret;

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// URL of the server, or unix: and the path of its recovery socket
    #[arg(short = 'H', long, value_name = "URL", env = "INFLUXDB3_HOST_URL", default_value = DEFAULT_HOST)]
    host: String,

    /// The token to authenticate with
    ///
    /// Other users of this machine can see it in the list of processes while the command runs; the environment
    /// variable is not seen.
    #[arg(long, value_name = "TOKEN", env = "INFLUXDB3_AUTH_TOKEN", hide_env_values = true)]
    token: Option<Secret>,

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
    /// The token, where there is one. An empty variable counts as none.
    pub(super) fn token(&self) -> Option<&Secret> {
        self.token.as_ref().filter(|token| !token.expose().is_empty())
    }

    /// A client of that server. Warns where others could read the token that is sent or received (`carries_token`), or
    /// take it.
    pub(super) fn client(&self, carries_token: bool) -> Result<Client, ClientError> {
        let trust = Trust { ca: self.tls_ca.clone(), no_verify: self.tls_no_verify };
        let client = Client::new(&self.host, &trust)?;
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
