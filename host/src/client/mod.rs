//! The HTTP client of the command line: the token API from the other side.
//!
//! Its errors tell what to try next. Knows the paths of the API and what its answers look like; nothing of options or
//! terminals.

mod tls;

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use optoken_protocol::headers::RECOVERY_CODE;
use optoken_protocol::paths;
use optoken_protocol::token::{PREFIX, is_token_char};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha512};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::Secret;
use tls::Failure;
pub(crate) use tls::{Trust, TrustError};

/// Where a server listens if nobody said otherwise.
pub(crate) const DEFAULT_HOST: &str = "http://127.0.0.1:8181";

/// What a server behind a socket, which has no address, is called in requests.
const SOCKET_URL: &str = "http://localhost";

/// A server, as the command line talks to it.
pub(crate) struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    host: Url,
    /// How the user knows it.
    name: String,
}

/// What the server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Regenerate,
    Stage,
    Confirm,
    Operator,
    Authenticate,
    CreateNamed,
    Delete,
    List,
}

/// How the operator token stands.
#[derive(Debug, Deserialize)]
pub(crate) struct Operator {
    /// The beginning of its SHA-512.
    hash: String,
    /// The token before, while it is still accepted. Null, and not absent, where there is none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) overlap: Option<Overlap>,
}

impl Operator {
    /// Whether it is this token.
    pub(crate) fn is(&self, token: &Secret) -> bool {
        is_of(&self.hash, token)
    }
}

/// What is told of a token, as far as it matters here.
#[derive(Deserialize)]
struct Listed {
    hash: String,
}

/// A token that was replaced and is still accepted.
#[derive(Debug, Deserialize)]
pub(crate) struct Overlap {
    /// The first moment at which it is refused. It may be any text.
    ends_at: String,
}

impl Overlap {
    /// The first moment at which it is refused, for a terminal.
    pub(crate) fn ends_at(&self) -> String {
        printable(&self.ends_at, |_| false)
    }
}

/// How many digits of a hash a server shows (COMPAT 2.7).
const SHORT_HASH_DIGITS: usize = 9;

/// The server did not do what it was asked for.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The URL names no server.
    #[error("{host:?} is not the URL of a server, which looks like {DEFAULT_HOST}")]
    Host { host: String },
    /// The URL holds a credential, which would be sent beside the token or instead of it.
    #[error(
        "the URL of a server has no user name or password; give the token with --token or INFLUXDB3_AUTH_TOKEN"
    )]
    Userinfo,
    /// The certificates that a server is checked with cannot be had.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The token cannot be sent.
    #[error("the token holds characters that no token has; was it copied whole?")]
    Token,
    /// The recovery code cannot be sent.
    #[error("the recovery code holds characters that no code has; was it copied whole?")]
    RecoveryCode,
    /// Nobody answers.
    #[error("cannot reach {host}: {reason}\n{hint}")]
    Unreachable { host: String, reason: String, hint: &'static str },
    /// Somebody answers who need not be who was meant.
    #[error("the server at {host} is not trusted: {reason}\n{hint}")]
    Untrusted { host: String, reason: String, hint: &'static str },
    /// The connection broke before the answer was there.
    #[error("{host} did not answer: {reason}{hint}")]
    NoAnswer { host: String, reason: String, hint: String },
    /// It answers something else than a token server.
    #[error("{host} answers, but not as a token server: {reason}")]
    NotATokenServer { host: String, reason: String },
    /// It says no.
    #[error("server responded with error [{status}]: {message}{hint}")]
    Refused { status: StatusCode, message: String, hint: String },
    /// This process cannot make connections.
    #[error("cannot start the HTTP client: {0}")]
    Start(String),
}

const RECOVERY: &str = "\
If the operator token is lost, start the server with --admin-token-recovery-http-bind and run:
  influxdb3 create token --admin --regenerate --host http://127.0.0.1:8182";

impl Client {
    /// A client of the server at `host`, a URL, or `unix:` and the path of a socket. It waits for each answer for so long,
    /// connecting included.
    pub(crate) fn new(host: &str, trust: &Trust, timeout: Duration) -> Result<Self, ClientError> {
        let not_a_host = || ClientError::Host { host: host.to_owned() };
        let socket = host.strip_prefix("unix:");
        if socket == Some("") {
            return Err(not_a_host());
        }
        let url = Url::parse(if socket.is_some() { SOCKET_URL } else { host }).map_err(|_| not_a_host())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ClientError::Userinfo);
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(not_a_host());
        }
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.client_config(url.scheme() == "https")?)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none());
        // The token for this machine is not for a proxy on another one.
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        if let Some(path) = socket {
            http = http.unix_socket(path);
        }
        let start = |error: &dyn Error| ClientError::Start(innermost(error));
        Ok(Self {
            http: http.build().map_err(|error| start(&error))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| start(&error))?,
            name: socket.map_or_else(|| url.to_string(), |_| host.to_owned()),
            host: url,
        })
    }

    /// Whether others on the way can read what is sent and answered.
    pub(crate) fn is_in_the_clear(&self) -> bool {
        self.host.scheme() == "http" && !is_loopback(&self.host)
    }

    /// Makes the operator token.
    pub(crate) fn create_operator(&self) -> Result<Secret, ClientError> {
        let request = self.http.post(self.url(paths::OPERATOR));
        self.issue(Operation::Create, request, None)
    }

    /// Replaces the operator token. Without a credential this works on a recovery listener only, which may ask for a code.
    pub(crate) fn regenerate_operator(
        &self,
        credential: Option<&Secret>,
        recovery_code: Option<&Secret>,
    ) -> Result<Secret, ClientError> {
        let mut request = self.http.post(self.url(paths::REGENERATE));
        if let Some(code) = recovery_code {
            let mut header = HeaderValue::from_str(code.expose()).map_err(|_| ClientError::RecoveryCode)?;
            header.set_sensitive(true);
            request = request.header(RECOVERY_CODE, header);
        }
        self.issue(Operation::Regenerate, request, credential)
    }

    /// Lets the token with this SHA-512 wait to replace the operator token. Sent again, it means the same.
    pub(crate) fn stage(&self, credential: &Secret, sha512: &str) -> Result<(), ClientError> {
        let body = json!({ "token_sha512": sha512 });
        let request = json_body(self.http.post(self.url(paths::STAGE)), &body);
        self.send(Operation::Stage, request, Some(credential), StatusCode::CREATED).map(drop)
    }

    /// Lets the token that waits replace the operator token, which is still accepted for `overlap` seconds. Succeeds where
    /// it has done so already.
    pub(crate) fn confirm(&self, staged: &Secret, overlap: u64) -> Result<(), ClientError> {
        let body = json!({ "overlap_secs": overlap });
        let request = json_body(self.http.post(self.url(paths::CONFIRM)), &body);
        let body = self.send(Operation::Confirm, request, Some(staged), StatusCode::OK)?;
        let Listed { hash } = self.parse(&body)?;
        self.judge(&hash, staged)
    }

    /// Asks a server that cannot stage whether the token is accepted, without any effect.
    pub(crate) fn authenticate(&self, token: &Secret) -> Result<(), ClientError> {
        let request = self.http.get(self.url(paths::TOKENS));
        match self.send(Operation::Authenticate, request, Some(token), StatusCode::OK) {
            // A token is judged before its path is (COMPAT 2.2), which other servers do not have.
            Ok(_) | Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How the operator token stands, which any token that is accepted may ask.
    pub(crate) fn operator(&self, token: &Secret) -> Result<Operator, ClientError> {
        let request = self.http.get(self.url(paths::OPERATOR));
        let body = self.send(Operation::Operator, request, Some(token), StatusCode::OK)?;
        self.parse(&body)
    }

    /// The same, where the token must be the operator's.
    pub(crate) fn authenticate_operator(&self, token: &Secret) -> Result<Operator, ClientError> {
        let request = self.http.get(self.url(paths::OPERATOR));
        let body = self.send(Operation::Authenticate, request, Some(token), StatusCode::OK)?;
        let operator: Operator = self.parse(&body)?;
        self.judge(&operator.hash, token)?;
        Ok(operator)
    }

    /// Makes a named admin token that is accepted for `lifetime` seconds, or for ever.
    pub(crate) fn create_named(
        &self,
        credential: Option<&Secret>,
        name: &str,
        lifetime: Option<u64>,
    ) -> Result<Secret, ClientError> {
        let body = json!({ "token_name": name, "expiry_secs": lifetime });
        let request = json_body(self.http.post(self.url(paths::NAMED_ADMIN)), &body);
        self.issue(Operation::CreateNamed, request, credential)
    }

    /// Takes a named admin token out.
    pub(crate) fn delete(&self, credential: Option<&Secret>, name: &str) -> Result<(), ClientError> {
        let mut url = self.url(paths::TOKENS);
        url.query_pairs_mut().append_pair("token_name", name);
        let request = self.http.request(Method::DELETE, url);
        let body = self.send(Operation::Delete, request, credential, StatusCode::OK)?;
        // Whoever says yes to everything has deleted nothing.
        if body.is_empty() {
            Ok(())
        } else {
            Err(self.stranger("it shows something instead of deleting".to_owned()))
        }
    }

    /// All tokens in a text format that the server knows by this name. Without control characters but the end of a line:
    /// the answer may come from anybody and goes to a terminal.
    pub(crate) fn list(&self, credential: Option<&Secret>, format: &str) -> Result<String, ClientError> {
        let body = json!({ "db": "_internal", "q": "select * from system.tokens", "format": format });
        let request = json_body(self.http.post(self.url(paths::QUERY_SQL)), &body);
        let body = self.send(Operation::List, request, credential, StatusCode::OK)?;
        let text =
            str::from_utf8(&body).map_err(|_| self.stranger("what it shows is not text".to_owned()))?;
        Ok(printable(text, |character| character == '\n'))
    }

    /// The newest audit records, a line each, as the server has sent them: to print them is not safe.
    pub(crate) fn audit(&self, credential: Option<&Secret>) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.send(Operation::List, self.http.get(self.url(paths::AUDIT)), credential, StatusCode::OK)
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        // Without serde's message, which quotes what it found.
        serde_json::from_slice(body)
            .map_err(|error| self.stranger(format!("unexpected JSON ({:?})", error.classify())))
    }

    /// Whether an answer is about this token, and not one that was meant for an earlier request.
    fn judge(&self, short_hash: &str, token: &Secret) -> Result<(), ClientError> {
        if is_of(short_hash, token) {
            Ok(())
        } else {
            Err(self.stranger("it speaks of another token".to_owned()))
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.host.clone();
        url.set_path(path);
        url.set_query(None);
        url
    }

    fn issue(
        &self,
        operation: Operation,
        request: reqwest::RequestBuilder,
        credential: Option<&Secret>,
    ) -> Result<Secret, ClientError> {
        /// What the server sends with a new token, as far as it matters here.
        #[derive(Deserialize)]
        struct Issued {
            token: String,
        }

        let body = self.send(operation, request, credential, StatusCode::CREATED)?;
        let issued: Issued = self.parse(&body)?;
        let token = Secret::from(issued.token);
        let random = token.expose().strip_prefix(PREFIX).unwrap_or_default();
        if random.is_empty() || !random.chars().all(is_token_char) {
            Err(self.stranger("what it calls a token is none".to_owned()))
        } else {
            Ok(token)
        }
    }

    /// Sends a request and gives the body of the answer, which must have the status `expected`.
    fn send(
        &self,
        operation: Operation,
        mut request: reqwest::RequestBuilder,
        credential: Option<&Secret>,
        expected: StatusCode,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
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
            .map_err(|error: reqwest::Error| self.not_answered(operation, &error))?;
        if status == expected {
            Ok(body)
        } else if status.is_success() {
            Err(self.stranger(format!("it answered {status} instead of {expected}")))
        } else {
            Err(self.refused(operation, status, &body, credential.is_some()))
        }
    }

    fn stranger(&self, reason: String) -> ClientError {
        ClientError::NotATokenServer { host: self.name.clone(), reason }
    }

    fn not_answered(&self, operation: Operation, error: &reqwest::Error) -> ClientError {
        let (host, reason) = (self.name.clone(), innermost(error));
        let https = self.host.scheme() == "https";
        if error.is_connect() {
            let hint = match Failure::of(error).filter(|_| https) {
                Some(Failure::Untrusted(hint)) => return ClientError::Untrusted { host, reason, hint },
                Some(Failure::OtherProtocol(hint)) => hint,
                None if self.name.starts_with("unix:") => {
                    "Token recovery is off unless asked for, and closes after its first success. To open it there, start the server \
                     with --admin-token-recovery-socket, and run this as root or as the user of the server."
                }
                None if self.host.port() == Some(8182) => {
                    "Token recovery is off unless asked for, and closes after its first success. To open it, start the server with:\n  \
                     influxdb3 serve --admin-token-recovery-http-bind"
                }
                None => "Is the server running there? Start it with:\n  influxdb3 serve",
            };
            return ClientError::Unreachable { host, reason, hint };
        }
        let mut hint = String::new();
        if !https && !error.is_timeout() {
            hint += "\nIf the server expects TLS, its URL begins with https://.";
        }
        hint += match operation {
            Operation::Create => {
                "\nThe token may have been created, and nobody has it. If it is said to exist from now on, it was: use token \
                 recovery."
            }
            Operation::Regenerate => {
                "\nThe change may have been made. If the old token is refused from now on, it was: use token recovery."
            }
            Operation::CreateNamed => {
                "\nThe token may have been created, and nobody has it. If it is said to exist from now on, it was; delete it \
                 with:\n  influxdb3 delete token --token-name NAME"
            }
            Operation::Delete => {
                "\nThe token may have been deleted. To see which tokens there are, run:\n  influxdb3 show tokens"
            }
            Operation::Stage => "\nNothing is replaced yet: the old token is still in force.",
            Operation::Confirm | Operation::Operator | Operation::Authenticate | Operation::List => "",
        };
        if matches!(operation, Operation::Create | Operation::Regenerate) {
            hint = hint + "\n" + RECOVERY;
        }
        ClientError::NoAnswer { host, reason, hint }
    }

    fn refused(
        &self,
        operation: Operation,
        status: StatusCode,
        body: &[u8],
        had_credential: bool,
    ) -> ClientError {
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
        let message: String = printable(&message, |_| false).chars().take(500).collect();
        let operator = matches!(
            operation,
            Operation::Create | Operation::Regenerate | Operation::Stage | Operation::Operator
        );
        let hint = match status {
            StatusCode::BAD_REQUEST if message.starts_with("Authorization header was malformed") => {
                "\nWas the token copied whole?".to_owned()
            }
            // Its token is not one that was given.
            StatusCode::UNAUTHORIZED if matches!(operation, Operation::Confirm | Operation::Authenticate) => {
                String::new()
            }
            StatusCode::UNAUTHORIZED if !had_credential => format!(
                "\nGive {} token with --token-file, --token or INFLUXDB3_AUTH_TOKEN.\n{RECOVERY}",
                if operator { "the operator" } else { "an admin" }
            ),
            StatusCode::UNAUTHORIZED => format!(
                "\nThis is not {}, or no longer.\n{RECOVERY}",
                if operator { "the operator token" } else { "a token of this server" }
            ),
            StatusCode::CONFLICT if operation == Operation::Stage => format!(
                "\nWait until then, or end it with the operator token: DELETE {}",
                self.url(paths::OVERLAP)
            ),
            StatusCode::CONFLICT if operator || message == "token name already exists, _admin" => "\nTo replace the operator token, run:\n  \
                 influxdb3 create token --admin --regenerate --token OPERATOR_TOKEN"
                .to_owned(),
            StatusCode::CONFLICT if message.starts_with("token name already exists") => {
                "\nChoose another name, or delete that token with:\n  influxdb3 delete token --token-name NAME"
                    .to_owned()
            }
            StatusCode::NOT_FOUND if message.starts_with("missing admin token") => {
                "\nThere is no operator token yet. To create it, run:\n  influxdb3 create token --admin"
                    .to_owned()
            }
            StatusCode::NOT_FOUND if message.starts_with("the requested resource was not found") => {
                "\nTo see which tokens there are, run:\n  influxdb3 show tokens".to_owned()
            }
            StatusCode::NOT_FOUND => format!("\nIs {} the address of a token server?", self.name),
            StatusCode::METHOD_NOT_ALLOWED if message.starts_with("endpoint disabled") => {
                "\nThe server lets everybody in. For tokens to mean something, start it without --without-auth."
                    .to_owned()
            }
            _ => String::new(),
        };
        ClientError::Refused { status, message, hint }
    }
}

fn is_of(short_hash: &str, token: &Secret) -> bool {
    // Nobody who can make two with the same beginning gains anything.
    short_hash.len() >= SHORT_HASH_DIGITS && sha512_hex(token).starts_with(short_hash)
}

/// SHA-512 of the text of a token, as 128 lower-case hexadecimal digits.
pub(crate) fn sha512_hex(token: &Secret) -> String {
    base16ct::lower::encode_string(&Sha512::digest(token.expose()))
}

fn json_body(request: reqwest::RequestBuilder, body: &serde_json::Value) -> reqwest::RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(body.to_string())
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|name| {
        name == "localhost"
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// A text without its control characters, but for those that are allowed.
fn printable(text: &str, allowed: impl Fn(char) -> bool) -> String {
    text.chars().filter(|&character| !character.is_control() || allowed(character)).collect()
}

/// The cause at the bottom, which is the one that says something.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
