//! A proxy in front of an engine that speaks HTTP/1.1: it loses, repeats and holds back requests,
//! and answers in place of the engine.
//!
//! As [`fault`](super::fault), it counts requests and knows not what they do.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpFault {
    /// It is carried out, and answered with this status.
    CarryOutAnd(u16),
    /// It is carried out, and the connection closed.
    CarryOutAndClose,
    /// It is carried out, and never answered.
    CarryOutAndHang,
    /// It is carried out. A PUT that the engine accepts is answered with this status.
    LoseSuccess(u16),
    /// It is answered with this status, and not carried out.
    Answer(u16),
    /// It is carried out twice, and the second answer arrives. A proxy may repeat a PUT.
    Repeat,
    /// The connection is closed, and it is carried out at [`HttpProxy::release`].
    Late,
}

/// A fault, and the requests that it happens to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpPlan {
    pub(crate) fault: HttpFault,
    /// The number of requests that pass before, from the moment of the plan.
    pub(crate) after: usize,
    /// It happens to all later requests as well.
    pub(crate) stays: bool,
}

#[derive(Default)]
struct State {
    plan: Option<HttpPlan>,
    /// The requests since the plan.
    requests: usize,
    late: Vec<Vec<u8>>,
}

/// A running proxy. It runs until the process ends.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    engine: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl HttpProxy {
    pub(crate) fn start(engine: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&accepting);
                // Faults make connections end, so errors are expected.
                thread::spawn(move || drop(forward(&client, engine, &state)));
            }
        });
        Self { address, engine, state }
    }

    /// Plans a fault, which counts requests from now on.
    pub(crate) fn plan(&self, plan: HttpPlan) {
        let mut state = lock(&self.state);
        state.plan = Some(plan);
        state.requests = 0;
    }

    /// Ends the fault. Returns the number of requests since its plan.
    pub(crate) fn recover(&self) -> usize {
        let mut state = lock(&self.state);
        state.plan = None;
        state.requests
    }

    /// Carries out what is late. Returns the number of these requests.
    pub(crate) fn release(&self) -> usize {
        let late = std::mem::take(&mut lock(&self.state).late);
        for request in &late {
            carry_out(self.engine, request).unwrap();
        }
        late.len()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forwards the requests of one connection.
fn forward(client: &TcpStream, engine: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let request = read_request(&mut reader)?;
        let fault = lock(state).register(&request);
        let mut answer = client;
        match fault {
            None => {
                if relay(engine, &request, client)? == Framing::Close {
                    return client.shutdown(Shutdown::Both);
                }
            }
            Some(HttpFault::CarryOutAnd(status)) => {
                carry_out(engine, &request)?;
                answer.write_all(&made_up(status))?;
            }
            Some(HttpFault::LoseSuccess(status)) => {
                let carried_out = carry_out(engine, &request)?;
                if request.starts_with(b"PUT ") && carried_out.starts_with(b"HTTP/1.1 200 ") {
                    answer.write_all(&made_up(status))?;
                } else {
                    answer.write_all(&carried_out)?;
                    return client.shutdown(Shutdown::Both);
                }
            }
            Some(HttpFault::CarryOutAndClose) => {
                carry_out(engine, &request)?;
                return client.shutdown(Shutdown::Both);
            }
            Some(HttpFault::CarryOutAndHang) => {
                carry_out(engine, &request)?;
                // Until the client closes it.
                return reader.fill_buf().map(drop);
            }
            Some(HttpFault::Answer(status)) => answer.write_all(&made_up(status))?,
            Some(HttpFault::Repeat) => {
                carry_out(engine, &request)?;
                answer.write_all(&carry_out(engine, &request)?)?;
                return client.shutdown(Shutdown::Both);
            }
            Some(HttpFault::Late) => return client.shutdown(Shutdown::Both),
        }
    }
}

impl State {
    /// What happens to a request.
    fn register(&mut self, request: &[u8]) -> Option<HttpFault> {
        let due = self.plan.filter(|plan| {
            let number = self.requests;
            if plan.stays { number >= plan.after } else { number == plan.after }
        });
        self.requests += 1;
        let fault = due.map(|plan| plan.fault);
        if fault == Some(HttpFault::Late) {
            self.late.push(request.to_vec());
        }
        fault
    }
}

fn made_up(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} From the proxy\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// How a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// With its connection.
    Close,
}

/// Reads the head of a message, with the empty line.
pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The end that a head states, if it states one.
fn stated(head: &[u8]) -> Option<Framing> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:").is_some_and(|coding| coding.ends_with("chunked")) {
        return Some(Framing::Chunked);
    }
    value("content-length:").map(|length| Framing::Length(length.parse().unwrap()))
}

fn read_request(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut request = read_head(from)?;
    let framing = stated(&request).unwrap_or(Framing::Length(0));
    copy_body(from, &mut request, framing)?;
    Ok(request)
}

/// Copies a body, each chunk as it arrives.
fn copy_body(from: &mut impl BufRead, to: &mut impl io::Write, framing: Framing) -> io::Result<()> {
    let copy = |from: &mut dyn BufRead, to: &mut dyn io::Write, length: u64| {
        let copied = io::copy(&mut from.take(length), to)?;
        if copied == length { to.flush() } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    match framing {
        Framing::Length(length) => copy(from, to, length),
        Framing::Close => io::copy(from, to).map(drop),
        Framing::Chunked => loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            copy(from, to, length + 2)?;
            if length == 0 {
                return Ok(());
            }
        },
    }
}

/// Sends a request to the engine, and its answer to `client` as it arrives. Returns the end of the
/// answer.
fn relay(engine: SocketAddr, request: &[u8], mut client: impl io::Write) -> io::Result<Framing> {
    let mut connection = TcpStream::connect(engine)?;
    connection.set_nodelay(true)?;
    connection.write_all(request)?;
    let mut connection = BufReader::new(connection);
    let mut head = read_head(&mut connection)?;
    while head.starts_with(b"HTTP/1.1 1") {
        head = read_head(&mut connection)?;
    }
    let status = head.get(9..12).unwrap_or_default();
    let has_no_body = request.starts_with(b"HEAD ") || matches!(status, b"204" | b"304");
    let framing = if has_no_body { Framing::Length(0) } else { stated(&head).unwrap_or(Framing::Close) };
    client.write_all(&head)?;
    copy_body(&mut connection, &mut client, framing)?;
    Ok(framing)
}

/// Sends a request to the engine, and returns its answer.
fn carry_out(engine: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    relay(engine, request, &mut answer)?;
    Ok(answer)
}
