//! Requests through a Unix socket.
//!
//! A token or a recovery code goes only to a process of root or of this user. The kernel reports
//! the user that listens on a connected socket, and the owners on the path are checked beside it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reqwest::{Body, Request, Response, Url};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::private_file::Mode;
use crate::private_file::owned_path::{ForeignPath, resolve_owned};

/// A request through a socket failed.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// Another user could have made the socket, or could replace it.
    #[error("{0}, so another user could receive what is sent there")]
    Path(ForeignPath),
    /// Another user listens on the socket.
    #[error("a process of another user (uid {uid}) listens there")]
    Peer { uid: u32 },
    /// No connection was made.
    #[error(transparent)]
    Connect(io::Error),
    /// The connection broke.
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
    /// The request is not one of HTTP.
    #[error("the request cannot be sent")]
    Request,
}

/// A socket, and the user beside root that may listen on it.
struct OwnedSocket {
    path: PathBuf,
    uid: u32,
}

impl OwnedSocket {
    /// Checks the path of a socket.
    fn find(path: &Path) -> Result<Self, SocketError> {
        let uid = rustix::process::geteuid().as_raw();
        match resolve_owned(path) {
            Ok(path) => Ok(Self { path, uid }),
            Err(ForeignPath::Unreadable { reason, .. }) => Err(SocketError::Connect(reason)),
            Err(error) if uid == 0 => Self::of_service(path).ok_or(SocketError::Path(error)),
            Err(error) => Err(SocketError::Path(error)),
        }
    }

    /// Finds the socket of a service that runs as another user, for root. Only root can have given
    /// that user its directory: root alone can write to the directories above it.
    fn of_service(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let directory = path.parent()?;
        let metadata = fs::metadata(directory).ok()?;
        let uid = metadata.uid();
        let socket = fs::symlink_metadata(&path).ok()?;
        let is_of_root = |directory: &Path| {
            fs::metadata(directory)
                .is_ok_and(|found| found.uid() == 0 && !Mode::of(&found).is_writable_by_others())
        };
        let is_given = !Mode::of(&metadata).is_writable_by_others()
            && [0, uid].contains(&socket.uid())
            && directory.ancestors().skip(1).all(is_of_root);
        is_given.then_some(Self { path, uid })
    }

    async fn connect(&self) -> Result<UnixStream, SocketError> {
        let stream = UnixStream::connect(&self.path).await.map_err(SocketError::Connect)?;
        // Of the connection itself: the socket at the path may be another by now.
        let uid = stream.peer_cred().map_err(SocketError::Connect)?.uid();
        if uid == 0 || uid == self.uid { Ok(stream) } else { Err(SocketError::Peer { uid }) }
    }
}

/// Sends a request to the socket at `path` on a connection of its own.
pub(super) async fn send(path: &Path, request: Request) -> Result<Response, SocketError> {
    let stream = OwnedSocket::find(path)?.connect().await?;
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let host = request.url().host_str().unwrap_or_default().parse();
    let target = target(request.url()).parse();
    let mut request = hyper::Request::<Body>::try_from(request).map_err(|_| SocketError::Request)?;
    *request.uri_mut() = target.map_err(|_| SocketError::Request)?;
    request.headers_mut().insert(hyper::header::HOST, host.map_err(|_| SocketError::Request)?);
    let response = sender.send_request(request).await?;
    Ok(Response::from(response.map(Body::wrap)))
}

/// Returns the path and the query of a URL.
fn target(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}
