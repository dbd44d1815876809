//! HTTP/1.1 down to the bytes.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::TIMEOUT;
use super::secrets::{assert_token_form, holds_known_token, remember_tokens};

pub(crate) const CREATE: &str = "/api/v3/configure/token/admin";
pub(crate) const REGENERATE: &str = "/api/v3/configure/token/admin/regenerate";
pub(crate) const STAGE: &str = "/api/v3/configure/token/admin/regenerate/stage";
pub(crate) const CONFIRM: &str = "/api/v3/configure/token/admin/regenerate/confirm";
pub(crate) const OVERLAP: &str = "/api/v3/configure/token/admin/regenerate/overlap";
pub(crate) const NAMED_ADMIN: &str = "/api/v3/configure/token/named_admin";
pub(crate) const TOKENS: &str = "/api/v3/configure/token";
pub(crate) const VERIFY: &str = "/api/v3/verify";
pub(crate) const NOT_AUTHENTICATED: &str = r#"{"error": "the request was not authenticated"}"#;

/// Host header of a request whose server is not known yet.
const HOST: &str = "Host: localhost\r\n";

/// A request, down to the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

pub(crate) fn request(method: &str, path: &str) -> Request {
    Request { head: format!("{method} {path} HTTP/1.1\r\n{HOST}"), body: Vec::new() }
}

pub(crate) fn get(path: &str) -> Request {
    request("GET", path)
}

pub(crate) fn post(path: &str) -> Request {
    request("POST", path)
}

/// A request that creates a named admin token.
pub(crate) fn create_named(credential: &str, name: &str) -> Request {
    post(NAMED_ADMIN).bearer(credential).json(&json!({ "token_name": name }))
}

/// A request that deletes a named admin token. `name` is percent-encoded.
pub(crate) fn delete_named(credential: &str, name: &str) -> Request {
    request("DELETE", &format!("{TOKENS}?token_name={name}")).bearer(credential)
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        write!(self.head, "{name}: {value}\r\n").unwrap();
        self
    }

    /// Replaces the Host header.
    pub(crate) fn with_host(self, host: &str) -> Self {
        Self { head: self.head.replacen(HOST, &format!("Host: {host}\r\n"), 1), ..self }
    }

    pub(crate) fn authorization(self, value: &str) -> Self {
        self.header("Authorization", value)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.authorization(&format!("Bearer {token}"))
    }

    /// A body of JSON, with its type and length.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string().as_bytes())
    }

    /// A body and its length.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        let length = body.len().to_string();
        Self { body: body.to_vec(), ..self.header("Content-Length", &length) }
    }

    /// A body in chunks of this many bytes.
    pub(crate) fn chunked(self, body: &[u8], chunk: usize) -> Self {
        let mut chunks = Vec::new();
        for chunk in body.chunks(chunk) {
            write!(chunks, "{:x}\r\n", chunk.len()).unwrap();
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        Self { body: chunks, ..self.header("Transfer-Encoding", "chunked") }
    }

    /// A body in one chunk, and a trailer after it.
    pub(crate) fn chunked_with_trailer(self, body: &[u8], trailer: &str) -> Self {
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), body].concat();
        let body = [&chunk[..], format!("\r\n0\r\n{trailer}\r\n\r\n").as_bytes()].concat();
        Self { body, ..self.header("Transfer-Encoding", "chunked") }
    }

    /// Method, and path without the query string.
    pub(crate) fn target(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        (method, target.split('?').next().unwrap())
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Adds the port of the server to the Host header, which a recovery listener checks.
    pub(crate) fn to(&self, server: SocketAddr) -> Self {
        let host = format!("Host: localhost:{}\r\n", server.port());
        Self { head: self.head.replacen(HOST, &host, 1), ..self.clone() }
    }

    /// Sends it on a new connection.
    #[track_caller]
    pub(crate) fn send(&self, to: SocketAddr) -> Response {
        let mut connection = Connection::open(to).unwrap();
        connection.write(&self.to(to).to_bytes());
        connection.read().unwrap()
    }
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        Self::of(TcpStream::connect(to)?)
    }

    /// Opens a connection from this address of the machine.
    pub(crate) fn open_from(from: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&to.into())?;
        Self::of(socket.into())
    }

    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes. Ignores errors, which show when the response is read.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self.stream.get_mut().write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the server does not read"),
            _ => {}
        }
    }

    /// Closes the direction to the server.
    pub(crate) fn finish_writing(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads a response. Returns an error if the server has closed the connection, and panics if it
    /// sends nothing.
    pub(crate) fn read(&mut self) -> io::Result<Response> {
        let mut response = self.read_head()?;
        if let Some(length) = response.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            or_panic_on_timeout(self.stream.read_exact(&mut body))?;
            response.body = match response.header("content-type") {
                // The one binary format.
                Some("application/vnd.apache.parquet") => String::from_utf8_lossy(&body).into_owned(),
                _ => String::from_utf8(body).unwrap(),
            };
        }
        response.check_content();
        Ok(response)
    }

    /// Reads a response to HEAD, which has no body.
    pub(crate) fn read_head(&mut self) -> io::Result<Response> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if or_panic_on_timeout(self.stream.read_line(&mut line))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let (status_line, fields) = head.split_first().unwrap();
        let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let headers = fields.iter().map(|field| {
            let (name, value) = field.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Ok(Response { status: status.unwrap(), headers: headers.collect(), body: String::new() })
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        or_panic_on_timeout(self.stream.read_exact(&mut bytes)).unwrap();
        bytes
    }
}

/// Panics on a timeout, and passes every other result on.
fn or_panic_on_timeout<T>(read: io::Result<T>) -> io::Result<T> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("the server neither responds nor closes")
        }
        read => read,
    }
}

/// A response. Header names are in lower case.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// Asserts that there is no CORS header, and no token in an error. Remembers other tokens.
    fn check_content(&self) {
        let cors = |(name, _): &(String, String)| name.starts_with("access-control-");
        assert!(!self.headers.iter().any(cors), "a CORS header: {self:?}");
        if self.status < 400 {
            remember_tokens(&self.body);
        } else {
            assert!(!holds_known_token(&format!("{self:?}")), "a token in an error response: {self:?}");
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The token of a response that creates one.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status, 201, "{self:?}");
        let token = self.json()["token"].as_str().unwrap().to_owned();
        assert_token_form(&token);
        token
    }

    /// Asserts status and body.
    #[track_caller]
    pub(crate) fn assert_is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body), "{self:?}");
    }
}

/// Sends all requests at the same moment, each on its own connection. All connections are open and
/// have sent all but the last byte before the first last byte is sent.
pub(crate) fn send_concurrently(requests: Vec<(SocketAddr, Request)>) -> Vec<io::Result<Response>> {
    let ready = Arc::new(Barrier::new(requests.len()));
    let begun: Vec<_> = requests
        .into_iter()
        .map(|(to, request)| {
            let mut bytes = request.to(to).to_bytes();
            let last = bytes.pop().unwrap();
            let mut connection = Connection::open(to).unwrap();
            connection.write(&bytes);
            (connection, last)
        })
        .collect();
    let finish = |(mut connection, last): (Connection, u8)| {
        let ready = Arc::clone(&ready);
        thread::spawn(move || {
            ready.wait();
            connection.write(&[last]);
            connection.read()
        })
    };
    // All threads start before the first is joined.
    let senders: Vec<_> = begun.into_iter().map(finish).collect();
    senders.into_iter().map(|sender| sender.join().unwrap()).collect()
}
