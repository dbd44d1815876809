//! Requests and answers over `wasi:http`. Beside the exported function in `lib.rs`, the only file
//! that knows it.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_protocol::problem::Problem;
use wasip2::cli::stderr;
use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::poll;
use wasip2::io::streams::StreamError;

use crate::request::{BODY_TIMEOUT_SECONDS, MAX_BODY_BYTES, Request};
use crate::response::Response;

/// The most bytes of one read or write (`wasi:io/streams`).
const CHUNK: usize = 4096;

/// A request from the runtime.
pub(crate) struct Incoming {
    /// Declared, and so dropped, before the request that owns them: a runtime may trap if it is
    /// dropped first.
    headers: Fields,
    request: IncomingRequest,
    method: String,
    path: String,
    query: Option<String>,
}

impl Incoming {
    pub(crate) fn new(request: IncomingRequest) -> Self {
        let method = match request.method() {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
            Method::Post => "POST".into(),
            Method::Put => "PUT".into(),
            Method::Delete => "DELETE".into(),
            Method::Connect => "CONNECT".into(),
            Method::Options => "OPTIONS".into(),
            Method::Trace => "TRACE".into(),
            Method::Patch => "PATCH".into(),
            Method::Other(method) => method,
        };
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path.into(), Some(query.into())),
            None => (path, None),
        };
        let headers = request.headers();
        Self { headers, request, method, path, query }
    }
}

impl Request for Incoming {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.get(name).into_iter().next()
    }

    fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let headers = self.headers.entries().into_iter();
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
    }

    fn body(&mut self) -> Result<Vec<u8>, Problem> {
        // If the announced length is too large, nothing is read.
        let announced = self.header("content-length").and_then(|length| String::from_utf8(length).ok());
        if announced
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: u64| length > MAX_BODY_BYTES as u64)
        {
            return Err(Problem::BodyTooLarge(MAX_BODY_BYTES));
        }
        let body = self.request.consume().map_err(|()| Problem::BodyUnreadable)?;
        let stream = body.stream().map_err(|()| Problem::BodyUnreadable)?;
        let deadline = monotonic_clock::subscribe_duration(BODY_TIMEOUT_SECONDS * 1_000_000_000);
        let readable = stream.subscribe();
        let mut bytes = Vec::new();
        loop {
            match stream.read(CHUNK as u64) {
                // Checked at each chunk, so that neither a slow nor an endless body takes longer.
                Ok(_) if deadline.ready() => return Err(Problem::BodyTimeout),
                Ok(chunk) if chunk.is_empty() => {
                    poll::poll(&[&readable, &deadline]);
                }
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(StreamError::Closed) => return Ok(bytes),
                Err(StreamError::LastOperationFailed(_)) => return Err(Problem::BodyUnreadable),
            }
            if bytes.len() > MAX_BODY_BYTES {
                return Err(Problem::BodyTooLarge(MAX_BODY_BYTES));
            }
        }
    }

    fn log(&self, message: &str) {
        log(message);
    }
}

/// Writes a line to standard error. A failure is ignored: there is no other channel.
pub(crate) fn log(message: &str) {
    let stderr = stderr::get_stderr();
    for chunk in format!("optoken-http: {message}\n").as_bytes().chunks(CHUNK) {
        let _ = stderr.blocking_write_and_flush(chunk);
    }
}

/// Sends an answer. The change that it reports is durable already. A failure is ignored: the client
/// has gone away. The runtime leaves out the body of an answer to HEAD, and keeps its length.
pub(crate) fn send(response: &Response, out: ResponseOutparam) {
    let headers = Fields::new();
    for (name, value) in &response.headers {
        let _ = headers.append(name, value.as_bytes());
    }
    if response.status != 204 {
        let _ = headers.append("content-length", response.body.len().to_string().as_bytes());
    }
    let outgoing = OutgoingResponse::new(headers);
    let _ = outgoing.set_status_code(response.status);
    let body = outgoing.body();
    ResponseOutparam::set(out, Ok(outgoing));
    if let Ok(body) = body {
        if let Ok(stream) = body.write() {
            for chunk in response.body.chunks(CHUNK) {
                let _ = stream.blocking_write_and_flush(chunk);
            }
        }
        let _ = OutgoingBody::finish(body, None);
    }
}
