//! The adapter: which database a store has open, and when it opens one.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::checkpointer::Checkpointer;
use super::database::Database;
use super::failure::{Change, Failure, OpenError, Part};
use super::files::NewFile;
use super::layout;
use crate::private_file::{identity, sync_directory_of};
use crate::store::{Entry, Newest, Store, StoreError, SwapOutcome, Version};

/// A document in a SQLite database.
#[derive(Debug)]
pub struct SqliteStore {
    /// Absolute: a change of the working directory leads to no other store.
    path: PathBuf,
    state: Mutex<State>,
    /// The version of the newest call, to notice the changes of other processes.
    seen: Mutex<Option<Version>>,
    checkpointer: Option<Checkpointer>,
}

/// What the store knows of its path.
#[derive(Debug)]
enum State {
    /// Nothing was ever there.
    Absent,
    Open(Arc<Database>),
    /// The database with these device and inode numbers, which cannot be opened at this moment.
    Closed((u64, u64)),
}

/// What a call can use.
enum Access {
    Absent,
    Open(Arc<Database>),
    /// The catalog can be read, and not changed, for this reason.
    ReadOnly(Failure),
}

impl SqliteStore {
    /// Opens the database at `path`. If nothing is there, the first swap creates it, with mode
    /// 0600. The directory must exist, and files can be created in it.
    ///
    /// A database whose disk is full or read-only is opened for reading; changes then return
    /// [`StoreError::Unavailable`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let failed = |failure: Failure| OpenError::new(path, &failure);
        let absolute = std::path::absolute(path).map_err(|error| failed(Failure::of_io(path, &error)))?;
        let checkpointer =
            Checkpointer::start().map_err(|error| failed(Failure::Resources(error.to_string())))?;
        let store = Self {
            path: absolute,
            state: Mutex::new(State::Absent),
            seen: Mutex::default(),
            checkpointer: Some(checkpointer),
        };
        match store.access().map_err(failed)? {
            Access::Open(_) => {}
            Access::ReadOnly(why) => {
                layout::load_without_index(&store.path).map_err(failed)?;
                tracing::warn!(path = %path.display(), "tokens are checked, and cannot be changed: {why}");
            }
            // The first swap needs such a file. This also removes what a killed process left.
            Access::Absent => {
                drop(NewFile::create(&store.path).map_err(|error| failed(Failure::of_io(path, &error)))?);
            }
        }
        Ok(store)
    }

    /// Returns what this call can use, and opens the database if necessary.
    fn access(&self) -> Result<Access, Failure> {
        self.access_with(&mut self.lock())
    }

    fn access_with(&self, state: &mut State) -> Result<Access, Failure> {
        if let State::Open(database) = state {
            if database.identity().check() != Err(Failure::Reopening) {
                return Ok(Access::Open(Arc::clone(database)));
            }
            // All connections share the index, so all of them are closed, without touching it.
            let known = database.identity().database();
            if let State::Open(database) = std::mem::replace(state, State::Closed(known)) {
                match Arc::try_unwrap(database) {
                    Ok(database) => database.close(),
                    // A call of another thread, or a checkpoint, uses it for a moment.
                    Err(database) => {
                        *state = State::Open(database);
                        return Err(Failure::Reopening);
                    }
                }
            }
        }
        let found = self.metadata()?;
        let known = match (&*state, &found) {
            (State::Closed(known), Some(found)) if identity(found) != *known => {
                return Err(Failure::Moved(Part::Database, Change::Replaced));
            }
            (State::Closed(_), None) => return Err(Failure::Moved(Part::Database, Change::Missing)),
            (_, None) => return Ok(Access::Absent),
            (_, Some(found)) => identity(found),
        };
        match Database::open(&self.path) {
            Ok(database) => {
                // The process that created the file may have died before it synced the directory.
                sync_directory_of(&self.path).map_err(|error| Failure::of_io(&self.path, &error))?;
                // The log may hold a change that no copy has.
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let database = Arc::new(database);
                *state = State::Open(Arc::clone(&database));
                Ok(Access::Open(database))
            }
            Err(why) if why.leaves_it_readable() => {
                *state = State::Closed(known);
                Ok(Access::ReadOnly(why))
            }
            Err(failure) => Err(failure),
        }
    }

    /// What is at the path; `None` if nothing is.
    fn metadata(&self) -> Result<Option<Metadata>, Failure> {
        match fs::metadata(&self.path) {
            Ok(metadata) if !metadata.is_file() => {
                Err(Failure::Unusable("it is not a regular file".to_owned()))
            }
            Ok(metadata) if metadata.len() == 0 => Err(Failure::NoCatalog),
            Ok(metadata) => Ok(Some(metadata)),
            // A dangling link was made for a file that exists elsewhere.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&self.path).is_err() =>
            {
                Ok(None)
            }
            Err(error) => Err(Failure::of_io(&self.path, &error)),
        }
    }

    /// Creates the database with its first document. Returns `None` if another process was first.
    fn create(&self, state: &mut State, document: &str) -> Result<Option<Version>, StoreError> {
        let unavailable = |failure| Failure::unavailable(&failure, &self.path);
        let io = |error: io::Error| Failure::of_io(&self.path, &error);
        let version = Version(layout::new_version(document).map_err(unavailable)?);
        let new = NewFile::create(&self.path).map_err(io).map_err(unavailable)?;
        let entry = Entry { version: version.clone(), document: document.to_owned() };
        layout::fill(new.path(), &entry).map_err(unavailable)?;
        let created = fs::metadata(new.path()).map_err(io).map_err(unavailable)?;
        match new.link() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => {
                let failure = io(error);
                let linked =
                    fs::metadata(&self.path).is_ok_and(|found| identity(&found) == identity(&created));
                return Err(if linked {
                    failure.unknown_outcome(&self.path)
                } else {
                    failure.unavailable(&self.path)
                });
            }
        }
        *state = State::Closed(identity(&created));
        Ok(Some(version))
    }

    fn unavailable(&self, failure: &Failure) -> StoreError {
        failure.unavailable(&self.path)
    }

    fn request_checkpoint(&self, database: &Arc<Database>, version: &Version) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref() != Some(version) {
            *seen = Some(version.clone());
            if let Some(checkpointer) = &self.checkpointer {
                checkpointer.request(database);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open database, for tests that disturb it.
    #[cfg(test)]
    pub(super) fn database(&self) -> Arc<Database> {
        let Ok(Access::Open(database)) = self.access() else { panic!("no database is open") };
        database
    }
}

impl Store for SqliteStore {
    fn location(&self) -> Option<String> {
        Some(format!("sqlite:{}", self.path.display()))
    }

    fn version(&self) -> Result<Option<Version>, StoreError> {
        let version = self.access().and_then(|access| match access {
            Access::Absent => Ok(None),
            Access::Open(database) => {
                let version = database.version()?;
                // A process that was killed after its change has made no checkpoint.
                self.request_checkpoint(&database, &version);
                Ok(Some(version))
            }
            Access::ReadOnly(_) => layout::load_without_index(&self.path).map(|entry| Some(entry.version)),
        });
        version.map_err(|failure| self.unavailable(&failure))
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let entry = self.access().and_then(|access| match access {
            Access::Absent => Ok(None),
            Access::Open(database) => database.load().map(Some),
            Access::ReadOnly(_) => layout::load_without_index(&self.path).map(Some),
        });
        entry.map_err(|failure| self.unavailable(&failure))
    }

    fn load_unless(&self, known: &Version) -> Result<Newest, StoreError> {
        if self.version()?.as_ref() == Some(known) {
            return Ok(Newest::Known);
        }
        self.load().map(Newest::Other)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let mut state = self.lock();
        let access = self.access_with(&mut state).map_err(|failure| self.unavailable(&failure))?;
        let database = match (access, expected) {
            (Access::ReadOnly(why), _) => return Err(self.unavailable(&why)),
            (Access::Absent, Some(_)) | (Access::Open(_), None) => return Ok(SwapOutcome::Stale),
            (Access::Absent, None) => {
                let created = self.create(&mut state, document)?;
                return Ok(created.map_or(SwapOutcome::Stale, SwapOutcome::Swapped));
            }
            (Access::Open(database), Some(_)) => database,
        };
        // A commit that waits for the disk must not delay a read.
        drop(state);
        let Some(expected) = expected else { return Ok(SwapOutcome::Stale) };
        let outcome = database.swap(expected, document)?;
        if let SwapOutcome::Swapped(version) = &outcome {
            self.request_checkpoint(&database, version);
        }
        Ok(outcome)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Ends the thread, which may hold the database.
        self.checkpointer = None;
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(database) = std::mem::replace(state, State::Absent)
            && let Some(database) = Arc::into_inner(database)
        {
            database.close();
        }
    }
}
