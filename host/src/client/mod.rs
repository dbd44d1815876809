//! The HTTP client of the command line.
//!
//! Knows the requests of the API and the form of its responses. Knows nothing of arguments and
//! files. Text of a response that a terminal shows has no invisible characters.

mod address;
mod error;
mod exchange;
mod not_found;
mod permission;
mod proxy;
mod response;
mod tls;
mod unix_socket;

use std::time::Duration;

use optoken_protocol::token::{PREFIX, SHORT_HASH_DIGITS, is_token_char};
use optoken_protocol::{headers, media_type, paths, system_tokens};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::visible_text::{escape, escape_json, one_line};
pub(crate) use address::DEFAULT_HOST;
use address::ServerAddress;
pub(crate) use error::ClientError;
use error::{SendError, http_error, not_a_token_server, root_cause, transport_error};
use exchange::{Asked, Operation, Reply};
pub(crate) use not_found::Absent;
pub(crate) use permission::RequestedPermission;
use proxy::Route;
pub(crate) use proxy::{ProxyError, ProxySource};
use response::read_body;
pub(crate) use tls::{ClientRole, TlsFailure, Trust};

/// Returns whether this is the address of a server on this machine.
pub(crate) fn is_this_machine(host: &str) -> bool {
    ServerAddress::parse(host).is_ok_and(|address| address.is_loopback())
}

/// A client of one server.
pub(crate) struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    address: ServerAddress,
    route: Route,
    timeout: Duration,
}

/// The state of the operator token.
#[derive(Debug, Deserialize)]
pub(crate) struct OperatorStatus {
    #[serde(rename = "hash")]
    short_hash: String,
    /// The previous token, while it is still accepted. The field is null, and not absent,
    /// otherwise.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) overlap: Option<Overlap>,
}

impl OperatorStatus {
    /// Returns whether this token is the operator token.
    pub(crate) fn is_about(&self, token: &Secret) -> bool {
        is_short_hash_of(&self.short_hash, token)
    }
}

/// What a response shows of a token, as far as the client needs it.
#[derive(Deserialize)]
struct ShownToken {
    #[serde(rename = "hash")]
    short_hash: String,
}

/// A token that was replaced and is still accepted.
#[derive(Debug, Deserialize)]
pub(crate) struct Overlap {
    /// Any text that the server sent.
    #[serde(rename = "ends_at")]
    expires_at: String,
}

impl Overlap {
    /// Returns the first moment at which the token is refused, as text for a terminal.
    pub(crate) fn expires_at(&self) -> String {
        one_line(&self.expires_at)
    }
}

impl Client {
    /// Creates a client of the server at `host`: a URL, or `unix:` and the path of a socket. Each
    /// request ends after `timeout`, connecting included. `proxy` is the URL of a proxy that may
    /// see the token; a server on this machine is asked without.
    pub(crate) fn new(
        host: &str,
        trust: &Trust,
        proxy: Option<(&str, ProxySource)>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let address = ServerAddress::parse(host)?;
        let route = Route::find(&address, trust, proxy)?;
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.client_config(address.is_https())?)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Route::Through { client, .. } = &route {
            http = http.proxy(client.as_ref().clone());
        }
        if let Some(name) = address.local_name() {
            http = http.resolve_to_addrs(name, &ServerAddress::local_addresses());
        }
        let http = http.build().map_err(|error| ClientError::Start(root_cause(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ClientError::Start(root_cause(&error)))?;
        Ok(Self { http, runtime, address, route, timeout })
    }

    /// Returns whether requests cross a network without encryption.
    pub(crate) fn is_plaintext(&self) -> bool {
        self.address.is_plaintext()
    }

    /// Creates the operator token.
    pub(crate) fn create_operator(&self) -> Result<Secret, ClientError> {
        let request = self.post(paths::OPERATOR);
        self.request_token(Operation::Create, request, None)
    }

    /// Replaces the operator token. Without a credential only a recovery listener does so; it may
    /// require the code.
    pub(crate) fn regenerate_operator(
        &self,
        credential: Option<&Secret>,
        recovery_code: Option<&Secret>,
    ) -> Result<Secret, ClientError> {
        let mut request = self.post(paths::REGENERATE);
        if let Some(code) = recovery_code {
            let mut header = HeaderValue::from_str(code.expose()).map_err(|_| ClientError::RecoveryCode)?;
            header.set_sensitive(true);
            request = request.header(headers::RECOVERY_CODE, header);
        }
        self.request_token(Operation::Regenerate, request, credential)
    }

    /// Stages the token with this SHA-512 for the operator token. A repeated request has the same
    /// result.
    pub(crate) fn stage(&self, credential: &Secret, sha512: &str) -> Result<(), ClientError> {
        let request = json_body(self.post(paths::STAGE), &json!({ "token_sha512": sha512 }));
        self.send(Operation::Stage, request, Some(credential), StatusCode::CREATED).map(drop)
    }

    /// Makes the staged token the operator token. The previous one is accepted for another
    /// `overlap` seconds. Succeeds also if this token is the operator token already.
    pub(crate) fn confirm(&self, staged: &Secret, overlap: u64) -> Result<(), ClientError> {
        let request = json_body(self.post(paths::CONFIRM), &json!({ "overlap_secs": overlap }));
        let answer = self.send(Operation::Confirm, request, Some(staged), StatusCode::OK)?;
        let ShownToken { short_hash } = answer.parse()?;
        answer.check_hash(&short_hash, staged)
    }

    /// Checks whether a server that cannot stage accepts the token. Changes nothing.
    pub(crate) fn authenticate(&self, token: &Secret) -> Result<(), ClientError> {
        let request = self.get(paths::TOKENS);
        match self.send(Operation::Authenticate, request, Some(token), StatusCode::OK) {
            // A server checks the token before the path (docs/compatibility.md 2.2), and InfluxDB 3
            // does not have this path.
            Err(error) if error.absent() == Some(Absent::Path) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Returns the state of the operator token. Any accepted token permits it.
    pub(crate) fn operator_status(&self, token: &Secret) -> Result<OperatorStatus, ClientError> {
        self.send(Operation::OperatorStatus, self.get(paths::OPERATOR), Some(token), StatusCode::OK)?.parse()
    }

    /// Checks that this token is the operator token, and returns its state.
    pub(crate) fn authenticate_operator(&self, token: &Secret) -> Result<OperatorStatus, ClientError> {
        let answer =
            self.send(Operation::Authenticate, self.get(paths::OPERATOR), Some(token), StatusCode::OK)?;
        let operator: OperatorStatus = answer.parse()?;
        answer.check_hash(&operator.short_hash, token)?;
        Ok(operator)
    }

    /// Creates a named admin token that expires after `lifetime` seconds, or never.
    pub(crate) fn create_named(
        &self,
        credential: Option<&Secret>,
        name: &str,
        lifetime: Option<u64>,
    ) -> Result<Secret, ClientError> {
        let body = json!({ "token_name": name, "expiry_secs": lifetime });
        let request = json_body(self.post(paths::NAMED_ADMIN), &body);
        self.request_token(Operation::CreateNamed, request, credential)
    }

    /// Creates a token with permissions that expires after `lifetime` seconds, or never.
    pub(crate) fn create_scoped(
        &self,
        credential: Option<&Secret>,
        name: &str,
        permissions: &[RequestedPermission],
        lifetime: Option<u64>,
    ) -> Result<Secret, ClientError> {
        let body = json!({ "token_name": name, "permissions": permissions, "expiry_secs": lifetime });
        let request = json_body(self.post(paths::SCOPED), &body);
        self.request_token(Operation::CreateScoped, request, credential)
    }

    /// Deletes a named token.
    pub(crate) fn delete(&self, credential: Option<&Secret>, name: &str) -> Result<(), ClientError> {
        let mut url = self.address.url_of(paths::TOKENS);
        url.query_pairs_mut().append_pair("token_name", name);
        let request = self.http.request(Method::DELETE, url);
        let answer = self.send(Operation::Delete, request, credential, StatusCode::OK)?;
        // A server that answers 200 to every request has deleted nothing.
        if answer.body.is_empty() {
            Ok(())
        } else {
            Err(answer.invalid("its response to a deletion has a body"))
        }
    }

    /// Lists all tokens in a text format of the server. The text has no invisible characters but
    /// line feeds: JSON has them as JSON escapes them.
    pub(crate) fn list(&self, credential: Option<&Secret>, format: &str) -> Result<String, ClientError> {
        let body = json!({ "db": system_tokens::DATABASE, "q": system_tokens::QUERY, "format": format });
        let request = json_body(self.post(paths::QUERY_SQL), &body);
        let answer = self.send(Operation::List, request, credential, StatusCode::OK)?;
        let text = str::from_utf8(&answer.body).map_err(|_| answer.invalid("the list is not text"))?;
        // Another kind of server answers with anything, such as what it was sent.
        if credential.is_some_and(|credential| text.contains(credential.expose())) {
            return Err(answer.invalid("it repeats the token that it was sent"));
        }
        if text.trim_start().starts_with('<') {
            return Err(answer.invalid("it is a web page, and no list"));
        }
        // A list has no control characters: names have none, and JSON escapes them.
        let text: String =
            text.chars().filter(|&character| character == '\n' || !character.is_control()).collect();
        let text = if format.starts_with("json") { escape_json(&text) } else { escape(&text) };
        Ok(text.into_owned())
    }

    /// Returns the newest audit records, a line each, as the server sent them. A terminal must not
    /// show them as they are.
    pub(crate) fn audit_records(
        &self,
        credential: Option<&Secret>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.send(Operation::List, self.get(paths::AUDIT), credential, StatusCode::OK)
            .map(|answer| answer.body)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.address.url_of(path))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.address.url_of(path))
    }

    /// Sends a request and returns the new token of the response.
    fn request_token(
        &self,
        operation: Operation,
        request: RequestBuilder,
        credential: Option<&Secret>,
    ) -> Result<Secret, ClientError> {
        /// The response, as far as the client needs it.
        #[derive(Deserialize)]
        struct IssuedToken {
            token: String,
        }

        let answer = self.send(operation, request, credential, StatusCode::CREATED)?;
        let issued: IssuedToken = answer.parse()?;
        let token = Secret::from(issued.token);
        let random = token.expose().strip_prefix(PREFIX).unwrap_or_default();
        if random.is_empty() || !random.chars().all(is_token_char) {
            Err(answer.invalid("the token in its response is malformed"))
        } else {
            Ok(token)
        }
    }

    /// Sends a request and returns the response, which must have the status `expected`.
    fn send<'a>(
        &'a self,
        operation: Operation,
        mut request: RequestBuilder,
        credential: Option<&'a Secret>,
        expected: StatusCode,
    ) -> Result<Answer<'a>, ClientError> {
        if let Some(credential) = credential {
            let header = Zeroizing::new(format!("Bearer {}", credential.expose()));
            let mut header = HeaderValue::from_str(&header).map_err(|_| ClientError::Token)?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        let request = request.build().map_err(|error| ClientError::Start(root_cause(&error)))?;
        let url = request.url().clone();
        let asked = Asked { address: &self.address, route: &self.route, operation, url: &url, credential };
        let reply = self
            .runtime
            .block_on(self.exchange(operation, request))
            .map_err(|error| transport_error(&asked, &error))?;
        let status = reply.status;
        if status == expected {
            Ok(Answer { client: self, operation, url, credential, body: reply.body })
        } else if status.is_success() {
            Err(not_a_token_server(&asked, format!("it responded with {status} instead of {expected}")))
        } else {
            Err(http_error(&asked, &reply))
        }
    }

    /// Sends a request, and reads the whole response.
    async fn exchange(&self, operation: Operation, request: Request) -> Result<Reply, SendError> {
        let Some(path) = self.address.socket() else {
            let response = self.http.execute(request).await.map_err(SendError::Http)?;
            return read_body(operation, response).await;
        };
        let exchange = async {
            let response = unix_socket::send(path, request).await.map_err(SendError::Socket)?;
            read_body(operation, response).await
        };
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| SendError::Timeout)?
    }
}

/// A response with the expected status, and the request that it answers.
struct Answer<'a> {
    client: &'a Client,
    operation: Operation,
    url: Url,
    credential: Option<&'a Secret>,
    body: Zeroizing<Vec<u8>>,
}

impl Answer<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        // The message of serde quotes the body, which may hold a token.
        serde_json::from_slice(&self.body)
            .map_err(|error| self.invalid(format!("unexpected JSON ({:?})", error.classify())))
    }

    /// Checks that the response is about this token. It may answer an earlier request.
    fn check_hash(&self, short_hash: &str, token: &Secret) -> Result<(), ClientError> {
        if is_short_hash_of(short_hash, token) {
            Ok(())
        } else {
            Err(self.invalid("its response is about another token"))
        }
    }

    /// The response is not that of a token server, for this reason.
    fn invalid(&self, reason: impl Into<String>) -> ClientError {
        let Self { client, operation, ref url, credential, .. } = *self;
        let Client { address, route, .. } = client;
        not_a_token_server(&Asked { address, route, operation, url, credential }, reason)
    }
}

fn is_short_hash_of(short_hash: &str, token: &Secret) -> bool {
    // A collision of these digits is of no use to an attacker, because both tokens would be its
    // own.
    short_hash.len() >= SHORT_HASH_DIGITS && sha512_hex(token).starts_with(short_hash)
}

/// Returns the SHA-512 of the text of a token, as 128 lower-case hexadecimal digits.
pub(crate) fn sha512_hex(token: &Secret) -> String {
    base16ct::lower::encode_string(&Sha512::digest(token.expose()))
}

fn json_body(request: RequestBuilder, body: &serde_json::Value) -> RequestBuilder {
    request.header(CONTENT_TYPE, media_type::JSON).body(body.to_string())
}
