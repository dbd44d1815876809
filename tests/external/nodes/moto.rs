//! The S3 server for tests of the project moto, with data in memory, which ends with its owner.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use optoken::store::{ObjectStore, Store};
use rustix::process::{Pid, Signal, kill_process};

use super::engine::SharedStore;
use crate::needs::{self, MOTO};
use crate::support::{Connection, request, within};

/// How long it may need to start on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Starts the program of its arguments in place of this shell, and kills it as soon as standard
/// input ends: also where this process is killed.
const KEEPER: &str = r#"exec 3<&0
{ read -r end <&3; kill -KILL $$; } >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null >/dev/null 2>&1"#;

const VARIABLES: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "optoken-test"), ("AWS_SECRET_ACCESS_KEY", "secret-of-the-engine")];

/// A running server.
pub(super) struct Moto {
    child: Child,
    _end: ChildStdin,
    address: SocketAddr,
}

impl Moto {
    /// Starts one with an empty bucket.
    pub(super) fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let program = needs::path(MOTO);
        let mut keeper = Command::new("/bin/sh");
        keeper.arg("-c").arg(KEEPER).arg("keeper").arg(program);
        keeper.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let mut child = keeper.stdin(Stdio::piped()).spawn().unwrap();
        let end = child.stdin.take().unwrap();
        let moto = Self { child, _end: end, address };
        within(START_LIMIT, "moto starts", || TcpStream::connect(address).is_ok());
        let mut connection = Connection::open(address).unwrap();
        connection.write(&request("PUT", "/optoken").body(b"").to_bytes());
        assert_eq!(connection.read_head().unwrap().status, 200);
        moto
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(super) fn variables_of_client() -> impl Iterator<Item = (String, String)> {
        VARIABLES.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SharedStore for Moto {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.address]
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        format!("s3://optoken/{name}?endpoint=http://{}&region=us-east-1", addresses[0])
    }

    fn open(&self, name: &str, addresses: &[SocketAddr]) -> Arc<dyn Store> {
        Arc::new(ObjectStore::open_with(&self.url(name, addresses), Self::variables_of_client()).unwrap())
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        VARIABLES.map(|(name, value)| (name, value.to_owned())).to_vec()
    }

    fn freeze(&self, _member: usize) {
        self.signal(Signal::STOP);
    }

    fn thaw(&self, _member: usize) {
        self.signal(Signal::CONT);
    }
}
