//! Requests to the JSON gateways of the members.
//!
//! A read asks the next member if one fails or is slow. A write goes to one member: it is sent to
//! the next only if it was certainly not sent before.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::secret::Secret;
use crate::store::ClockDifference;
use crate::store::etcd::address::{Address, User};
use crate::store::etcd::failure::{Cause, Failure};
use crate::store::etcd::message::Authenticated;
use crate::store::remote::ConnectError;
use crate::store::remote::http_date::clock_difference;

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a member may need to issue a token: the others wait for it.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before a read asks a failed member again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// The most bytes of a response: 8 MiB of chunks, which Base64 makes a third longer.
const MAX_RESPONSE_BYTES: usize = 12 << 20;

/// The most bytes of the response of an error.
const MAX_FAULT_BYTES: usize = 64 << 10;

/// A member without a leader refuses a request with this header at once, and ends a watch.
const REQUIRE_LEADER: (&str, &str) = ("grpc-metadata-hasleader", "true");

/// A client of all members.
pub(super) struct Gateway {
    http: Client,
    endpoints: Vec<Url>,
    /// The number of the member that has answered last.
    preferred: AtomicUsize,
    user: Option<User>,
    token: Mutex<Option<Arc<Secret>>>,
}

/// A successful response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The clock of the member, if it states one.
    pub(super) clock: Option<ClockDifference>,
}

impl Answer {
    /// Parses the body. A failure of that may hide a success.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("its response is not that of etcd: {error}"))
    }
}

/// How a read is spread over the members.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) deadline: Instant,
    /// How long one member may be silent before the next is asked as well.
    pub(super) hedge: Duration,
}

impl Gateway {
    pub(super) fn new(address: &mut Address) -> Result<Self, ConnectError> {
        let tls = address.client_config()?;
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .no_proxy()
            // One connection for each request at a time: a slow one delays no other.
            .http1_only()
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(2))
            .tcp_keepalive_interval(Duration::from_secs(2))
            .tcp_keepalive_retries(2)
            .build()
            .map_err(|error| ConnectError::Setup {
                address: address.shown.clone(),
                reason: format!("the HTTP client does not start: {error}"),
            })?;
        Ok(Self {
            http,
            endpoints: address.endpoints.clone(),
            preferred: AtomicUsize::new(0),
            user: address.user.take(),
            token: Mutex::new(None),
        })
    }

    /// Returns the numbers of all members, beginning with the one that has answered last.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.endpoints.len());
        (0..count).map(move |step| (first + step) % count)
    }

    /// Returns the name of a member for errors.
    pub(super) fn name(&self, member: usize) -> String {
        self.endpoints
            .get(member)
            .map_or_else(String::new, |endpoint| endpoint.as_str().trim_end_matches('/').to_owned())
    }

    /// Sends a read to one member after another, until one answers or the time is over. A member
    /// that fails is asked again after a pause, also while another one is silent.
    pub(super) async fn read(
        self: &Arc<Self>,
        path: &'static str,
        body: String,
        patience: Patience,
    ) -> Result<Answer, ReadFailure> {
        let body: Arc<str> = body.into();
        let mut failures = ReadFailure::default();
        let (mut members, mut silent) = (self.members().peekable(), Vec::new());
        // The requests that are left end with this.
        let mut asked = JoinSet::new();
        let ask = |member: usize, pause: Duration| {
            let (gateway, body) = (Arc::clone(self), Arc::clone(&body));
            async move {
                sleep(pause).await;
                (member, pause, gateway.ask(member, path, &body).await)
            }
        };
        loop {
            if let Some(member) = members.next() {
                silent.push(member);
                asked.spawn(ask(member, Duration::ZERO));
            }
            let until = match members.peek() {
                Some(_) => patience.deadline.min(Instant::now() + patience.hedge),
                None => patience.deadline,
            };
            match timeout_at(until, asked.join_next()).await {
                Ok(Some(Ok((member, _, Ok(answer))))) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Some(Ok((member, pause, Err(failure))))) => {
                    if failure.is_of_all_members() {
                        return Err(ReadFailure(vec![failure]));
                    }
                    silent.retain(|other| *other != member);
                    failures.add(failure);
                    asked.spawn(ask(member, (pause * 2).clamp(PAUSES.0, PAUSES.1)));
                }
                // A request that panicked, or none at all.
                Ok(_) => return Err(failures),
                Err(_) if Instant::now() >= patience.deadline => {
                    for member in silent {
                        failures.add(self.lost(member, "no answer in time".to_owned()));
                    }
                    return Err(failures);
                }
                Err(_) => {}
            }
        }
    }

    /// Sends a write to one member. Asks the next one only if nothing was sent.
    pub(super) async fn write(
        &self,
        path: &'static str,
        body: &str,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut last = None;
        for member in self.members() {
            let result = timeout_at(deadline, self.ask(member, path, body))
                .await
                .unwrap_or_else(|_| Err(self.lost(member, "no answer in time".to_owned())));
            match result {
                Err(failure @ Failure { cause: Cause::NotSent(_), .. }) => last = Some(failure),
                Err(failure) => return Err(failure),
                Ok(answer) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(answer);
                }
            }
        }
        // The list has one member at least.
        let none = || Failure { endpoint: String::new(), cause: Cause::NotSent("no endpoint".to_owned()) };
        Err(last.unwrap_or_else(none))
    }

    /// Sends a request to one member, with a new token if the old one has ended. A request without
    /// a valid token is refused before it changes anything, so a write may be sent again.
    pub(super) async fn ask(&self, member: usize, path: &str, body: &str) -> Result<Answer, Failure> {
        let token = self.token(member, None).await?;
        match self.send(member, path, body, token.as_deref()).await {
            Err(failure) if failure.is_stale_token() && token.is_some() => {
                let token = self.token(member, token).await?;
                self.send(member, path, body, token.as_deref()).await
            }
            result => result,
        }
    }

    /// Starts a request whose response has no end.
    pub(super) async fn stream(
        &self,
        member: usize,
        path: &str,
        body: &str,
    ) -> Result<reqwest::Response, Failure> {
        let token = self.token(member, None).await?;
        let response = self.start(member, path, body, token.as_deref()).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => {
                let body = read_body(response, MAX_FAULT_BYTES).await.unwrap_or_default();
                Err(Failure { endpoint: self.name(member), cause: Cause::of_response(status, &body) })
            }
        }
    }

    /// Reads the password of the user, which may be in a file.
    async fn password(&self, member: usize, user: &User) -> Result<Secret, Failure> {
        let password = user.password.clone();
        let read = spawn_blocking(move || password.read()).await;
        let failed = |reason: String| self.lost(member, reason).before_the_request();
        let password = read.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        password.ok_or_else(|| self.lost(member, "no password".to_owned()).before_the_request())
    }

    /// Returns the token of the user, if there is a user. Gets one if there is none beside `ended`.
    async fn token(&self, member: usize, ended: Option<Arc<Secret>>) -> Result<Option<Arc<Secret>>, Failure> {
        let Some(user) = &self.user else { return Ok(None) };
        // Requests that meet an ended token at once wait for one new token: each costs etcd a hash
        // of the password.
        let mut token = self.token.lock().await;
        let usable =
            token.as_ref().filter(|token| ended.as_ref().is_none_or(|ended| !Arc::ptr_eq(token, ended)));
        if let Some(token) = usable {
            return Ok(Some(Arc::clone(token)));
        }
        *token = None;
        let password = self.password(member, user).await?;
        let body = json!({ "name": user.name, "password": password.expose() }).to_string();
        let answer = timeout(AUTHENTICATE_TIMEOUT, self.send(member, "auth/authenticate", &body, None)).await;
        let answer = answer.unwrap_or_else(|_| Err(self.lost(member, "no answer in time".to_owned())));
        // The request itself has not been sent.
        let answer = answer.map_err(Failure::before_the_request)?;
        let Authenticated { token: text } =
            answer.parse().map_err(|reason| self.lost(member, reason).before_the_request())?;
        let new = Arc::new(Secret::from(text));
        *token = Some(Arc::clone(&new));
        Ok(Some(new))
    }

    async fn send(
        &self,
        member: usize,
        path: &str,
        body: &str,
        token: Option<&Secret>,
    ) -> Result<Answer, Failure> {
        let (began, wall) = (std::time::Instant::now(), SystemTime::now());
        let response = self.start(member, path, body, token).await?;
        let elapsed = began.elapsed();
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let clock = date.and_then(|date| clock_difference(date, wall + elapsed, elapsed));
        let status = response.status();
        if status != StatusCode::OK {
            let body = read_body(response, MAX_FAULT_BYTES).await.unwrap_or_default();
            return Err(Failure { endpoint: self.name(member), cause: Cause::of_response(status, &body) });
        }
        let body =
            read_body(response, MAX_RESPONSE_BYTES).await.map_err(|reason| self.lost(member, reason))?;
        Ok(Answer { body, clock })
    }

    async fn start(
        &self,
        member: usize,
        path: &str,
        body: &str,
        token: Option<&Secret>,
    ) -> Result<reqwest::Response, Failure> {
        let endpoint =
            self.endpoints.get(member).and_then(|endpoint| endpoint.join("v3/").ok()?.join(path).ok());
        let endpoint = endpoint.ok_or_else(|| self.lost(member, "no such member".to_owned()))?;
        let (name, value) = REQUIRE_LEADER;
        let mut request =
            self.http.post(endpoint).header(name, value).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            let mut header = HeaderValue::from_str(token.expose())
                .map_err(|_| self.lost(member, "its token is no header".to_owned()))?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        request
            .body(body.to_owned())
            .send()
            .await
            .map_err(|error| Failure { endpoint: self.name(member), cause: Cause::of_connection(&error) })
    }

    fn lost(&self, member: usize, reason: String) -> Failure {
        Failure { endpoint: self.name(member), cause: Cause::Lost(reason) }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("members", &self.endpoints.len()).finish_non_exhaustive()
    }
}

/// Reads the body of a response within a limit.
async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(format!("its response has more than {limit} bytes")),
            Ok(None) => return Ok(body),
            Err(error) => {
                let (Cause::NotSent(text) | Cause::Lost(text)) = Cause::of_connection(&error) else {
                    return Err("the connection broke".to_owned());
                };
                return Err(text);
            }
        }
    }
}

/// Why no member has answered a read: the newest failure of each.
#[derive(Debug, Default)]
pub(super) struct ReadFailure(Vec<Failure>);

impl ReadFailure {
    fn add(&mut self, failure: Failure) {
        self.0.retain(|other| other.endpoint != failure.endpoint);
        self.0.push(failure);
    }

    /// Returns the failure, if all members respond with this one.
    pub(super) fn of_all_members(&self) -> Option<&Failure> {
        self.0.first().filter(|failure| failure.is_of_all_members())
    }
}

impl fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no answer in time");
        }
        for (number, failure) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            failure.fmt(f)?;
        }
        Ok(())
    }
}
