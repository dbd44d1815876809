//! The statements: reads on one connection and changes on another, so that a change that hangs
//! delays no read.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::store::postgres::address::{Address, Proof};
use crate::store::postgres::failure::{Code, Failure, Kind};
use crate::store::postgres::session::Session;
use crate::store::postgres::table::Place;
use crate::store::remote::{Nonce, TimedOut};
use crate::store::{ClockDifference, Entry, SwapOutcome, Version};

/// The pauses before a read is repeated. The first repetition is for a connection that had ended
/// unnoticed.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// A change that lost a race pauses for this long, and for up to [`LOSER_JITTER_MS`] more, before
/// its caller begins another one.
const LOSER_PAUSE: Duration = Duration::from_millis(10);
const LOSER_JITTER_MS: u8 = 40;

/// Begins a change. The isolation level lets a change that waited for another one find no row,
/// where a stricter level fails. Settings of the user or database must weaken nothing: neither the
/// sync before the answer, nor the warning that there was none. The timeouts end what a change
/// leaves behind whose client has gone or stands still, as it keeps others waiting.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                     SET LOCAL synchronous_commit TO on; \
                     SET LOCAL client_min_messages TO warning; \
                     SET LOCAL idle_in_transaction_session_timeout TO 3000; \
                     SET LOCAL lock_timeout TO 4000; \
                     SET LOCAL statement_timeout TO 4500";

/// Commits an empty message to the log of changes, which waits for the synchronous standbys.
const COMMIT_A_PROOF: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                              SET LOCAL synchronous_commit TO on; \
                              SET LOCAL client_min_messages TO warning; \
                              SELECT pg_catalog.pg_logical_emit_message(true, 'optoken', ''); \
                              COMMIT";

/// The connections of a store.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) address: Arc<Address>,
    reads: Reads,
    /// The idle connection of changes. Absent while no change was made, and while one is made: a
    /// second one at that time connects by itself. A change that fails drops its connection.
    idle: Mutex<Option<Session>>,
    clock: Mutex<Option<ClockDifference>>,
}

/// The connection of all reads, which may follow each other without waiting.
#[derive(Debug, Default)]
struct Reads {
    session: Mutex<Option<Arc<Session>>>,
    connecting: AsyncMutex<()>,
}

/// Why a change has failed.
#[derive(Debug)]
pub(super) enum SwapFailure {
    /// Before its commit was sent, or with the answer that it is rolled back.
    Unwritten(Failure),
    Unknown(Failure),
}

/// The end of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// Awaits a step of the call, for the rest of its time.
    pub(super) async fn of<T>(self, step: impl Future<Output = T>) -> Result<T, Failure> {
        // A process that was stopped must not begin a step too late.
        if Instant::now() < self.at
            && let Ok(result) = timeout_at(self.at, step).await
        {
            return Ok(result);
        }
        Err(TimedOut(self.limit).into())
    }
}

impl Engine {
    pub(super) fn new(address: Arc<Address>) -> Self {
        Self { address, reads: Reads::default(), idle: Mutex::default(), clock: Mutex::default() }
    }

    pub(super) fn clock(&self) -> Option<ClockDifference> {
        *lock(&self.clock)
    }

    pub(super) async fn version(
        &self,
        place: &Place,
        deadline: Deadline,
    ) -> Result<Option<Version>, Failure> {
        let found = self.read(place, deadline, "version").await?;
        found.map(|row| row.try_get(2).map(Version)).transpose().map_err(|error| Failure::from(&error))
    }

    pub(super) async fn load(&self, place: &Place, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        let Some(row) = self.read(place, deadline, "version, document").await? else { return Ok(None) };
        let columns = row.try_get(2).and_then(|version| Ok((version, row.try_get(3)?)));
        let (version, document) = columns.map_err(|error| Failure::from(&error))?;
        let document = String::from_utf8(document);
        let document =
            document.map_err(|_| Failure::new("the stored document is not UTF-8; restore a backup"))?;
        Ok(Some(Entry { version: Version(version), document }))
    }

    /// Reads columns of the row, after two that every read has. A read that meets a lost connection
    /// is repeated on another one.
    async fn read(&self, place: &Place, deadline: Deadline, columns: &str) -> Result<Option<Row>, Failure> {
        let table = self.address.table.quoted();
        // The first table has one row, so that the answer has one as well.
        let statement = format!(
            "SELECT pg_catalog.pg_is_in_recovery(), \
             (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000)::int8, {columns} \
             FROM (VALUES (1)) AS one (n) LEFT JOIN {table} ON name = $1"
        );
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let failure = match self.read_once(place, deadline, &statement).await {
                Ok(row) => return Ok(row),
                Err(failure) => failure,
            };
            match pauses.next() {
                Some(pause) if failure.kind() == Kind::Lost => {
                    deadline.of(sleep(*pause)).await.map_err(|_| failure)?;
                }
                _ => return Err(failure),
            }
        }
    }

    async fn read_once(
        &self,
        place: &Place,
        deadline: Deadline,
        statement: &str,
    ) -> Result<Option<Row>, Failure> {
        let session = self.reads.get(&self.address, deadline).await?;
        let reading = async {
            if self.address.proof == Proof::Write {
                commit_a_proof(&session).await?;
            }
            let sent = SystemTime::now();
            let row = session.client.query_typed_one(statement, &[(&place.row, Type::TEXT)]).await;
            let received = SystemTime::now();
            let row = row.map_err(|error| session.failure(&error))?;
            let failed = |error| session.failure(&error);
            if row.try_get(0).map_err(failed)? {
                return Err(Failure::new("the server has become a standby; name the primary in the URL"));
            }
            let stated = row.try_get(1).map_err(failed)?;
            *lock(&self.clock) = clock_difference(sent, stated, received);
            let is_there = row.try_get::<_, Option<&str>>(2).map_err(failed)?.is_some();
            Ok(is_there.then_some(row))
        };
        match deadline.of(reading).await {
            Ok(Ok(row)) => Ok(row),
            Ok(Err(failure)) if failure.kind() == Kind::Rejected(Code::MissingTable) => Ok(None),
            Ok(Err(failure)) => {
                self.reads.discard(&session);
                Err(failure)
            }
            Err(timed_out) => {
                session.cancel();
                self.reads.discard(&session);
                Err(timed_out)
            }
        }
    }

    /// Replaces the document. Nothing is repeated once a statement may have changed the row.
    pub(super) async fn swap(
        &self,
        place: &Place,
        expected: Option<&str>,
        document: &str,
        deadline: Deadline,
    ) -> Result<SwapOutcome, SwapFailure> {
        let nonce =
            Nonce::random().map_err(|error| SwapFailure::Unwritten(Failure::new(error.to_string())))?;
        let result = self.swap_as(place, expected, document, &nonce, deadline).await;
        if let Ok(SwapOutcome::Stale) = result {
            let pause = LOSER_PAUSE + jitter(LOSER_JITTER_MS);
            // At the deadline the pause is over.
            let _ = deadline.of(sleep(pause)).await;
        }
        result
    }

    async fn swap_as(
        &self,
        place: &Place,
        expected: Option<&str>,
        document: &str,
        nonce: &Nonce,
        deadline: Deadline,
    ) -> Result<SwapOutcome, SwapFailure> {
        let unwritten = SwapFailure::Unwritten;
        let mut session = self.begin(self.take_idle(), deadline).await.map_err(unwritten)?;
        let mut updated = deadline.of(self.update(&session, place, expected, document, nonce)).await;
        if let Ok(Err(failure)) = &updated
            && failure.kind() == Kind::Rejected(Code::MissingTable)
        {
            self.create_table(&session, deadline).await.map_err(unwritten)?;
            session = self.begin(Some(session), deadline).await.map_err(unwritten)?;
            updated = deadline.of(self.update(&session, place, expected, document, nonce)).await;
        }
        let failure = match updated.map_err(unwritten)? {
            Ok(true) => match commit(&session, deadline).await {
                Ok(()) => {
                    self.keep_idle(Some(session));
                    return Ok(SwapOutcome::Swapped(Version(nonce.as_str().to_owned())));
                }
                Err(SwapFailure::Unwritten(failure)) => failure,
                unknown @ Err(SwapFailure::Unknown(_)) => return unknown.map(|()| SwapOutcome::Stale),
            },
            Ok(false) => {
                self.keep_idle(roll_back(session, deadline).await);
                return Ok(SwapOutcome::Stale);
            }
            Err(failure) => failure,
        };
        match failure.kind() {
            Kind::Rejected(Code::Serialization) => Ok(SwapOutcome::Stale),
            Kind::Rejected(Code::Forbidden) => {
                let advice = self.address.table.advice(&self.address.user);
                Err(unwritten(failure.with_advice(&advice)))
            }
            _ => Err(unwritten(failure)),
        }
    }

    fn take_idle(&self) -> Option<Session> {
        lock(&self.idle).take().filter(|session| !session.is_closed())
    }

    /// Keeps a connection for the next change. Drops the one that another change has left.
    fn keep_idle(&self, session: Option<Session>) {
        if session.is_some() {
            *lock(&self.idle) = session;
        }
    }

    /// Begins a transaction, on another connection if the idle one is lost.
    async fn begin(&self, idle: Option<Session>, deadline: Deadline) -> Result<Session, Failure> {
        if let Some(session) = idle
            && deadline.of(session.client.batch_execute(BEGIN)).await?.is_ok()
        {
            return Ok(session);
        }
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let connecting = async {
                let session = Session::connect(&self.address, None).await?;
                let begun = session.client.batch_execute(BEGIN).await;
                begun.map_err(|error| session.failure(&error)).map(|()| session)
            };
            let failure: Failure = match deadline.of(connecting).await? {
                Ok(session) => return Ok(session),
                Err(failure) => failure,
            };
            match pauses.next() {
                Some(pause) if failure.kind() == Kind::Lost => {
                    deadline.of(sleep(*pause)).await.map_err(|_| failure)?;
                }
                _ => return Err(failure),
            }
        }
    }

    /// Changes the row, if its version is the expected one. Returns whether it was.
    async fn update(
        &self,
        session: &Session,
        place: &Place,
        expected: Option<&str>,
        document: &str,
        nonce: &Nonce,
    ) -> Result<bool, Failure> {
        let table = self.address.table.quoted();
        let change = match expected {
            Some(_) => {
                format!("UPDATE {table} SET version = $3, document = $4 WHERE name = $1 AND version = $5")
            }
            None => {
                format!(
                    "INSERT INTO {table} (name, version, document) VALUES ($1, $3, $4) ON CONFLICT DO NOTHING"
                )
            }
        };
        let statement = format!(
            "WITH changed AS ({change} RETURNING version) \
             SELECT version, pg_catalog.pg_notify($2, version) FROM changed"
        );
        let (nonce, document) = (nonce.as_str(), document.as_bytes());
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&place.row, Type::TEXT),
            (&place.channel, Type::TEXT),
            (&nonce, Type::TEXT),
            (&document, Type::BYTEA),
        ];
        if let Some(expected) = &expected {
            parameters.push((expected, Type::TEXT));
        }
        let row = session.client.query_typed_opt(&statement, &parameters).await;
        row.map(|row| row.is_some()).map_err(|error| session.failure(&error))
    }

    /// Creates the table, after a change has failed for want of it.
    async fn create_table(&self, session: &Session, deadline: Deadline) -> Result<(), Failure> {
        let execute = async |statement: &str| {
            let executed = deadline.of(session.client.batch_execute(statement)).await?;
            executed.map_err(|error| session.failure(&error))
        };
        execute("ROLLBACK").await?;
        let table = &self.address.table;
        execute(BEGIN).await?;
        match execute(&table.ddl()).await {
            Ok(()) => execute("COMMIT").await,
            // Another node has created it.
            Err(failure) if failure.kind() == Kind::Rejected(Code::Exists) => execute("ROLLBACK").await,
            Err(failure) => Err(failure.with_advice(&table.advice(&self.address.user))),
        }
    }

    /// Removes the document.
    pub(super) async fn remove(&self, place: &Place, deadline: Deadline) -> Result<(), Failure> {
        let session = self.begin(self.take_idle(), deadline).await?;
        let statement = format!("DELETE FROM {} WHERE name = $1", self.address.table.quoted());
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&place.row, Type::TEXT)];
        let removing = session.client.execute_typed(&statement, &parameters);
        match deadline.of(removing).await?.map_err(|error| session.failure(&error)) {
            Ok(_) => match commit(&session, deadline).await {
                Ok(()) => self.keep_idle(Some(session)),
                Err(SwapFailure::Unwritten(failure) | SwapFailure::Unknown(failure)) => return Err(failure),
            },
            Err(failure) if failure.kind() == Kind::Rejected(Code::MissingTable) => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

impl Reads {
    /// Returns the connection, and makes it if there is none.
    async fn get(&self, address: &Arc<Address>, deadline: Deadline) -> Result<Arc<Session>, Failure> {
        if let Some(session) = self.open() {
            return Ok(session);
        }
        let _one = deadline.of(self.connecting.lock()).await?;
        if let Some(session) = self.open() {
            return Ok(session);
        }
        let session = Arc::new(deadline.of(Session::connect(address, None)).await??);
        *lock(&self.session) = Some(Arc::clone(&session));
        Ok(session)
    }

    fn open(&self) -> Option<Arc<Session>> {
        lock(&self.session).clone().filter(|session| !session.is_closed())
    }

    /// Forgets a connection, unless another has replaced it. Reads that wait on it fail.
    fn discard(&self, discarded: &Arc<Session>) {
        let mut session = lock(&self.session);
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, discarded)) {
            *session = None;
        }
        discarded.end();
    }
}

/// Commits. A warning means that the change is on this server alone, and may be lost with it.
async fn commit(session: &Session, deadline: Deadline) -> Result<(), SwapFailure> {
    let warnings = session.warnings();
    // Not sent at all after the deadline.
    deadline.of(std::future::ready(())).await.map_err(SwapFailure::Unwritten)?;
    let committed =
        deadline.of(session.client.batch_execute("COMMIT")).await.map_err(SwapFailure::Unknown)?;
    let failure = committed.err().map(|error| session.failure(&error));
    match (failure, session.warning_since(warnings)) {
        (None, None) => Ok(()),
        // A server that ends the connection gives its reason as a warning.
        (_, Some(warning)) => Err(SwapFailure::Unknown(unreplicated(&warning))),
        (Some(failure), None) if matches!(failure.kind(), Kind::Rejected(_)) => {
            Err(SwapFailure::Unwritten(failure))
        }
        (Some(failure), None) => Err(SwapFailure::Unknown(failure)),
    }
}

/// Proves that this server is the primary, if a synchronous standby must confirm what it commits.
async fn commit_a_proof(session: &Session) -> Result<(), Failure> {
    let warnings = session.warnings();
    session.client.batch_execute(COMMIT_A_PROOF).await.map_err(|error| session.failure(&error))?;
    match session.warning_since(warnings) {
        None => Ok(()),
        Some(warning) => Err(unreplicated(&warning)),
    }
}

fn unreplicated(warning: &str) -> Failure {
    Failure::new(format!("the server warns: {warning}; check its synchronous standbys"))
}

/// Ends a transaction that has changed nothing. Returns its connection, if that is still good.
async fn roll_back(session: Session, deadline: Deadline) -> Option<Session> {
    let ended = deadline.of(session.client.batch_execute("ROLLBACK")).await;
    matches!(ended, Ok(Ok(()))).then_some(session)
}

/// Returns a random time of less than a limit.
pub(super) fn jitter(limit_ms: u8) -> Duration {
    let mut byte = [0];
    // Without randomness all losers pause alike.
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    Duration::from_millis(u64::from(byte) * u64::from(limit_ms) / 256)
}

/// Compares the time that the server states with the middle of the call.
fn clock_difference(sent: SystemTime, stated_ms: i64, received: SystemTime) -> Option<ClockDifference> {
    let half = received.duration_since(sent).ok()? / 2;
    let middle = (sent + half).duration_since(UNIX_EPOCH).ok()?;
    let ahead_ms = stated_ms.checked_sub(i64::try_from(middle.as_millis()).ok()?)?;
    Some(ClockDifference { ahead_ms, precision: half + Duration::from_millis(1) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_compared_with_the_middle_of_the_call() {
        let sent = UNIX_EPOCH + Duration::from_secs(1);
        let received = sent + Duration::from_millis(200);
        let difference = |stated| clock_difference(sent, stated, received);
        let precision = Duration::from_millis(101);
        assert_eq!(difference(1100), Some(ClockDifference { ahead_ms: 0, precision }));
        assert_eq!(difference(400), Some(ClockDifference { ahead_ms: -700, precision }));
        assert_eq!(clock_difference(received, 0, sent), None);
    }

    #[test]
    fn jitter_stays_below_its_limit() {
        for _ in 0..100 {
            assert!(jitter(LOSER_JITTER_MS) < Duration::from_millis(u64::from(LOSER_JITTER_MS)));
        }
    }
}
