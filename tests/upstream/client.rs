//! A client of both HTTP versions, whose bodies are streams.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time;

use crate::support::TIMEOUT;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

pub(crate) const BOTH: [Http; 2] = [Http::One, Http::Two];

/// Frames that the test sends.
pub(crate) struct Chunks(mpsc::Receiver<Frame<Bytes>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

pub(crate) fn no_body() -> Chunks {
    let (_, chunks) = mpsc::channel(1);
    Chunks(chunks)
}

/// A body whose frames the test sends.
pub(crate) fn body() -> (mpsc::Sender<Frame<Bytes>>, Chunks) {
    let (sender, chunks) = mpsc::channel(1);
    (sender, Chunks(chunks))
}

pub(crate) fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

enum Sender {
    One(http1::SendRequest<Chunks>),
    Two(http2::SendRequest<Chunks>),
}

type Sent = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// A connection to the server under test.
pub(crate) struct Client {
    runtime: Runtime,
    http: Http,
    sender: Sender,
}

impl Client {
    pub(crate) fn open(http: Http, address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let sender = runtime.block_on(async {
            let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
            match http {
                Http::One => {
                    let (sender, connection) = http1::handshake(stream).await.unwrap();
                    tokio::spawn(connection);
                    Sender::One(sender)
                }
                Http::Two => {
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    tokio::spawn(connection);
                    Sender::Two(sender)
                }
            }
        });
        Self { runtime, http, sender }
    }

    /// Completes within the limit of tests.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { time::timeout(TIMEOUT, future).await.expect("in time") })
    }

    /// Waits for a while, and returns `None` if it is not completed by then.
    pub(crate) fn run_briefly<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { time::timeout(Duration::from_millis(300), future).await.ok() })
    }

    /// Goes on with a future beside others.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// Begins a request.
    pub(crate) fn start(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Chunks,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let request = Request::builder().method(method);
        let request = match self.http {
            Http::One => request.uri(path).header("host", "Service.Example:81"),
            Http::Two => request.uri(format!("http://Service.Example:81{path}")),
        };
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(body).unwrap();
        if let Sender::One(sender) = &mut self.sender {
            self.runtime.block_on(sender.ready()).unwrap();
        }
        let _context = self.runtime.enter();
        let sent: Sent = match &mut self.sender {
            Sender::One(sender) => Box::pin(sender.send_request(request)),
            Sender::Two(sender) => Box::pin(sender.send_request(request)),
        };
        sent
    }

    /// Sends a request, and waits for the head of the response.
    #[track_caller]
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Chunks,
    ) -> Response<Incoming> {
        let sent = self.start(method, path, headers, body);
        self.run(sent).unwrap()
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        self.send("GET", path, headers, no_body())
    }

    /// The next data of a body; `None` at its end.
    pub(crate) fn next(&self, response: &mut Response<Incoming>) -> Option<hyper::Result<Bytes>> {
        loop {
            let frame = match self.run(response.body_mut().frame())? {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error)),
            };
            // The end of a stream is an empty frame in HTTP/2.
            if let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) {
                return Some(Ok(data));
            }
        }
    }

    /// The whole body, and its trailers.
    pub(crate) fn collect(&self, response: Response<Incoming>) -> hyper::Result<(Bytes, HeaderMap)> {
        let collected = self.run(response.into_body().collect())?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok((collected.to_bytes(), trailers))
    }

    #[track_caller]
    pub(crate) fn text(&self, response: Response<Incoming>) -> String {
        String::from_utf8(self.collect(response).unwrap().0.to_vec()).unwrap()
    }

    /// What the service reports of a request.
    #[track_caller]
    pub(crate) fn report(&self, response: Response<Incoming>) -> Report {
        assert_eq!(response.status(), 200, "{response:?}");
        Report(serde_json::from_str(&self.text(response)).unwrap())
    }
}

/// A request, as the service received it.
#[derive(Debug)]
pub(crate) struct Report(pub(crate) Value);

impl Report {
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap()
    }

    /// All values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.0["headers"].as_array().unwrap().iter();
        lines.filter(|line| line[0] == name).map(|line| line[1].as_str().unwrap()).collect()
    }

    /// The names of all headers, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let lines = self.0["headers"].as_array().unwrap().iter();
        let mut names: Vec<_> = lines.map(|line| line[0].as_str().unwrap()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn trailers(&self) -> &Value {
        &self.0["trailers"]
    }
}
