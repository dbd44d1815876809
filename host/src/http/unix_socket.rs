//! A socket in the file system, at which the kernel tells who asks.
//!
//! Knows nothing of who may.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{UnixSocket, UnixStream};

use super::listen::{Accept, Peer};

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 16;

/// A socket that is listened on; its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct UnixListener {
    socket: tokio::net::UnixListener,
    path: PathBuf,
    /// Device and number of its file.
    file: (u64, u64),
}

/// There can be no socket at this path.
#[derive(Debug, Error)]
pub(crate) enum UnixBindError {
    /// A server is there.
    #[error("another server answers at {}; choose another path", .0.display())]
    Answered(PathBuf),
    /// Something is there that is not ours to remove.
    #[error("{} exists and is no socket; choose another path", .0.display())]
    NoSocket(PathBuf),
    /// Others could put something else in its place.
    #[error(
        "others can write to {0} (mode {mode:o}), and replace the socket; choose another directory, or run: chmod go-w {0}",
        directory.display()
    )]
    Directory { directory: PathBuf, mode: u32 },
    /// The system does not let it be.
    #[error("cannot listen on {}", path.display())]
    System { path: PathBuf, source: io::Error },
}

impl UnixListener {
    /// Makes a socket that only its user can connect to. One that a dead server has left there is removed.
    pub(crate) async fn bind(path: &Path) -> Result<Self, UnixBindError> {
        let system = |source| UnixBindError::System { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mode = fs::metadata(directory).map_err(system)?.permissions().mode() & 0o7777;
        // In a directory such as /tmp (sticky) everybody can add files, but only remove his own.
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            return Err(UnixBindError::Directory { directory: directory.to_owned(), mode });
        }
        match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !fs::symlink_metadata(path).map_err(system)?.file_type().is_socket() {
                    return Err(UnixBindError::NoSocket(path.to_owned()));
                }
                // Nobody has it open; any other error is a server that cannot be reached at the moment.
                match UnixStream::connect(path).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    _ => return Err(UnixBindError::Answered(path.to_owned())),
                }
                fs::remove_file(path).map_err(system)?;
                listen(path).map_err(system)
            }
            listening => listening.map_err(system),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the file, which must not exist, and listens there.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Nobody can connect before it listens, so nobody has by another mode.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let socket = socket.listen(BACKLOG)?;
    let metadata = fs::symlink_metadata(path)?;
    Ok(UnixListener { socket, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.socket.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Peer::Unix { uid }))
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        // Not that of another server, for which somebody has made room meanwhile.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
