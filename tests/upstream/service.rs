//! A service behind the server under test: it reports what it receives, and has paths that
//! misbehave.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Empty, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

type ServiceBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A chunk of `/endless`.
pub(crate) static CHUNK: [u8; 16 << 10] = [b'x'; 16 << 10];

/// What the service counts, and what its paths wait for.
#[derive(Default)]
pub(crate) struct State {
    /// How many requests each path has received.
    hits: Mutex<HashMap<String, usize>>,
    /// How many bytes `/endless` has produced.
    pub(crate) produced: AtomicU64,
    /// How many responses of `/endless` are in flight.
    pub(crate) endless: AtomicUsize,
    /// Where the chunks of each `/step` are sent.
    steps: Mutex<Vec<mpsc::UnboundedSender<Bytes>>>,
    /// How many connections were accepted.
    pub(crate) connections: AtomicUsize,
}

/// The service. It ends with its runtime.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    _runtime: Runtime,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// A service with TLS, which offers these protocols.
    pub(crate) fn start_tls(certificate: &Path, key: &Path, protocols: &[&str]) -> Self {
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let runtime = Runtime::new().unwrap();
        let state = Arc::<State>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                        None => serve(stream, state).await,
                    }
                });
            }
        });
        Self { address, state, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn hits(&self, path: &str) -> usize {
        self.state.hits.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Sends a chunk on every `/step`. Returns how many were in flight.
    pub(crate) fn step(&self, chunk: &'static str) -> usize {
        let mut steps = self.state.steps.lock().unwrap();
        steps.retain(|sender| sender.send(Bytes::from_static(chunk.as_bytes())).is_ok());
        steps.len()
    }

    /// Ends every `/step`.
    pub(crate) fn end_steps(&self) {
        self.state.steps.lock().unwrap().clear();
    }

    /// How many requests it has received, apart from the question for its kind.
    pub(crate) fn all_hits(&self) -> usize {
        let hits = self.state.hits.lock().unwrap();
        hits.iter().filter(|(path, _)| *path != "/ping").map(|(_, count)| count).sum()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { respond(request, state).await.map_err(|()| std::io::Error::other("closed")) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

fn full(text: impl Into<Bytes>) -> ServiceBody {
    Full::new(text.into()).map_err(|error: Infallible| match error {}).boxed_unsync()
}

fn empty() -> ServiceBody {
    Empty::new().map_err(|error: Infallible| match error {}).boxed_unsync()
}

/// Responds to a request. An error closes the connection.
async fn respond(request: Request<Incoming>, state: Arc<State>) -> Result<Response<ServiceBody>, ()> {
    let path = request.uri().path().to_owned();
    let hits = {
        let mut hits = state.hits.lock().unwrap();
        let hits = hits.entry(path.clone()).or_default();
        *hits += 1;
        *hits
    };
    let response = Response::builder();
    Ok(match path.as_str() {
        "/ping" => response.header("x-influxdb-version", "3.10.1").body(full("pong")).unwrap(),
        "/endless" => {
            state.endless.fetch_add(1, Ordering::SeqCst);
            response.body(Endless(state).boxed_unsync()).unwrap()
        }
        "/step" => {
            let (sender, chunks) = mpsc::unbounded_channel();
            state.steps.lock().unwrap().push(sender);
            response.body(Steps(chunks).boxed_unsync()).unwrap()
        }
        "/silent" => std::future::pending().await,
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            response.body(full("slow")).unwrap()
        }
        "/half" => {
            let (sender, chunks) = mpsc::unbounded_channel();
            sender.send(Bytes::from_static(b"half")).unwrap();
            tokio::spawn(async move {
                // The half must be on its way before the connection breaks.
                tokio::time::sleep(Duration::from_millis(200)).await;
                drop(sender);
            });
            response.header("content-length", "100").body(Steps(chunks).boxed_unsync()).unwrap()
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("7"));
            if request.version() != Version::HTTP_2 {
                trailers.insert("connection", HeaderValue::from_static("close"));
            }
            let chunks = [Ok(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
            response.header("trailer", "x-sum").body(frames(chunks)).unwrap()
        }
        "/echo" => {
            let type_of = request.headers().get("content-type").cloned();
            let declared = request.headers().get("trailer").cloned();
            let mut echo = Response::new(request.into_body().map_err(std::io::Error::other).boxed_unsync());
            echo.headers_mut().extend(type_of.map(|value| (CONTENT_TYPE, value)));
            echo.headers_mut().extend(declared.map(|value| (TRAILER, value)));
            echo
        }
        "/refuse" => response.status(413).body(full("too much")).unwrap(),
        "/close" => return Err(()),
        "/close-once" if hits == 1 => return Err(()),
        "/stop-reading" => {
            let body = request.into_body();
            std::future::pending::<()>().await;
            drop(body);
            unreachable!()
        }
        "/headers" => response
            .header("connection", "x-hop, close")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("server", "the service")
            .header("date", "Thu, 01 Jan 1970 00:00:00 GMT")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(full("x"))
            .unwrap(),
        "/big-head" => response.header("x-big", "x".repeat(70_000)).body(full("x")).unwrap(),
        "/not-modified" => response.status(304).header("content-length", "7").body(empty()).unwrap(),
        "/no-content" => response.status(204).body(empty()).unwrap(),
        "/range" => {
            let range = request.headers().get("range").cloned().unwrap();
            assert_eq!(range, "bytes=0-1");
            response.status(206).header("content-range", "bytes 0-1/9").body(full("ab")).unwrap()
        }
        "/length" => response.header("content-length", "12345").body(full("x".repeat(12345))).unwrap(),
        "/ws" => upgrade(request),
        "/switch" => response
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "other")
            .body(empty())
            .unwrap(),
        _ => report(request).await?,
    })
}

/// Reports a request as JSON.
async fn report(request: Request<Incoming>) -> Result<Response<ServiceBody>, ()> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.map_err(|_| ())?;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let lines = |headers: &HeaderMap| -> Value {
        headers.iter().map(|(name, value)| json!([name.as_str(), text(value)])).collect()
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let host = parts.headers.get("host").map(text);
    let reported = json!({
        "version": if parts.version == Version::HTTP_2 { "2" } else { "1.1" },
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map(ToString::to_string),
        "host": parts.uri.authority().map(ToString::to_string).or(host),
        "headers": lines(&parts.headers),
        "trailers": lines(&trailers),
        "body": String::from_utf8_lossy(&collected.to_bytes()),
    });
    let body = if parts.method == Method::HEAD { empty() } else { full(reported.to_string()) };
    Ok(Response::builder().header("content-type", "application/json").body(body).unwrap())
}

/// Changes to a protocol that echoes bytes.
fn upgrade(mut request: Request<Incoming>) -> Response<ServiceBody> {
    let asked = request.headers().get("upgrade").is_some_and(|value| value == "websocket");
    if !asked {
        return Response::builder().status(426).body(full("upgrade required")).unwrap();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", "x")
        .body(empty())
        .unwrap()
}

fn frames<const N: usize>(frames: [Result<Frame<Bytes>, std::io::Error>; N]) -> ServiceBody {
    Frames(frames.into()).boxed_unsync()
}

/// A body of these frames.
struct Frames(VecDeque<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// A body that never ends.
struct Endless(Arc<State>);

impl Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.produced.fetch_add(CHUNK.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.endless.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A body whose chunks the test sends.
struct Steps(mpsc::UnboundedReceiver<Bytes>);

impl Body for Steps {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
