//! The port to storage: one document, read whole and replaced whole by compare-and-swap.
//!
//! The contract is that of `wit/catalog-store.wit`. An adapter is one file or folder beside this
//! one; it knows the port and no other adapter. Calls block, and come from threads that may block.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

#[cfg(any(test, feature = "test-suite"))]
pub mod conformance;
#[cfg(feature = "etcd")]
mod etcd;
mod memory;
#[cfg(feature = "object-store")]
mod object;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod relocation;
#[cfg(feature = "remote-store")]
pub mod remote;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
mod url;

#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
pub use memory::MemoryStore;
#[cfg(feature = "object-store")]
pub use object::ObjectStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, SqliteStore};
pub use url::{OpenUrlError, StoreKind, StoreUrl, StoreUrlError};

/// The default of [`Store::interval`].
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Called by a store when its document may have changed.
pub type News = Arc<dyn Fn() + Send + Sync>;

/// Storage for the catalog.
///
/// An implementation must keep two promises. Two states of the document never share a version, also
/// not across a restart. A [`Swapped`](SwapOutcome::Swapped) change survives a power cut. A document
/// is text of some 200 bytes for each token, at most 6 MiB.
///
/// Calls come from several threads at once: from the threads that execute commands, and every
/// [`interval`](Self::interval) from the poller, which reads the [`version`](Self::version).
/// Checking a token makes no call. All calls may block. An authority that was built with
/// `build_async` makes none from a task of the runtime, so a store with an asynchronous client may
/// keep a `tokio::runtime::Handle` and `block_on` it.
///
/// [`version`](Self::version) and [`load`](Self::load) must be linearizable: they find each change
/// that had succeeded when the call began, by whichever process. A cache, a replica or a
/// notification cannot answer them.
///
/// Each call must return within a bounded time, with [`StoreError::Unavailable`] or
/// [`StoreError::UnknownOutcome`] if the store has not answered by then. A command that hangs
/// delays the commands behind it, and no read of the poller. A read of the poller that hangs delays
/// no command. Once no read has succeeded for longer than
/// [`max_staleness`](crate::authority::Builder::max_staleness), all tokens are refused.
///
/// A swap that has lost against others may pause for a moment before it returns
/// [`Stale`](SwapOutcome::Stale): the command tries again at once.
///
/// If a call panics, the panic propagates to the caller of the command; async callers get an error.
/// The poller treats a panic as [`StoreError::Unavailable`] and retries.
///
/// With the feature `test-suite`, `store::conformance::run` runs the tests of the built-in stores
/// against another one.
///
/// ```
/// use std::fs::{self, File};
/// use std::io::{self, Write as _};
/// use std::path::{Path, PathBuf};
/// use std::sync::Mutex;
///
/// use optoken::authority::Authority;
/// use optoken::store::{Entry, Store, StoreError, SwapOutcome, Version};
///
/// /// One file, for one process: the version on the first line, then the document.
/// struct FileStore {
///     path: PathBuf,
///     swapping: Mutex<()>,
/// }
///
/// impl FileStore {
///     fn new(path: &Path) -> Self {
///         Self { path: path.to_owned(), swapping: Mutex::new(()) }
///     }
///
///     /// Writes the document to a draft beside the file.
///     fn write(&self, version: u64, document: &str) -> io::Result<PathBuf> {
///         let draft = self.path.with_extension("draft");
///         let mut file = File::create(&draft)?;
///         write!(file, "{version}\n{document}")?;
///         file.sync_all()?;
///         Ok(draft)
///     }
///
///     fn put_in_place(&self, draft: &Path) -> io::Result<()> {
///         fs::rename(draft, &self.path)?;
///         // The new name must survive a power cut as well.
///         self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
///     }
/// }
///
/// impl Store for FileStore {
///     fn load(&self) -> Result<Option<Entry>, StoreError> {
///         let text = match fs::read_to_string(&self.path) {
///             Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
///             text => text.map_err(|error| StoreError::Unavailable(error.to_string()))?,
///         };
///         let parts = text.split_once('\n').ok_or_else(|| StoreError::Unavailable("no version".into()))?;
///         Ok(Some(Entry { version: Version::from(parts.0.to_owned()), document: parts.1.to_owned() }))
///     }
///
///     fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
///         let _lock = self.swapping.lock().map_err(|_| StoreError::Unavailable("it panicked".into()))?;
///         let found = self.version()?;
///         if found.as_ref() != expected {
///             return Ok(SwapOutcome::Stale);
///         }
///         // A counter repeats a version if an old file is restored; a random one does not.
///         let version = found.and_then(|version| version.as_str().parse().ok()).map_or(1, |last: u64| last + 1);
///         let draft =
///             self.write(version, document).map_err(|error| StoreError::Unavailable(error.to_string()))?;
///         // From here on the write may be durable although an error is returned.
///         self.put_in_place(&draft).map_err(|error| StoreError::UnknownOutcome(error.to_string()))?;
///         Ok(SwapOutcome::Swapped(Version::from(version.to_string())))
///     }
/// }
///
/// # let directory = tempfile::tempdir()?;
/// # let path = &directory.path().join("catalog");
/// let issued = Authority::builder(FileStore::new(path)).build()?.create_operator("example")?;
/// let after_a_restart = Authority::builder(FileStore::new(path)).build()?;
/// assert!(after_a_restart.authenticate(issued.secret.expose())?.kind == optoken::token::TokenKind::Operator);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Store: Send + Sync + 'static {
    /// Returns the newest version, more cheaply than [`load`](Self::load); `None` if no document was
    /// ever stored.
    fn version(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.load()?.map(|entry| entry.version))
    }

    /// Returns the newest document; `None` if none was ever stored.
    fn load(&self) -> Result<Option<Entry>, StoreError>;

    /// Returns the newest document, unless it has the version `known`. It is as linearizable as
    /// [`load`](Self::load), which it calls by default. A store that reads the version more cheaply
    /// than a document of some megabytes does so.
    fn load_unless(&self, known: &Version) -> Result<Newest, StoreError> {
        let entry = self.load()?;
        let is_known = entry.as_ref().is_some_and(|entry| entry.version == *known);
        Ok(if is_known { Newest::Known } else { Newest::Other(entry) })
    }

    /// Replaces the document if its version is still `expected`; `None` expects an empty store.
    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError>;

    /// The time between two reads of the poller, if the operator sets no other.
    fn interval(&self) -> Duration {
        POLL_INTERVAL
    }

    /// Calls `news` from now on whenever the document may have changed, from any thread. The call
    /// wakes the poller, whose read then proves what is new: too many calls cost reads, and none
    /// are missed for longer than the [`interval`](Self::interval). A store without news does
    /// nothing.
    ///
    /// The authority calls it once. The store drops `news` with itself.
    fn listen(&self, news: News) {
        drop(news);
    }

    /// Where the document is, such as the URL of the store without its secrets, for the operator.
    fn location(&self) -> Option<String> {
        None
    }

    /// The clock of the store at its newest answer, if it states one. It decides nothing; the
    /// operator learns of a clock that is wrong.
    fn clock(&self) -> Option<ClockDifference> {
        None
    }
}

/// The clock of a store beside that of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// How far the clock of the store is ahead, in milliseconds; negative if it is behind.
    pub ahead_ms: i64,
    /// How far that may be wrong: half of the time of the call, and the unit of the stated time.
    pub precision: Duration,
}

/// Names one state of the document. Only equality means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Version {
    fn from(name: String) -> Self {
        Self(name)
    }
}

/// A document and its version.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names this state of the document.
    pub version: Version,
    /// The text to keep, byte for byte.
    pub document: String,
}

impl fmt::Debug for Entry {
    /// Omits the document: it holds hashes, which do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, document } = self;
        f.debug_struct("Entry").field("version", version).field("bytes", &document.len()).finish()
    }
}

/// The newest state of a store, beside a known one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Newest {
    /// It is the known one.
    Known,
    /// It is another one; `None` if no document was ever stored.
    Other(Option<Entry>),
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Stored durably, under this version.
    Swapped(Version),
    /// The document has another version; nothing was written.
    Stale,
}

/// Why a store call failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing was read or written.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not have happened, now or a little later.
    #[error("{0}")]
    UnknownOutcome(String),
}
