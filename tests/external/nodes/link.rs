//! The network between a node and an engine: a proxy for bytes that cuts, loses and delays.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

/// What happens to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Passes,
    /// Nothing arrives, and no connection ends.
    Cut,
    /// A third of the answers is lost, and its connection with it.
    LosesAnswers,
    /// Every piece is late.
    Slow,
}

/// The longest delay of a piece.
const DELAY: u64 = 150;

struct State {
    traffic: Traffic,
    /// Both ends of the connections that have not ended, by their numbers.
    connections: HashMap<u64, Vec<TcpStream>>,
    accepted: u64,
}

/// A running proxy.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Link {
    pub(crate) fn start(engine: SocketAddr) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), engine)
    }

    /// Starts one that listens on this address of the machine.
    pub(crate) fn start_on(address: IpAddr, engine: SocketAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            traffic: Traffic::Passes,
            connections: HashMap::new(),
            accepted: 0,
        }));
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connect(&client, engine, &accepting);
            }
        });
        Self { address, state }
    }

    /// Changes the traffic. Connections that a cut has made incomplete end with it.
    pub(crate) fn set(&self, traffic: Traffic) {
        let mut state = self.state.lock().unwrap();
        if state.traffic == Traffic::Cut && traffic != Traffic::Cut {
            for (_, ends) in state.connections.drain() {
                for end in ends {
                    let _ = end.shutdown(Shutdown::Both);
                }
            }
        }
        state.traffic = traffic;
    }
}

fn connect(client: &TcpStream, engine: SocketAddr, state: &Arc<Mutex<State>>) {
    let mut locked = state.lock().unwrap();
    locked.accepted += 1;
    let number = locked.accepted;
    locked.connections.insert(number, vec![client.try_clone().unwrap()]);
    if locked.traffic == Traffic::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(engine) else {
        locked.connections.remove(&number);
        let _ = client.shutdown(Shutdown::Both);
        return;
    };
    locked.connections.entry(number).or_default().push(server.try_clone().unwrap());
    for (from, to, is_answer) in [(client, &server, false), (&server, client, true)] {
        from.set_nodelay(true).unwrap();
        let (from, to, state) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(state));
        thread::spawn(move || {
            pass(from, to, is_answer, &state);
            state.lock().unwrap().connections.remove(&number);
        });
    }
}

/// Passes the pieces of one direction until a connection ends.
fn pass(mut from: TcpStream, mut to: TcpStream, is_answer: bool, state: &Mutex<State>) {
    let (mut piece, mut random) = (vec![0; 1 << 16], Rng::new());
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let traffic = state.lock().unwrap().traffic;
        match traffic {
            Traffic::Cut => continue,
            Traffic::LosesAnswers if is_answer && random.u32(0..3) == 0 => break,
            Traffic::Slow => thread::sleep(Duration::from_millis(random.u64(0..DELAY))),
            Traffic::Passes | Traffic::LosesAnswers => {}
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
