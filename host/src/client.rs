//! The HTTP client of the command line: the token API from the other side.
//!
//! Its errors tell what to try next.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::http::{CREATE_PATH, REGENERATE_PATH};
use crate::secret::{Secret, TOKEN_PREFIX, is_token_char};

/// Where a server listens if nobody said otherwise.
pub(crate) const DEFAULT_HOST: &str = "http://127.0.0.1:8181";

/// How long a command may take, connecting included. The server waits at most a few seconds for its disk.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server, as the command line talks to it.
pub(crate) struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    host: Url,
}

/// The server did not do what it was asked for.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The URL names no server.
    #[error("{host:?} is not the URL of a server, which looks like {DEFAULT_HOST}")]
    Host { host: String },
    /// The server is to be reached in a way that there is not.
    #[error("cannot reach a server at {host}: https is not supported yet")]
    Https { host: String },
    /// The URL holds a credential, which would be sent beside the token or instead of it.
    #[error(
        "the URL of a server has no user name or password; give the token with --token or INFLUXDB3_AUTH_TOKEN"
    )]
    Userinfo,
    /// The token cannot be sent.
    #[error("the token holds characters that no token has; was it copied whole?")]
    Token,
    /// Nobody answers.
    #[error("cannot reach {host}: {reason}\n{hint}")]
    Unreachable { host: String, reason: String, hint: &'static str },
    /// The connection broke before the answer was there.
    #[error(
        "{host} did not answer: {reason}\nThe change may have been made. If the old token is refused from now on, it was: \
         use token recovery.\n{RECOVERY}"
    )]
    NoAnswer { host: String, reason: String },
    /// It answers something else than a token.
    #[error("{host} answers, but not as a token server: {reason}")]
    NotATokenServer { host: String, reason: String },
    /// It says no.
    #[error("the server answered {status}: {message}{hint}")]
    Refused { status: StatusCode, message: String, hint: String },
    /// This process cannot make connections.
    #[error("cannot start the HTTP client: {0}")]
    Start(String),
}

const RECOVERY: &str = "\
If the operator token is lost, start the server with --admin-token-recovery-http-bind and run:
  influxdb3 create token --admin --regenerate --host http://127.0.0.1:8182";

impl Client {
    /// A client of the server at `host`, a URL.
    pub(crate) fn new(host: &str) -> Result<Self, ClientError> {
        let not_a_host = || ClientError::Host { host: host.to_owned() };
        let url = Url::parse(host).map_err(|_| not_a_host())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ClientError::Userinfo);
        }
        if url.scheme() == "https" {
            return Err(ClientError::Https { host: host.to_owned() });
        }
        let name = url.host_str().filter(|_| url.scheme() == "http").ok_or_else(not_a_host)?;
        let mut http =
            reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        // The token for this machine is not for a proxy on another one.
        if name == "localhost"
            || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        {
            http = http.no_proxy();
        }
        let start = |error: &dyn Error| ClientError::Start(innermost(error));
        Ok(Self {
            http: http.build().map_err(|error| start(&error))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| start(&error))?,
            host: url,
        })
    }

    /// Makes the operator token.
    pub(crate) fn create_operator(&self) -> Result<Secret, ClientError> {
        self.issue(CREATE_PATH, None)
    }

    /// Replaces the operator token. Without a credential this works on a recovery listener only.
    pub(crate) fn regenerate_operator(&self, credential: Option<&Secret>) -> Result<Secret, ClientError> {
        self.issue(REGENERATE_PATH, credential)
    }

    fn issue(&self, path: &str, credential: Option<&Secret>) -> Result<Secret, ClientError> {
        let mut url = self.host.clone();
        url.set_path(path);
        url.set_query(None);
        let mut request = self.http.post(url);
        if let Some(credential) = credential {
            let header = Zeroizing::new(format!("Bearer {}", credential.expose()));
            let mut header = HeaderValue::from_str(&header).map_err(|_| ClientError::Token)?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        let (status, body) = self
            .runtime
            .block_on(async {
                let response = request.send().await?;
                Ok((response.status(), Zeroizing::new(response.bytes().await?.to_vec())))
            })
            .map_err(|error: reqwest::Error| self.not_answered(&error))?;

        let stranger = |reason| ClientError::NotATokenServer { host: self.host.to_string(), reason };
        if status == StatusCode::CREATED {
            // Without serde's message, which quotes what it found.
            let issued: Issued = serde_json::from_slice(&body)
                .map_err(|error| stranger(format!("unexpected JSON ({:?})", error.classify())))?;
            let token = Secret::from(issued.token);
            let random = token.expose().strip_prefix(TOKEN_PREFIX).unwrap_or_default();
            return if random.is_empty() || !random.chars().all(is_token_char) {
                Err(stranger("what it calls a token is none".to_owned()))
            } else {
                Ok(token)
            };
        }
        if status.is_success() {
            return Err(stranger(format!("it answered {status} instead of {}", StatusCode::CREATED)));
        }
        Err(self.refused(status, &body, credential.is_some()))
    }

    fn not_answered(&self, error: &reqwest::Error) -> ClientError {
        let (host, reason) = (self.host.to_string(), innermost(error));
        if error.is_connect() {
            let hint = if self.host.port() == Some(8182) {
                "Token recovery is off unless asked for, and closes after its first success. To open it, start the server with:\n  \
                 influxdb3 serve --admin-token-recovery-http-bind"
            } else {
                "Is the server running there? Start it with:\n  influxdb3 serve"
            };
            ClientError::Unreachable { host, reason, hint }
        } else {
            ClientError::NoAnswer { host, reason }
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8], had_credential: bool) -> ClientError {
        /// The JSON form of an error, which some answers have and some have not.
        #[derive(Deserialize)]
        struct Json {
            error: String,
        }

        let message = match serde_json::from_slice(body) {
            Ok(Json { error }) => error,
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        };
        // It may come from anybody and goes to a terminal.
        let message: String = message.chars().filter(|character| !character.is_control()).take(500).collect();
        let hint = match status {
            StatusCode::UNAUTHORIZED if !had_credential => {
                format!("\nGive the operator token with --token or INFLUXDB3_AUTH_TOKEN.\n{RECOVERY}")
            }
            StatusCode::UNAUTHORIZED => {
                format!("\nThis is not the operator token, or no longer.\n{RECOVERY}")
            }
            StatusCode::CONFLICT => "\nTo replace the operator token, run:\n  \
                 influxdb3 create token --admin --regenerate --token OPERATOR_TOKEN"
                .to_owned(),
            StatusCode::NOT_FOUND if message.starts_with("missing admin token") => {
                "\nThere is no operator token yet. To create it, run:\n  influxdb3 create token --admin"
                    .to_owned()
            }
            StatusCode::NOT_FOUND => format!("\nIs {} the address of a token server?", self.host),
            _ => String::new(),
        };
        ClientError::Refused { status, message, hint }
    }
}

/// What the server sends with a new token, as far as it matters here.
#[derive(Deserialize)]
struct Issued {
    token: String,
}

/// The cause at the bottom, which is the one that says something.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
