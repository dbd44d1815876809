//! A proxy in front of an engine that knows no protocol: it loses, delays and stops what passes.
//!
//! A test counts the pieces that pass, and puts its fault at each of them in turn. So it needs not
//! know which piece carries a write.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Which way a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the engine: what is lost is not carried out.
    Request,
    /// To the client: what is lost was carried out.
    Answer,
}

/// What happens to the connection of a lost piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    /// It stays open, and nothing more arrives.
    Silence,
}

/// The loss of one piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    pub(crate) way: Way,
    pub(crate) end: End,
    /// The number of pieces of this way that pass before, from the moment of the plan.
    pub(crate) after: usize,
    /// All later pieces and connections have the same end.
    pub(crate) stays: bool,
}

#[derive(Default)]
struct State {
    loss: Option<Loss>,
    /// The pieces of the way of the loss since its plan.
    passed: usize,
    hit: bool,
    delay: Duration,
    /// Both ends of all connections, to be closed.
    connections: Vec<TcpStream>,
}

/// A running proxy. It runs until the process ends, and its connections end with it.
pub(crate) struct ByteProxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl ByteProxy {
    pub(crate) fn start(engine: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accept(client, engine, &accepting);
            }
        });
        Self { address, state }
    }

    /// Plans a loss, which counts pieces from now on.
    pub(crate) fn lose(&self, loss: Loss) {
        let mut state = lock(&self.state);
        state.loss = Some(loss);
        state.passed = 0;
        state.hit = false;
    }

    /// Ends the loss and all connections. Returns the number of pieces of its way, up to the lost
    /// one.
    pub(crate) fn recover(&self) -> usize {
        let mut state = lock(&self.state);
        state.loss = None;
        state.close_all();
        state.passed
    }

    /// Delays each piece from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Closes all connections, and accepts others.
    pub(crate) fn close_all(&self) {
        lock(&self.state).close_all();
    }
}

impl Drop for ByteProxy {
    fn drop(&mut self) {
        self.recover();
    }
}

impl State {
    fn close_all(&mut self) {
        for connection in self.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// What happens to a piece.
    fn register(&mut self, way: Way) -> Option<End> {
        let loss = self.loss?;
        if self.hit && loss.stays {
            return Some(loss.end);
        }
        if self.hit || loss.way != way {
            return None;
        }
        self.passed += 1;
        self.hit = self.passed > loss.after;
        self.hit.then_some(loss.end)
    }

    /// What happens to a new connection.
    fn refuses(&self) -> Option<End> {
        self.loss.filter(|loss| self.hit && loss.stays).map(|loss| loss.end)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects a client with the engine.
fn accept(client: TcpStream, engine: SocketAddr, state: &Arc<Mutex<State>>) {
    let mut locked = lock(state);
    match locked.refuses() {
        None => {}
        // Dropped, which closes it.
        Some(End::Close) => return,
        Some(End::Silence) => {
            locked.connections.push(client);
            return;
        }
    }
    let Ok(server) = TcpStream::connect(engine) else { return };
    for (from, to, way) in [(&client, &server, Way::Request), (&server, &client, Way::Answer)] {
        from.set_nodelay(true).unwrap();
        locked.connections.push(from.try_clone().unwrap());
        let (from, to, state) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(state));
        thread::spawn(move || pass(from, to, way, &state));
    }
}

/// Passes the pieces of one way, until a connection ends.
fn pass(mut from: TcpStream, mut to: TcpStream, way: Way, state: &Mutex<State>) {
    let mut piece = vec![0; 1 << 16];
    let mut silent = false;
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let (end, delay) = {
            let mut state = lock(state);
            (state.register(way), state.delay)
        };
        match end {
            Some(End::Close) => break,
            Some(End::Silence) => silent = true,
            None => {}
        }
        thread::sleep(delay);
        if !silent && to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // The engine must not go on with half of what a client has begun. A client that waits in
    // silence does not learn of the end of the engine's connection.
    let _ = from.shutdown(Shutdown::Both);
    if !(silent && way == Way::Answer) {
        let _ = to.shutdown(Shutdown::Both);
    }
}
