//! The thread that copies the write-ahead log into the database file.
//!
//! A copy of the database file alone is a usable backup, because it holds the catalog soon after
//! each change. No command waits for that.

use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::database::{Checkpoint, Database};

/// Up to this length a database is copied right after each change: about 5,000 tokens. A change
/// rewrites the catalog in the log, and the checkpoint writes it a second time.
pub(super) const SMALL_DATABASE: u64 = 1 << 20;

/// How long after a change a small database is copied. Changes that follow each other closely share
/// a checkpoint.
pub(super) const SMALL_DELAY: Duration = Duration::from_millis(100);

/// The same for a larger database.
pub(super) const LARGE_DELAY: Duration = Duration::from_secs(10);

/// A longer log is copied without delay.
const LONG_LOG: u64 = 16 << 20;

/// How long after a copy the log is emptied, unless the next change comes before. As long after a
/// failure, the next attempt begins.
const QUIET: Duration = Duration::from_secs(1);

/// How long after a failure the next attempt begins.
const RETRY: Duration = Duration::from_millis(500);

/// How long the drop of a store waits for a checkpoint that is in progress.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    /// Receives a message for each change. Dropped to end the thread.
    changes: Option<Sender<Weak<Database>>>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Checkpointer {
    pub(super) fn start() -> io::Result<Self> {
        let (changes, requests) = channel();
        let (end, ended) = channel();
        thread::Builder::new().name("optoken-checkpoint".into()).spawn(move || {
            run(&requests);
            drop::<Sender<()>>(end);
        })?;
        Ok(Self { changes: Some(changes), ended: Mutex::new(ended) })
    }

    /// Requests a checkpoint of this database.
    pub(super) fn request(&self, database: &Arc<Database>) {
        if let Some(changes) = &self.changes {
            let _ = changes.send(Arc::downgrade(database));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.changes = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(DROP_TIMEOUT);
    }
}

/// Holds a database for the time of a checkpoint alone, so that the store can close it.
fn run(requests: &Receiver<Weak<Database>>) {
    let mut next = requests.recv();
    while let Ok(database) = next {
        let Some(database) = copy(requests, database) else { return };
        next = loop {
            match requests.recv_timeout(QUIET) {
                Err(RecvTimeoutError::Timeout) => {
                    let ended = database.upgrade().map(|database| database.empty_log());
                    if matches!(ended, None | Some(Ok(Checkpoint::Complete))) {
                        break requests.recv();
                    }
                }
                received => break received.map_err(|_| RecvError),
            }
        };
    }
}

/// Copies the log when it is time, again and again until that succeeds, or the database is closed,
/// or the files are not those at the path. Returns the database; `None` if the thread is to end.
fn copy(requests: &Receiver<Weak<Database>>, mut database: Weak<Database>) -> Option<Weak<Database>> {
    let mut due = Instant::now() + delay(&database);
    let mut failing = false;
    loop {
        match requests.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(newest) => {
                database = newest;
                due = due.min(Instant::now() + delay(&database));
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The close of the database makes the last checkpoint.
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        let Some(open) = database.upgrade() else { return Some(database) };
        match open.checkpoint() {
            Ok(Checkpoint::Complete) => return Some(database),
            // Every call of the store reports that the files are not those at the path.
            Err(_) if open.identity().check().is_err() => return Some(database),
            Err(failure) if !failing => {
                failing = true;
                tracing::warn!("a copy of the token store alone lacks the newest changes: {failure}");
            }
            Ok(Checkpoint::Incomplete) | Err(_) => {}
        }
        due = Instant::now() + RETRY;
    }
}

/// How long the newest change may be in the log alone.
fn delay(database: &Weak<Database>) -> Duration {
    let Some(database) = database.upgrade() else { return Duration::ZERO };
    if database.log_bytes() > LONG_LOG {
        Duration::ZERO
    } else if database.identity().length() > SMALL_DATABASE {
        LARGE_DELAY
    } else {
        SMALL_DELAY
    }
}
