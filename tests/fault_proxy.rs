//! A proxy in front of a server that loses, cuts, delays, repeats and swaps messages, and kills the
//! client or the server. A plan names the request at which a fault happens.
//!
//! Its address stays the same while the port of the server changes.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::support::{Cli, Server, TIMEOUT, TestEnv, read_all};

/// What happens to a request, its response, the client or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is lost, or all but its beginning, and the connection closed.
    LoseRequest,
    /// The request is lost, and the connection stays open without a response.
    SilenceRequest,
    /// The response is lost, or all but its beginning, and the connection closed.
    LoseResponse,
    /// The response is lost, and the connection stays open.
    SilenceResponse,
    /// The request arrives later, after a timeout or a retry of the client.
    DelayRequest,
    /// The request arrives now, and once more later.
    Repeat,
    /// The request arrives twice, concurrently or in sequence.
    Duplicate,
    /// The response is late.
    DelayResponse,
    /// The response arrives twice on the same connection.
    RepeatResponse,
    /// The request is lost, and the response to an earlier one arrives.
    ReplayResponse,
    /// The client is killed before the server has the request.
    KillClientBefore,
    /// The client is killed while the server processes the request.
    KillClientDuring,
    /// The client is killed before the response arrives.
    KillClientAfter,
    /// The client is killed at a moment after the response, for example while it writes files.
    KillClientLater,
    /// The server is killed before it has the request. The next one starts after the client has
    /// ended, or during its retries.
    KillServerBefore,
    /// The server is killed while it processes the request.
    KillServerDuring,
    /// The server is killed after its response, which is lost.
    KillServerAfter,
}

impl Fault {
    pub(crate) const ALL: [Self; 17] = [
        Self::LoseRequest,
        Self::SilenceRequest,
        Self::LoseResponse,
        Self::SilenceResponse,
        Self::DelayRequest,
        Self::Repeat,
        Self::Duplicate,
        Self::DelayResponse,
        Self::RepeatResponse,
        Self::ReplayResponse,
        Self::KillClientBefore,
        Self::KillClientDuring,
        Self::KillClientAfter,
        Self::KillClientLater,
        Self::KillServerBefore,
        Self::KillServerDuring,
        Self::KillServerAfter,
    ];

    /// Returns whether the client waits for a response that never comes.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::SilenceRequest | Self::SilenceResponse)
    }
}

/// A fault, and where it happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultPlan {
    /// Prefix of the first line of the request.
    pub(crate) at: &'static str,
    pub(crate) fault: Fault,
    /// Happens to every such request, not to the first alone.
    pub(crate) repeats: bool,
    /// Selects the form of a fault, the place of a cut, or the moment of a kill.
    pub(crate) random: usize,
}

impl FaultPlan {
    fn uses_second_form(&self) -> bool {
        !self.random.is_multiple_of(2)
    }

    /// The beginning of a message, or nothing.
    fn cut<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        if self.uses_second_form() { &message[..self.random % message.len()] } else { &[] }
    }
}

/// Exit and output of a client.
pub(crate) struct ClientResult {
    /// `None` if the client was killed.
    pub(crate) code: Option<i32>,
    /// Number of faults.
    pub(crate) faults: usize,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The proxy, its server and its client.
pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    env: Arc<TestEnv>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Weak, as the listener thread never drops the state.
    env: Weak<TestEnv>,
    server: Option<Server>,
    /// The next server is starting.
    starting: bool,
    client: Option<Child>,
    plan: Option<FaultPlan>,
    /// Number of faults of the current run.
    faults: usize,
    /// Number of the current client.
    run: usize,
    /// Requests that have not arrived yet.
    delayed: Vec<Vec<u8>>,
    /// All responses, of any server.
    responses: Vec<Vec<u8>>,
    /// Number of requests before the delayed ones arrive.
    release: Option<usize>,
}

/// Limit for the moment of a kill, in microseconds.
const MAX_KILL_DELAY: usize = 15_000;

/// Limit for the delay of a response, in milliseconds.
const MAX_RESPONSE_DELAY: usize = 400;

impl FaultProxy {
    /// Starts a server in this environment, and a proxy in front of it.
    pub(crate) fn new(env: TestEnv) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let env = Arc::new(env);
        let state = State { env: Arc::downgrade(&env), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let accepted = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let state = Arc::clone(&accepted);
                // Faults make connections end, so errors are expected.
                thread::spawn(move || drop(forward(&client.unwrap(), &state)));
            }
        });
        Self { address, env, state }
    }

    pub(crate) fn env(&self) -> &TestEnv {
        &self.env
    }

    /// Calls `ask` with the server, without the proxy. Starts the server if it was killed.
    pub(crate) fn with_server<T>(&self, ask: impl FnOnce(&Server) -> T) -> T {
        let mut state = not_starting(&self.state);
        ask(state.server.get_or_insert_with(|| self.env.serve(&[])))
    }

    /// Runs a client until it exits or is killed.
    pub(crate) fn run(&self, client: Cli, plan: Option<FaultPlan>) -> ClientResult {
        self.with_server(|_| ());
        // Locked until the client is known, before its first request.
        let mut state = self.state.lock().unwrap();
        let mut child = client.spawn_client();
        let output = [read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap())];
        state.client = Some(child);
        state.plan = plan;
        state.faults = 0;
        state.run += 1;
        drop(state);
        let (code, faults) = loop {
            let mut state = self.state.lock().unwrap();
            if let Some(status) = state.client.as_mut().unwrap().try_wait().unwrap() {
                state.client = None;
                state.plan = None;
                break (status.code(), state.faults);
            }
            drop(state);
            thread::sleep(Duration::from_millis(3));
        };
        let [stdout, stderr] = output.map(|reader| reader.join().unwrap());
        ClientResult { code, faults, stdout, stderr }
    }

    /// Delayed requests arrive after this number of further requests.
    pub(crate) fn release_before(&self, request: usize) {
        self.state.lock().unwrap().release = Some(request);
    }

    /// Delayed requests arrive now.
    pub(crate) fn release(&self) {
        let address = self.with_server(|server| server.address);
        let delayed = std::mem::take(&mut self.state.lock().unwrap().delayed);
        deliver(address, delayed);
    }
}

impl Drop for FaultProxy {
    /// The listener thread never drops the state, so the processes are ended here.
    fn drop(&mut self) {
        let mut state = not_starting(&self.state);
        let (server, client) = (state.server.take(), state.client.take());
        drop(state);
        if let Some(mut client) = client {
            let _ = client.kill();
            let _ = client.wait();
        }
        drop(server);
    }
}

/// Waits until no server is starting, and returns the state.
fn not_starting(state: &Mutex<State>) -> MutexGuard<'_, State> {
    loop {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.starting {
            return state;
        }
        drop(state);
        thread::sleep(Duration::from_millis(3));
    }
}

fn deliver(address: SocketAddr, requests: Vec<Vec<u8>>) {
    for request in requests {
        let _ = ask(address, &request);
    }
}

/// Forwards the requests of one connection.
fn forward(client: &TcpStream, state: &Arc<Mutex<State>>) -> io::Result<()> {
    client.set_read_timeout(Some(TIMEOUT))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let request = read_message(&mut reader)?;
        let (run, address, plan) = register(state, &request);
        // The server is down.
        let Some(address) = address else { return close(client) };
        match plan {
            None => {
                let response = ask(address, &request)?;
                state.lock().unwrap().responses.push(response.clone());
                (&*client).write_all(&response)?;
            }
            Some(plan) => {
                Exchange { client, state, run, server: address, request: &request }.apply(plan)?;
            }
        }
    }
}

/// Registers a request. Returns the number of its client, the address of the server, and its fault.
fn register(state: &Mutex<State>, request: &[u8]) -> (usize, Option<SocketAddr>, Option<FaultPlan>) {
    let mut locked = state.lock().unwrap();
    let address = locked.server.as_ref().map(|server| server.address);
    let due = match &mut locked.release {
        Some(0) => true,
        Some(requests) => {
            *requests -= 1;
            false
        }
        None => false,
    };
    let delayed = if due {
        locked.release = None;
        std::mem::take(&mut locked.delayed)
    } else {
        Vec::new()
    };
    let repeats = locked.faults > 0;
    let plan =
        locked.plan.filter(|plan| request.starts_with(plan.at.as_bytes()) && (plan.repeats || !repeats));
    locked.faults += usize::from(plan.is_some());
    let run = locked.run;
    drop(locked);
    if let Some(address) = address {
        deliver(address, delayed);
    }
    (run, address, plan)
}

/// A request with a fault.
struct Exchange<'a> {
    client: &'a TcpStream,
    state: &'a Arc<Mutex<State>>,
    /// Number of the client.
    run: usize,
    server: SocketAddr,
    request: &'a [u8],
}

impl Exchange<'_> {
    fn ask(&self) -> io::Result<Vec<u8>> {
        ask(self.server, self.request)
    }

    fn respond(&self, response: &[u8]) -> io::Result<()> {
        let mut client = self.client;
        client.write_all(response)
    }

    /// Stores the request for a later arrival.
    fn delay(&self) {
        self.state.lock().unwrap().delayed.push(self.request.to_vec());
    }

    fn close(&self) -> io::Result<()> {
        close(self.client)
    }

    /// Kills the client of this run, never the next one.
    fn kill_client(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.run == self.run
            && let Some(client) = &mut state.client
        {
            client.kill().unwrap();
        }
        drop(state);
        self.close()
    }

    /// Kills the server, and starts the next one at once if `restart`.
    fn kill_server(&self, restart: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.run == self.run
            && let Some(server) = state.server.take()
        {
            let env = state.env.upgrade().filter(|_| restart);
            state.starting = env.is_some();
            drop(state);
            drop(server);
            if let Some(env) = env {
                let state = Arc::clone(self.state);
                thread::spawn(move || {
                    // If the start fails, the next `with_server` starts it, and reports the
                    // failure.
                    let server = catch_unwind(AssertUnwindSafe(|| env.serve(&[])));
                    let mut state = state.lock().unwrap();
                    state.server = server.ok();
                    state.starting = false;
                });
            }
        }
        self.close()
    }

    fn apply(&self, plan: FaultPlan) -> io::Result<()> {
        match plan.fault {
            Fault::LoseRequest => {
                TcpStream::connect(self.server)?.write_all(plan.cut(self.request))?;
                self.close()
            }
            Fault::SilenceRequest => silence(self.client),
            Fault::LoseResponse => {
                let response = self.ask()?;
                self.respond(plan.cut(&response))?;
                self.close()
            }
            Fault::SilenceResponse => {
                self.ask()?;
                silence(self.client)
            }
            Fault::DelayRequest => {
                self.delay();
                self.close()
            }
            Fault::Repeat => {
                self.delay();
                self.respond(&self.ask()?)
            }
            Fault::Duplicate if plan.uses_second_form() => {
                self.ask()?;
                self.respond(&self.ask()?)
            }
            Fault::Duplicate => {
                let (server, second) = (self.server, self.request.to_vec());
                let second = thread::spawn(move || ask(server, &second));
                let first = self.ask()?;
                let second = second.join().unwrap()?;
                self.respond(if plan.random.is_multiple_of(4) { &first } else { &second })
            }
            Fault::DelayResponse => {
                let response = self.ask()?;
                thread::sleep(Duration::from_millis((plan.random % MAX_RESPONSE_DELAY) as u64));
                self.respond(&response)
            }
            Fault::RepeatResponse => {
                let response = self.ask()?;
                self.respond(&[response.as_slice(), &response].concat())
            }
            Fault::ReplayResponse => {
                let responses = self.state.lock().unwrap().responses.clone();
                if responses.is_empty() {
                    self.close()
                } else {
                    self.respond(&responses[plan.random % responses.len()])
                }
            }
            _ => self.kill(plan),
        }
    }

    /// Applies a fault that kills.
    fn kill(&self, plan: FaultPlan) -> io::Result<()> {
        let moment = Duration::from_micros((plan.random % MAX_KILL_DELAY) as u64);
        match plan.fault {
            Fault::KillClientBefore => self.kill_client(),
            Fault::KillClientDuring => {
                let mut connection = TcpStream::connect(self.server)?;
                connection.write_all(self.request)?;
                self.kill_client()?;
                read_message(&mut BufReader::new(connection)).map(drop)
            }
            Fault::KillClientAfter => {
                self.ask()?;
                self.kill_client()
            }
            Fault::KillClientLater => {
                self.respond(&self.ask()?)?;
                thread::sleep(moment);
                self.kill_client()
            }
            Fault::KillServerBefore => self.kill_server(plan.uses_second_form()),
            Fault::KillServerDuring => {
                let mut connection = TcpStream::connect(self.server)?;
                connection.write_all(self.request)?;
                thread::sleep(moment);
                self.kill_server(plan.uses_second_form())
            }
            Fault::KillServerAfter => {
                self.ask()?;
                self.kill_server(plan.uses_second_form())
            }
            other => unreachable!("{other:?} does not kill"),
        }
    }
}

/// Sends nothing until the client closes the connection.
fn silence(mut client: &TcpStream) -> io::Result<()> {
    let _ = client.read(&mut [0]);
    close(client)
}

/// Closes the connection. Returns an error, which ends the forwarding.
fn close(client: &TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Both)?;
    Err(io::ErrorKind::ConnectionAborted.into())
}

pub(crate) fn ask(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.write_all(request)?;
    read_message(&mut BufReader::new(connection))
}

/// Reads a whole request or response, unchanged. Returns an error if it ends early.
pub(crate) fn read_message(from: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let mut length = 0;
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        message.extend_from_slice(&line);
        let line = String::from_utf8(line).unwrap().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let start = message.len();
    message.resize(start + length, 0);
    from.read_exact(&mut message[start..])?;
    Ok(message)
}
