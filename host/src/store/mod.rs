//! The port to storage: one document, read whole and replaced whole by compare-and-swap.
//!
//! The contract is that of `wit/catalog-store.wit`; an adapter is one file beside this one and knows nothing of
//! the others. Calls block and are made from threads that may block.

use std::fmt;

use thiserror::Error;

#[cfg(any(test, feature = "test-suite"))]
pub mod conformance;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, SqliteStore};

/// Storage for the catalog.
///
/// An implementation must keep two promises: two states of the document never share a version, also not across a
/// restart, and a [`Swapped`](SwapOutcome::Swapped) change survives a power cut. A document is text of some 200 bytes for
/// each token, at most a few MiB.
///
/// Calls come from several threads at once: from those that carry out commands, and every
/// [`POLL_INTERVAL`](crate::authority::POLL_INTERVAL) from one that asks for the [`version`](Self::version). Checking a
/// token makes none. All of them may block; none is made from a task of an asynchronous runtime by who builds the
/// authority with `build_async`, so a store with an asynchronous client may keep a `tokio::runtime::Handle` and
/// `block_on` it.
///
/// Each call must return within a bounded time, with [`StoreError::Unavailable`] or [`StoreError::UnknownOutcome`] where it
/// has no answer by then. While one hangs, all commands wait behind it, and once it has hung for longer than
/// [`max_staleness`](crate::authority::Builder::max_staleness), all tokens are refused. A call that panics takes the
/// command that made it along, to whoever has asked for that (`build_async` and the commands that are awaited give an error
/// instead); to who polls, it is a store that is unavailable, and is asked again.
///
/// With the feature `test-suite`, `store::conformance::run` plays against a store of yours what those here are tested with.
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
/// /// One file, for one process: its version on the first line, the document behind that.
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
///     /// Where it is written before it is put in place.
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
///         let _turn = self.swapping.lock().map_err(|_| StoreError::Unavailable("it panicked".into()))?;
///         let found = self.version()?;
///         if found.as_ref() != expected {
///             return Ok(SwapOutcome::Stale);
///         }
///         // Counting is enough as long as nobody puts an old file back; a random version would survive that, too.
///         let version = found.and_then(|version| version.as_str().parse().ok()).map_or(1, |last: u64| last + 1);
///         let draft =
///             self.write(version, document).map_err(|error| StoreError::Unavailable(error.to_string()))?;
///         // From here on it may be there although an error came back.
///         self.put_in_place(&draft).map_err(|error| StoreError::UnknownOutcome(error.to_string()))?;
///         Ok(SwapOutcome::Swapped(Version::from(version.to_string())))
///     }
/// }
///
/// # let directory = tempfile::tempdir()?;
/// # let path = &directory.path().join("catalog");
/// let issued = Authority::builder(FileStore::new(path)).build()?.create_operator("example")?;
/// let after_a_restart = Authority::builder(FileStore::new(path)).build()?;
/// assert!(after_a_restart.authenticate(issued.secret.expose())?.operator);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Store: Send + Sync + 'static {
    /// The newest version, cheaper than loading the document; `None` if there never was one.
    fn version(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.load()?.map(|entry| entry.version))
    }

    /// The newest document; `None` if there never was one.
    fn load(&self) -> Result<Option<Entry>, StoreError>;

    /// Replaces the document if it still has the version `expected`; `None` expects that there is none yet.
    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError>;
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
    /// Leaves the document out: it holds hashes, which have no business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, document } = self;
        f.debug_struct("Entry").field("version", version).field("bytes", &document.len()).finish()
    }
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Stored durably, under this version.
    Swapped(Version),
    /// The document has another version; nothing was written.
    Stale,
}

/// Why a store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing was read or written.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not have happened, now or a little later.
    #[error("{0}")]
    UnknownOutcome(String),
}
