//! Token recovery: its socket, its command, and how its listener closes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use super::cli::Cli;
use super::http::Response;
use super::{TestEnv, eventually};

const CLOSED: &str = "token recovery is closed at this listener: one success, too many wrong codes or the time limit \
                      closes it; the next start of the server can open it again";

/// Waits until the address refuses connections.
pub(crate) fn assert_closed(address: SocketAddr) {
    eventually("the recovery listener closes", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
}

/// Recovery was used before this request: the response is 410, or the connection is closed.
#[track_caller]
pub(crate) fn assert_too_late(response: io::Result<Response>) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match response {
        Ok(response) => {
            response.assert_is(410, CLOSED);
        }
        Err(error) => {
            assert!(matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof), "{error}");
        }
    }
}

/// A server with a recovery socket at this path, not started yet.
pub(crate) fn serve_socket(env: &TestEnv, path: &Path, args: &[&str]) -> Cli {
    env.serve_with(args).arg("--admin-token-recovery-socket").arg(path)
}

/// `create token --admin --regenerate` at a socket.
pub(crate) fn recover_at(env: &TestEnv, path: &Path) -> Cli {
    let host = format!("unix:{}", path.display());
    env.cli(["create", "token", "--admin", "--regenerate", "--yes", "--host", &host])
}
