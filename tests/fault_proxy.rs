//! A way to a server on which requests and answers are lost, cut, delayed, sent twice and mistaken for others, and on which whoever talks or
//! listens is killed: each at a request that is named in advance.
//!
//! Where it is stays the same, whatever port the server behind it has.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::support::{Cli, Server, TIMEOUT, TestEnv, read_all};

/// What happens to a request, to its answer, or to who is at either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All of it is lost, or all but its beginning, and the connection closed.
    LoseRequest,
    /// It is lost, and nothing more is heard.
    SilenceRequest,
    /// All of its answer is lost, or all but its beginning, and the connection closed.
    LoseAnswer,
    /// Its answer is lost, and nothing more is heard.
    SilenceAnswer,
    /// It comes later, when the client has given up or asked again.
    DelayRequest,
    /// It comes now, and once more later.
    Repeat,
    /// It comes twice: at once, or one behind the other, and the second answer is given.
    Duplicate,
    /// Its answer comes late, but comes.
    DelayAnswer,
    /// Its answer comes twice on the same connection.
    RepeatAnswer,
    /// It is lost, and answered by what an earlier request was answered.
    ReplayAnswer,
    /// The client is killed before the server has it.
    KillClientBefore,
    /// The client is killed while the server is at it.
    KillClientDuring,
    /// The client is killed between the answer and its arrival.
    KillClientAfter,
    /// The client is killed at some moment after it has the answer: while it writes its files, say.
    KillClientLater,
    /// The server is killed before it has it. The next one is started when the client is gone, or while it still asks
    /// again.
    KillServerBefore,
    /// The same while it is at it.
    KillServerDuring,
    /// The same when it has answered, and the answer is lost.
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
        Self::DelayAnswer,
        Self::RepeatAnswer,
        Self::ReplayAnswer,
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
pub(crate) struct FaultPlan {
    /// What the first line of the request begins with.
    pub(crate) at: &'static str,
    pub(crate) fault: Fault,
    /// Whether it happens to every such request, or to the first alone.
    pub(crate) repeats: bool,
    /// Which form the fault has where it has two, where a message is cut, or when somebody is killed: any number.
    pub(crate) random: usize,
}

impl FaultPlan {
    fn uses_second_form(&self) -> bool {
        !self.random.is_multiple_of(2)
    }

    /// The beginning of a message, or nothing of it.
    fn cut<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        if self.uses_second_form() { &message[..self.random % message.len()] } else { &[] }
    }
}

/// What has become of a client.
pub(crate) struct ClientResult {
    /// None if it was killed.
    pub(crate) code: Option<i32>,
    /// How often something went wrong on the way.
    pub(crate) faults: usize,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The way, the server at its end and the client at its beginning.
pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    env: Arc<TestEnv>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Weak, as the thread that listens keeps the state for ever.
    env: Weak<TestEnv>,
    server: Option<Server>,
    /// Whether the next one is being started.
    starting: bool,
    client: Option<Child>,
    plan: Option<FaultPlan>,
    /// How often it has gone wrong.
    faults: usize,
    /// How many clients there were.
    run: usize,
    /// Requests that have not arrived yet.
    delayed: Vec<Vec<u8>>,
    /// All answers that were given, by whichever server.
    answers: Vec<Vec<u8>>,
    /// Before which of the next requests the delayed ones arrive.
    release: Option<usize>,
}

/// The longest that a client is let live that is to be killed later, in microseconds.
const LONGEST: usize = 15_000;

/// The longest that an answer is late, in milliseconds.
const LATEST: usize = 400;

impl FaultProxy {
    /// The way to a server on this machine, which is started.
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
                // An end that is gone is what this is about.
                thread::spawn(move || drop(carry(&client.unwrap(), &state)));
            }
        });
        Self { address, env, state }
    }

    pub(crate) fn env(&self) -> &TestEnv {
        &self.env
    }

    /// The server, started if it was killed: a request and its answer, directly.
    pub(crate) fn with_server<T>(&self, ask: impl FnOnce(&Server) -> T) -> T {
        let mut state = not_starting(&self.state);
        ask(state.server.get_or_insert_with(|| self.env.serve(&[])))
    }

    /// Lets a client run until it ends or is killed.
    pub(crate) fn run(&self, client: Cli, plan: Option<FaultPlan>) -> ClientResult {
        self.with_server(|_| ());
        // Before the first request can be carried.
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

impl Drop for FaultProxy {
    /// The thread that listens keeps the state for ever; what runs is not to.
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

/// The state, once no server is being started.
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

fn arrive(address: SocketAddr, requests: Vec<Vec<u8>>) {
    for request in requests {
        let _ = ask(address, &request);
    }
}

/// Carries what a client sends on one connection.
fn carry(client: &TcpStream, state: &Arc<Mutex<State>>) -> io::Result<()> {
    client.set_read_timeout(Some(TIMEOUT))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let request = read_message(&mut reader)?;
        let (run, address, plan) = arrived(state, &request);
        // Nobody is there.
        let Some(address) = address else { return close(client) };
        match plan {
            None => {
                let answer = ask(address, &request)?;
                state.lock().unwrap().answers.push(answer.clone());
                (&*client).write_all(&answer)?;
            }
            Some(plan) => {
                Exchange { client, state, run, server: address, request: &request }.apply(plan)?;
            }
        }
    }
}

/// Of which client a request is, where it goes, and what goes wrong with it.
fn arrived(state: &Mutex<State>, request: &[u8]) -> (usize, Option<SocketAddr>, Option<FaultPlan>) {
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
        arrive(address, delayed);
    }
    (run, address, plan)
}

/// A request on its way.
struct Exchange<'a> {
    client: &'a TcpStream,
    state: &'a Arc<Mutex<State>>,
    /// Of which client it is.
    run: usize,
    server: SocketAddr,
    request: &'a [u8],
}

impl Exchange<'_> {
    fn ask(&self) -> io::Result<Vec<u8>> {
        ask(self.server, self.request)
    }

    fn respond(&self, answer: &[u8]) -> io::Result<()> {
        let mut client = self.client;
        client.write_all(answer)
    }

    /// Lets the request arrive later.
    fn delay(&self) {
        self.state.lock().unwrap().delayed.push(self.request.to_vec());
    }

    fn close(&self) -> io::Result<()> {
        close(self.client)
    }

    /// Nobody kills what belongs to the next run.
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

    /// Kills it, and starts the next one at once if asked to.
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
                    // If it cannot start, whoever asks next starts it, and says so.
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
            Fault::LoseAnswer => {
                let answer = self.ask()?;
                self.respond(plan.cut(&answer))?;
                self.close()
            }
            Fault::SilenceAnswer => {
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
            Fault::DelayAnswer => {
                let answer = self.ask()?;
                thread::sleep(Duration::from_millis((plan.random % LATEST) as u64));
                self.respond(&answer)
            }
            Fault::RepeatAnswer => {
                let answer = self.ask()?;
                self.respond(&[answer.as_slice(), &answer].concat())
            }
            Fault::ReplayAnswer => {
                let answers = self.state.lock().unwrap().answers.clone();
                if answers.is_empty() {
                    self.close()
                } else {
                    self.respond(&answers[plan.random % answers.len()])
                }
            }
            _ => self.kill(plan),
        }
    }

    /// The faults at either end.
    fn kill(&self, plan: FaultPlan) -> io::Result<()> {
        let moment = Duration::from_micros((plan.random % LONGEST) as u64);
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
            other => unreachable!("{other:?} kills nobody"),
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

pub(crate) fn ask(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
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
