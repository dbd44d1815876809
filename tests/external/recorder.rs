//! A service that records what it receives, to the byte.
//!
//! HTTP/1.1 is read here, and only in its one certain form: a request that two servers could read
//! in different ways is recorded as such. HTTP/2, which gRPC needs, is read by hyper.

use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// Headers or trailers: names in lower case, and values.
type Fields = Vec<(String, String)>;

/// A request, as the service received it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query string.
    pub(crate) target: String,
    /// Headers, then trailers.
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    /// Whether the body has its end.
    pub(crate) is_complete: bool,
    /// What other servers could read in another way.
    pub(crate) doubts: Vec<String>,
}

impl Received {
    /// Method and target.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// All values of a header. `-` in its name may be `_` in the request.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(given, _)| given.replace('_', "-") == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// A running service. It runs until the process ends.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Recorder {
    /// Answers each request with 200.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let shared = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let received = Arc::clone(&shared);
                thread::spawn(move || {
                    let mut first = [0; 4];
                    // The first bytes of a connection come in one segment.
                    match stream.peek(&mut first) {
                        Ok(4) if &first == b"PRI " => serve_http2(stream, received),
                        Ok(1..) => serve_http1(stream, &received),
                        _ => {}
                    }
                });
            }
        });
        Self { address, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns what was received since the last call.
    pub(crate) fn drain(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

fn serve_http1(stream: TcpStream, received: &Mutex<Vec<Received>>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Ok(Some(request)) = read_http1(&mut reader) {
        let is_last = !request.is_complete || !request.doubts.is_empty();
        let has_body = request.method != "HEAD";
        received.lock().unwrap().push(request);
        let response = if has_body {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        };
        if writer.write_all(response.as_bytes()).is_err() || is_last {
            return;
        }
    }
}

/// Reads a line that ends as it must. Returns no line at the end of the connection.
fn read_line(from: &mut BufReader<TcpStream>, doubts: &mut Vec<String>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    // A character for each byte.
    let text: String = line.iter().copied().map(char::from).collect();
    let Some(line) = text.strip_suffix("\r\n") else {
        doubts.push(format!("a line without its end: {text:?}"));
        return Ok(Some(text.trim_end().to_owned()));
    };
    if line.contains(|next: char| next.is_control() && next != '\t') {
        doubts.push(format!("a control character: {line:?}"));
    }
    Ok(Some(line.to_owned()))
}

fn read_http1(from: &mut BufReader<TcpStream>) -> io::Result<Option<Received>> {
    let mut doubts = Vec::new();
    let Some(line) = read_line(from, &mut doubts)? else { return Ok(None) };
    let words: Vec<_> = line.split(' ').collect();
    let (method, target) = if let [method, target, "HTTP/1.1"] = words[..] {
        (method.to_owned(), target.to_owned())
    } else {
        doubts.push(format!("the request line: {line:?}"));
        (String::new(), line.clone())
    };
    let mut headers = read_fields(from, &mut doubts)?;
    let values = |name: &str| -> Vec<String> {
        headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let mut body = Vec::new();
    let mut is_complete = true;
    match (&lengths[..], &codings[..]) {
        ([], []) => {}
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            body.resize(length.parse().unwrap(), 0);
            is_complete = from.read_exact(&mut body).is_ok();
        }
        ([], [coding]) if coding == "chunked" => match read_chunks(from, &mut doubts) {
            Ok((chunks, trailers)) => {
                body = chunks;
                headers.extend(trailers);
            }
            Err(_) => is_complete = false,
        },
        _ => doubts.push(format!("the length of the body: {lengths:?} {codings:?}")),
    }
    if values_of(&headers, "host").len() != 1 {
        doubts.push("not one Host".to_owned());
    }
    Ok(Some(Received { method, target, headers, body, is_complete, doubts }))
}

fn values_of<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str()).collect()
}

/// Reads headers or trailers up to the empty line.
fn read_fields(from: &mut BufReader<TcpStream>, doubts: &mut Vec<String>) -> io::Result<Fields> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let mut fields = Vec::new();
    loop {
        let line = read_line(from, doubts)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(fields);
        }
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && name.bytes().all(is_name) => {
                fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => doubts.push(format!("a header: {line:?}")),
        }
    }
}

/// Reads a body in chunks, and its trailers.
fn read_chunks(from: &mut BufReader<TcpStream>, doubts: &mut Vec<String>) -> io::Result<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        let line = read_line(from, doubts)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            doubts.push(format!("the size of a chunk: {line:?}"));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            return Ok((body, read_fields(from, doubts)?));
        }
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk)?;
        if !chunk.ends_with(b"\r\n") {
            doubts.push("the end of a chunk".to_owned());
        }
        chunk.truncate(size);
        body.extend(chunk);
    }
}

fn serve_http2(stream: TcpStream, received: Arc<Mutex<Vec<Received>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    stream.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).unwrap());
        let service = service_fn(move |request| {
            let received = Arc::clone(&received);
            async move {
                let request = read_http2(request).await;
                let is_grpc =
                    request.values("content-type").iter().any(|value| value.starts_with("application/grpc"));
                received.lock().unwrap().push(request);
                let mut response = hyper::Response::new(Full::new(Bytes::from_static(b"ok")));
                if is_grpc {
                    *response.body_mut() = Full::default();
                    let headers = response.headers_mut();
                    headers.insert("content-type", "application/grpc".parse().unwrap());
                    headers.insert("grpc-status", "0".parse().unwrap());
                }
                Ok::<_, Infallible>(response)
            }
        });
        // The end of the connection may be an error.
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection(stream, service).await);
    });
}

async fn read_http2(request: hyper::Request<Incoming>) -> Received {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.ok();
    let is_complete = collected.is_some();
    let trailers = collected.as_ref().and_then(|collected| collected.trailers().cloned());
    let content = collected.map(Collected::to_bytes).unwrap_or_default();
    let fields = parts.headers.iter().chain(trailers.iter().flatten());
    let mut headers: Vec<_> = fields
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    if let Some(authority) = parts.uri.authority() {
        headers.push(("host".to_owned(), authority.to_string()));
    }
    let target = parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), ToString::to_string);
    // hyper refuses what is malformed.
    let (method, doubts) = (parts.method.to_string(), Vec::new());
    Received { method, target, headers, body: content.to_vec(), is_complete, doubts }
}
