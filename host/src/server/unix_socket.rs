//! A socket in the file system, at which the kernel tells who asks.
//!
//! Knows nothing of who may.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use thiserror::Error;
use tokio::net::{UnixSocket, UnixStream};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::server::connections::Terms;
use crate::server::peer::{Accept, Peer};
use crate::server::serve::{Service, serve};

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 16;

/// How often a place that a dead server has left is tried, where others want it as well.
const TRIES: u32 = 10;

/// How often, and after how long again, it is tried to be the one that makes room; nobody needs long for it.
const LOCK_TRIES: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

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
    /// He whose it is could.
    #[error(
        "{} belongs to another user (uid {uid}), who can replace the socket; choose another directory",
        directory.display()
    )]
    Owner { directory: PathBuf, uid: u32 },
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
        let metadata = fs::metadata(directory).map_err(system)?;
        judge(directory, &metadata)?;
        // Whole before it gets its name: whoever finds it there can connect, so nobody takes it for a dead one.
        let nameless = Nameless::within(directory).map_err(system)?;
        let socket = UnixSocket::new_stream().and_then(|socket| {
            socket.bind(&nameless.0)?;
            // Nobody can connect before it listens, so nobody has by another mode; and nobody but its owner could have put
            // anything else there.
            fs::set_permissions(&nameless.0, Permissions::from_mode(0o600))?;
            socket.listen(BACKLOG)
        });
        let socket = socket.map_err(system)?;
        let file = identity(&fs::symlink_metadata(&nameless.0).map_err(system)?);
        for _ in 0..TRIES {
            match fs::hard_link(&nameless.0, path) {
                Ok(()) => return Ok(Self { socket, path: path.to_owned(), file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove_dead(path).await?;
                }
                Err(error) => return Err(system(error)),
            }
        }
        Err(UnixBindError::Answered(path.to_owned()))
    }

    /// As [`Listener::serve`](crate::server::listener::Listener::serve).
    pub(crate) async fn serve(self, service: Arc<impl Service>, terms: Terms, stop: CancellationToken) {
        serve(self, None, service, terms, stop).await;
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A file without a name that anybody knows; removed when dropped.
struct Nameless(PathBuf);

impl Nameless {
    /// A name in this directory for something that is not there yet. Short, as paths of sockets have to be.
    fn within(directory: &Path) -> io::Result<Self> {
        Ok(Self(directory.join(format!(".{:08x}", getrandom::u32()?))))
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether nobody but root and this user can put anything in the place of a file of this user in this directory.
fn judge(directory: &Path, metadata: &Metadata) -> Result<(), UnixBindError> {
    let directory = directory.to_owned();
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(UnixBindError::Owner { directory, uid });
    }
    // In a directory such as /tmp (sticky) everybody can add files, but only remove his own.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(UnixBindError::Directory { directory, mode });
    }
    Ok(())
}

/// Makes room where a dead server has left its socket. What else is there stays.
async fn remove_dead(path: &Path) -> Result<(), UnixBindError> {
    let system = |source| UnixBindError::System { path: path.to_owned(), source };
    // What is found dead must be what is removed: another server may be making room as well.
    let _lock = Lock::beside(path).await.map_err(system)?;
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(system)?,
    };
    if !found.file_type().is_socket() {
        return Err(UnixBindError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        // Nobody has it open; any other error is a server that cannot be reached at the moment.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system)
        }
        _ => Err(UnixBindError::Answered(path.to_owned())),
    }
}

/// Held by one server at a time, for one path, and gone without a trace.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    async fn beside(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        for _ in 0..LOCK_TRIES {
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    // Who had it before has removed it, so it may be another one by now.
                    let current = fs::symlink_metadata(&path);
                    if current.is_ok_and(|current| {
                        file.metadata().is_ok_and(|locked| identity(&locked) == identity(&current))
                    }) {
                        return Ok(Self { path, _file: file });
                    }
                }
                Err(TryLockError::WouldBlock) => time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked still.
        let _ = fs::remove_file(&self.path);
    }
}

/// Device and number of a file.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
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
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;
    use std::sync::Arc;

    use tempfile::tempdir;
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_servers_that_start_at_once_one_gets_the_socket_and_keeps_it() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("door");
        // Many times, because they have to meet at the right moment.
        for round in 0..200 {
            // What a dead server has left.
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
                    Err(error) => assert!(matches!(error, UnixBindError::Answered(_)), "{error}"),
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
}
