//! A Unix socket, on which the kernel reports the user of the client.
//!
//! Does not decide which users are allowed.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use thiserror::Error;
use tokio::net::{UnixSocket, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::private_file::ownership::{OwnershipError, trust_path};
use crate::private_file::{
    Mode, PRIVATE_MODE, RemoveOnDrop, directory_of, is_own, is_own_or_root, with_suffix,
};
use crate::server::connections::ConnectionLimits;
use crate::server::peer::{Accept, Peer};
use crate::server::serve::{Service, serve};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 16;

/// How often to try to lock a path while other servers remove their lock files.
const LOCK_TRIES: u32 = 10;

/// A listening Unix socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct UnixListener {
    file: RemoveOnDrop,
    socket: tokio::net::UnixListener,
    _lock: PathLock,
}

/// The server cannot listen on a Unix socket at a path.
#[derive(Debug, Error)]
pub(crate) enum UnixBindError {
    /// Another server uses the path.
    #[error("another server answers at {}; choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is not a socket, so the server does not remove it.
    #[error("{} exists and is no socket; choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Other users can write to the directory, and so replace the socket.
    #[error(
        "others can write to {0} (mode {mode:o}), and replace the socket; choose another directory, or run: chmod go-w {0}",
        directory.display()
    )]
    WritableDirectory { directory: PathBuf, mode: Mode },
    /// The directory belongs to another user, which can replace the socket.
    #[error(
        "{} belongs to another user (uid {uid}), which can replace the socket; choose another directory",
        directory.display()
    )]
    ForeignDirectory { directory: PathBuf, uid: u32 },
    /// Another user can replace a directory above it.
    #[error("cannot listen on {}", path.display())]
    Untrusted { path: PathBuf, source: OwnershipError },
    /// The system refuses an operation.
    #[error("cannot listen on {}", path.display())]
    System { path: PathBuf, source: io::Error },
}

impl UnixListener {
    /// Binds a socket that only its own user and root can connect to. Replaces a stale socket,
    /// which a killed server has left.
    pub(crate) async fn bind(path: &Path) -> Result<Self, UnixBindError> {
        let system = |source| UnixBindError::System { path: path.to_owned(), source };
        let directory = directory_of(path);
        let metadata = fs::metadata(directory).map_err(system)?;
        check_directory(directory, &metadata)?;
        trust_path(directory).map_err(|source| UnixBindError::Untrusted { path: path.to_owned(), source })?;
        let lock =
            PathLock::acquire(path).map_err(system)?.ok_or_else(|| UnixBindError::InUse(path.to_owned()))?;
        remove_stale_socket(path).await?;
        let socket = UnixSocket::new_stream().map_err(system)?;
        socket.bind(path).map_err(system)?;
        let made = fs::symlink_metadata(path).map_err(system)?;
        let file = RemoveOnDrop::with_identity(path.to_owned(), &made);
        // No client can connect before the socket listens, so none connects under another mode.
        // Only this user and root can have replaced the file.
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_MODE)).map_err(system)?;
        Ok(Self { file, socket: socket.listen(BACKLOG).map_err(system)?, _lock: lock })
    }

    /// Serves like [`Listener::serve`](crate::server::listener::Listener::serve).
    pub(crate) async fn serve(
        self,
        service: Arc<impl Service>,
        limits: ConnectionLimits,
        stop: CancellationToken,
    ) {
        serve(self, None, service, limits, stop).await;
    }

    /// Returns the path of the socket.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Rejects a directory in which a user other than root and this one can replace a file.
fn check_directory(directory: &Path, metadata: &Metadata) -> Result<(), UnixBindError> {
    let directory = directory.to_owned();
    let mode = Mode::of(metadata);
    if !is_own_or_root(metadata) {
        return Err(UnixBindError::ForeignDirectory { directory, uid: metadata.uid() });
    }
    // In a sticky directory such as /tmp, users can remove their own files only.
    if mode.is_writable_by_others() && !mode.is_sticky() {
        return Err(UnixBindError::WritableDirectory { directory, mode });
    }
    Ok(())
}

/// Removes a stale socket, and nothing else. The caller has locked the path.
async fn remove_stale_socket(path: &Path) -> Result<(), UnixBindError> {
    let system = |source| UnixBindError::System { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(system)?,
    };
    if !found.file_type().is_socket() {
        return Err(UnixBindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        // No process listens on it. With any other error, a server exists and cannot be reached.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system)
        }
        _ => Err(UnixBindError::InUse(path.to_owned())),
    }
}

/// The lock of a path. A server holds it from before it binds its socket until it has removed it.
#[derive(Debug)]
struct PathLock {
    _file: RemoveOnDrop,
    _locked: File,
}

impl PathLock {
    /// Locks a path. Returns `None` if another server holds the lock. The lock file of a killed
    /// server is not locked.
    fn acquire(path: &Path) -> io::Result<Option<Self>> {
        let path = with_suffix(path, ".lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(PRIVATE_MODE);
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        for _ in 0..LOCK_TRIES {
            let locked = options.open(&path)?;
            let metadata = locked.metadata()?;
            if is_own(&metadata) && Mode::of(&metadata) != Mode::PRIVATE {
                // The umask does not apply: another server must be able to open it.
                locked.set_permissions(Permissions::from_mode(PRIVATE_MODE))?;
            }
            match locked.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The previous holder removes the file, so the path may have another file by now.
            let file = RemoveOnDrop::with_identity(path.clone(), &locked.metadata()?);
            if file.is_unchanged() {
                return Ok(Some(Self { _file: file, _locked: locked }));
            }
        }
        // Other servers start and stop at this path.
        Ok(None)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.socket.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Peer::Unix { uid }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tempfile::tempdir;
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn simultaneous_starts_leave_one_listener() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("socket");
        // Many rounds, because the race depends on the moment.
        for round in 0..200 {
            // A stale socket.
            drop(net::UnixListener::bind(&path).unwrap());
            let ready = Arc::new(Barrier::new(8));
            let starting: Vec<_> = (0..8)
                .map(|_| {
                    let (path, ready) = (path.clone(), Arc::clone(&ready));
                    tokio::spawn(async move {
                        ready.wait().await;
                        UnixListener::bind(&path).await
                    })
                })
                .collect();
            let mut listening = Vec::new();
            for started in starting {
                match started.await.unwrap() {
                    Ok(listener) => listening.push(listener),
                    Err(error) => assert!(matches!(error, UnixBindError::InUse(_)), "{error}"),
                }
            }
            let [listener] = &listening[..] else { panic!("{round}: {} listen", listening.len()) };
            let client = UnixStream::connect(&path).await.unwrap();
            listener.accept().await.unwrap();
            drop(client);
            drop(listening);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn restarting_servers_never_share_a_socket() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("socket");
        let live = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (path, live) = (path.clone(), Arc::clone(&live));
                tokio::spawn(async move {
                    for _ in 0..10_000 {
                        match UnixListener::bind(&path).await {
                            Ok(listener) => {
                                assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0);
                                assert!(listener.file.is_unchanged());
                                live.fetch_sub(1, Ordering::SeqCst);
                            }
                            Err(error) => assert!(matches!(error, UnixBindError::InUse(_)), "{error:?}"),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
