//! A store of any kind, for the commands that work on a store without a server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};

use crate::authority::Authority;
use crate::cli::serve::storage::{open_remote, place_of_file};
use crate::private_file::with_suffix;
use crate::store::remote::probe::{Extent, Report, probe, probe_scratch};
use crate::store::remote::{Nonce, RemoteStore, ScratchStore};
use crate::store::{
    Entry, MemoryStore, SqliteStore, Store, StoreError, StoreKind, StoreUrl, SwapOutcome, Version,
};

/// The suffixes of the files of a database.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// An open store.
pub(crate) struct AnyStore {
    /// The address without secrets.
    pub(crate) address: String,
    pub(crate) store: Arc<dyn Store>,
    kind: Kind,
}

enum Kind {
    /// A database at this path.
    File(PathBuf),
    Remote(Arc<dyn RemoteStore>),
}

impl AnyStore {
    /// Opens a store. Asks one on other machines nothing.
    pub(crate) fn open(url: &StoreUrl) -> anyhow::Result<Self> {
        if let Some(store) = open_remote(url)? {
            return Ok(Self::of_remote(store));
        }
        let StoreKind::Sqlite(path) = url.kind() else {
            bail!("{url} ends with its server, so that no other process can use it; name another store");
        };
        // The same text for every way to write the path, which the mark of a move repeats.
        let path = place_of_file(&std::path::absolute(path)?)?;
        let store = Arc::new(SqliteStore::open(&path)?);
        Ok(Self { address: format!("sqlite:{}", path.display()), store, kind: Kind::File(path) })
    }

    /// The file of the store, if it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(path) => Some(path),
            Kind::Remote(_) => None,
        }
    }

    pub(crate) fn of_remote(store: Arc<dyn RemoteStore>) -> Self {
        let shared: Arc<dyn Store> = Arc::clone(&store) as _;
        Self { address: store.address().to_owned(), store: shared, kind: Kind::Remote(store) }
    }

    /// Tries whether the store can be used.
    pub(crate) fn probe(&self, extent: Extent) -> Result<Report, StoreError> {
        match &self.kind {
            Kind::Remote(store) => probe(&**store, extent),
            Kind::File(path) => probe_scratch(|| Ok(Box::new(ScratchFile::create(path)?)), extent),
        }
    }
}

/// Returns an authority over a copy of a catalog in memory.
pub(crate) fn open_copy(document: &str) -> anyhow::Result<Authority> {
    let store = MemoryStore::default();
    store.swap(None, document)?;
    Authority::builder(store).build().context("it cannot be read")
}

/// A database for trials, beside another one.
struct ScratchFile {
    path: PathBuf,
    /// `None` once it is removed.
    store: Mutex<Option<Arc<SqliteStore>>>,
}

impl ScratchFile {
    fn create(beside: &Path) -> Result<Self, StoreError> {
        let path = with_suffix(beside, &format!("-check-{}", Nonce::random()?));
        let store = SqliteStore::open(&path).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { path, store: Mutex::new(Some(Arc::new(store))) })
    }

    fn store(&self) -> Result<Arc<SqliteStore>, StoreError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.clone().ok_or_else(|| StoreError::Unavailable("the trial is over".to_owned()))
    }
}

impl Store for ScratchFile {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.store()?.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.store()?.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.store()?.swap(expected, document)
    }
}

impl ScratchStore for ScratchFile {
    fn remove(&self) -> Result<(), StoreError> {
        // Closes the database, which holds the files until then.
        drop(self.store.lock().unwrap_or_else(PoisonError::into_inner).take());
        for suffix in SUFFIXES {
            match fs::remove_file(with_suffix(&self.path, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let text = format!("{}: {error}", with_suffix(&self.path, suffix).display());
                    return Err(StoreError::Unavailable(text));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // A trial that failed has been removed before.
        let _ = self.remove();
    }
}
