//! A way to a server on which requests and answers are lost, cut, delayed and sent twice, and on which whoever talks or
//! listens is killed: each at a request that is named in advance.
//!
//! Where it is stays the same, whatever port the server behind it has.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::{Cli, Machine, PATIENCE, Server, read_all};

/// What happens to a request, to its answer, or to who is at either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is lost, and the connection closed.
    LoseRequest,
    /// It is lost, and nothing more is heard.
    SilenceRequest,
    /// Its answer is lost, and the connection closed.
    LoseAnswer,
    /// Its answer is lost, and nothing more is heard.
    SilenceAnswer,
    /// It comes later, when the client has given up or asked again.
    DelayRequest,
    /// It comes now, and once more later.
    Repeat,
    /// It comes twice, one behind the other, and the second answer is given.
    Duplicate,
    /// It comes twice at once.
    DuplicateAtOnce,
    /// Only the beginning of it comes.
    CutRequest,
    /// Only the beginning of its answer comes.
    CutAnswer,
    /// The client is killed before the server has it.
    KillClientBefore,
    /// The client is killed while the server is at it.
    KillClientDuring,
    /// The client is killed between the answer and its arrival.
    KillClientAfter,
    /// The client is killed at some moment after it has the answer: while it writes its files, say.
    KillClientLater,
    /// The server is killed before it has it.
    KillServerBefore,
    /// The server is killed while it is at it.
    KillServerDuring,
    /// The server is killed when it has answered, and the answer is lost.
    KillServerAfter,
}

impl Fault {
    pub(crate) const ALL: [Self; 17] = [
        Self::LoseRequest,
        Self::SilenceRequest,
        Self::LoseAnswer,
        Self::SilenceAnswer,
        Self::DelayRequest,
        Self::Repeat,
        Self::Duplicate,
        Self::DuplicateAtOnce,
        Self::CutRequest,
        Self::CutAnswer,
        Self::KillClientBefore,
        Self::KillClientDuring,
        Self::KillClientAfter,
        Self::KillClientLater,
        Self::KillServerBefore,
        Self::KillServerDuring,
        Self::KillServerAfter,
    ];

    /// Whether the client waits for an answer that never comes.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::SilenceRequest | Self::SilenceAnswer)
    }
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// What the first line of the request begins with.
    pub(crate) at: &'static str,
    pub(crate) fault: Fault,
    /// Whether it happens to every such request, or to the first alone.
    pub(crate) again: bool,
    /// Where a message is cut, or when somebody is killed: any number.
    pub(crate) chance: usize,
}

/// What has become of a client.
pub(crate) struct Run {
    /// None if it was killed.
    pub(crate) code: Option<i32>,
    /// How often something went wrong on the way.
    pub(crate) faults: usize,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The way, the server at its end and the client at its beginning.
pub(crate) struct Lossy {
    pub(crate) address: SocketAddr,
    machine: Machine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    server: Option<Server>,
    client: Option<Child>,
    plan: Option<Plan>,
    /// How often it has gone wrong.
    faults: usize,
    /// How many clients there were.
    run: usize,
    /// Requests that have not arrived yet.
    delayed: Vec<Vec<u8>>,
    /// Before which of the next requests the delayed ones arrive.
    release: Option<usize>,
}

/// The longest that a client is let live that is to be killed later, in microseconds.
const LONGEST: usize = 15_000;

impl Lossy {
    /// The way to a server on this machine, which is started.
    pub(crate) fn new(machine: Machine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let accepted = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let state = Arc::clone(&accepted);
                // An end that is gone is what this is about.
                thread::spawn(move || drop(carry(&client.unwrap(), &state)));
            }
        });
        Self { address, machine, state }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The server, started if it was killed: a request and its answer, directly.
    pub(crate) fn with_server<T>(&self, ask: impl FnOnce(&Server) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        ask(state.server.get_or_insert_with(|| self.machine.serve(&[])))
    }

    /// Lets a client run until it ends or is killed.
    pub(crate) fn run(&self, client: Cli, plan: Option<Plan>) -> Run {
        self.with_server(|_| ());
        // Before the first request can be carried.
        let mut state = self.state.lock().unwrap();
        let mut child = client.begin();
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
        Run { code, faults, stdout, stderr }
    }

    /// Lets what was delayed arrive before so many of the next requests have.
    pub(crate) fn release_before(&self, request: usize) {
        self.state.lock().unwrap().release = Some(request);
    }

    /// Lets what was delayed arrive now.
    pub(crate) fn release(&self) {
        let address = self.with_server(|server| server.address);
        let delayed = std::mem::take(&mut self.state.lock().unwrap().delayed);
        arrive(address, delayed);
    }
}

impl Drop for Lossy {
    /// The thread that listens keeps the state for ever; what runs is not to.
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, client) = (state.server.take(), state.client.take());
        drop(state);
        if let Some(mut client) = client {
            let _ = client.kill();
            let _ = client.wait();
        }
        drop(server);
    }
}

fn arrive(address: SocketAddr, requests: Vec<Vec<u8>>) {
    for request in requests {
        let _ = ask(address, &request);
    }
}

/// Carries what a client sends on one connection.
fn carry(client: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let request = read_message(&mut reader)?;
        let (run, address, plan) = arrived(state, &request);
        // Nobody is there.
        let Some(address) = address else { return close(client) };
        match plan {
            None => (&*client).write_all(&ask(address, &request)?)?,
            Some(plan) => fail(client, state, run, address, &request, plan)?,
        }
    }
}

/// Of which client a request is, where it goes, and what goes wrong with it.
fn arrived(state: &Mutex<State>, request: &[u8]) -> (usize, Option<SocketAddr>, Option<Plan>) {
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
    let again = locked.faults > 0;
    let plan = locked.plan.filter(|plan| request.starts_with(plan.at.as_bytes()) && (plan.again || !again));
    locked.faults += usize::from(plan.is_some());
    let run = locked.run;
    drop(locked);
    if let Some(address) = address {
        arrive(address, delayed);
    }
    (run, address, plan)
}

fn fail(
    client: &TcpStream,
    state: &Mutex<State>,
    run: usize,
    server: SocketAddr,
    request: &[u8],
    plan: Plan,
) -> io::Result<()> {
    let give = |answer: &[u8]| (&*client).write_all(answer);
    // Nobody kills what belongs to the next run.
    let kill_client = || {
        let mut state = state.lock().unwrap();
        if state.run == run
            && let Some(client) = &mut state.client
        {
            client.kill().unwrap();
        }
        drop(state);
        close(client)
    };
    let kill_server = || {
        let mut state = state.lock().unwrap();
        let server = if state.run == run { state.server.take() } else { None };
        drop(state);
        drop(server);
    };
    let delay = || state.lock().unwrap().delayed.push(request.to_vec());
    match plan.fault {
        Fault::LoseRequest => close(client),
        Fault::SilenceRequest => silence(client),
        Fault::LoseAnswer => {
            ask(server, request)?;
            close(client)
        }
        Fault::SilenceAnswer => {
            ask(server, request)?;
            silence(client)
        }
        Fault::DelayRequest => {
            delay();
            close(client)
        }
        Fault::Repeat => {
            delay();
            give(&ask(server, request)?)
        }
        Fault::Duplicate => {
            ask(server, request)?;
            give(&ask(server, request)?)
        }
        Fault::DuplicateAtOnce => {
            let second = request.to_vec();
            let second = thread::spawn(move || ask(server, &second));
            let first = ask(server, request)?;
            let second = second.join().unwrap()?;
            give(if plan.chance.is_multiple_of(2) { &first } else { &second })
        }
        Fault::CutRequest => {
            TcpStream::connect(server)?.write_all(&request[..plan.chance % request.len()])?;
            close(client)
        }
        Fault::CutAnswer => {
            let answer = ask(server, request)?;
            give(&answer[..plan.chance % answer.len()])?;
            close(client)
        }
        Fault::KillClientBefore => kill_client(),
        Fault::KillClientDuring => {
            let mut connection = TcpStream::connect(server)?;
            connection.write_all(request)?;
            kill_client()?;
            read_message(&mut BufReader::new(connection)).map(drop)
        }
        Fault::KillClientAfter => {
            ask(server, request)?;
            kill_client()
        }
        Fault::KillClientLater => {
            give(&ask(server, request)?)?;
            thread::sleep(Duration::from_micros((plan.chance % LONGEST) as u64));
            kill_client()
        }
        Fault::KillServerBefore => {
            kill_server();
            close(client)
        }
        Fault::KillServerDuring => {
            let mut connection = TcpStream::connect(server)?;
            connection.write_all(request)?;
            thread::sleep(Duration::from_micros((plan.chance % LONGEST) as u64));
            kill_server();
            close(client)
        }
        Fault::KillServerAfter => {
            ask(server, request)?;
            kill_server();
            close(client)
        }
    }
}

/// Says nothing until the client goes.
fn silence(mut client: &TcpStream) -> io::Result<()> {
    let _ = client.read(&mut [0]);
    close(client)
}

/// An error, so that nothing more is carried on this connection.
fn close(client: &TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Both)?;
    Err(io::ErrorKind::ConnectionAborted.into())
}

fn ask(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(request)?;
    read_message(&mut BufReader::new(connection))
}

/// A whole request or answer, down to the bytes. An error is an end before its end.
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
