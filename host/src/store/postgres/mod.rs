//! The catalog as a row of a table of PostgreSQL, which any number of nodes share.
//!
//! A swap is one transaction with one statement, which finds the row only at the expected version.
//! Every stored version is a random name, so that none comes back with a restored database. A read
//! proves something only on a primary. News come by LISTEN, and prove nothing.

mod address;
mod engine;
mod failure;
mod inspection;
mod news;
mod session;
mod table;

use std::env;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use self::address::Address;
use self::engine::{Deadline, Engine, SwapFailure};
use self::failure::Failure;
use self::table::Place;
use crate::store::remote::{
    CALL_TIMEOUT, CallRuntime, ConnectError, Finding, NewsTask, Nonce, RemoteStore, Removable, Scratch,
    ScratchStore, WRITE_TIMEOUT,
};
use crate::store::{ClockDifference, Entry, News, Store, StoreError, SwapOutcome, Version};

/// Without news, the time until a node notices a change of another one.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time of a call that is left to the thread that waits for it. The steps of a call end before
/// it, as they know what was written.
const MARGIN: Duration = Duration::from_millis(100);

/// A store that several nodes share, in a PostgreSQL database.
pub struct PostgresStore {
    shared: Arc<Shared>,
    place: Place,
    /// The task that waits for news.
    listener: NewsTask,
}

/// What a store shares with its scratch stores.
struct Shared {
    runtime: CallRuntime,
    engine: Arc<Engine>,
}

impl PostgresStore {
    /// Opens the store at a URL, `postgres://USER@HOST:PORT[,HOST:PORT…]/DATABASE`. Calls no
    /// server.
    ///
    /// The password is of the URL, or of `INFLUXDB3_TOKEN_STORE_PASSWORD`, of the file that
    /// `INFLUXDB3_TOKEN_STORE_PASSWORD_FILE` names, or of `PGPASSWORD`. Connections are encrypted
    /// and certificates verified, except on the loopback interface and Unix sockets.
    ///
    /// | option | meaning |
    /// |---|---|
    /// | `sslmode` | `require` encrypts on the loopback interface as well; `verify-ca` and `verify-full` mean the same; `disable` is for this machine only |
    /// | `sslrootcert` | the file of the certificates to trust, in place of those of the system |
    /// | `sslcert`, `sslkey` | the files of a client certificate and its key |
    /// | `channel_binding` | `disable`, `prefer` (the default) or `require` |
    /// | `table` | the table, which may have a schema: `optoken_catalog` by default |
    /// | `proof` | `read` (the default), or `write`: each read commits first, which an old primary cannot without its synchronous standby |
    /// | `host`, `port` | the directory of a Unix socket, and its number |
    pub fn open(url: &str) -> Result<Self, ConnectError> {
        let address = Arc::new(Address::parse(url, &|name| env::var_os(name))?);
        let runtime = CallRuntime::start().map_err(|error| ConnectError::Setup {
            address: address.shown.clone(),
            reason: format!("no thread can be started: {error}"),
        })?;
        let place = Place::catalog(&address.table);
        let engine = Arc::new(Engine::new(address));
        Ok(Self::of(Arc::new(Shared { runtime, engine }), place))
    }

    fn of(shared: Arc<Shared>, place: Place) -> Self {
        Self { shared, place, listener: NewsTask::default() }
    }

    fn address(&self) -> &Address {
        &self.shared.engine.address
    }

    /// Runs a call with what it needs of the store. Returns `late` if it does not end in time.
    fn call<T, F>(
        &self,
        limit: Duration,
        late: fn(String) -> StoreError,
        call: impl FnOnce(Arc<Engine>, Place, Deadline) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let deadline = Deadline::after(limit.saturating_sub(MARGIN));
        let call = call(Arc::clone(&self.shared.engine), self.place.clone(), deadline);
        let result = self.shared.runtime.call(limit, call);
        result.unwrap_or_else(|error| Err(late(self.text(&Failure::from(error)))))
    }

    fn text(&self, failure: &Failure) -> String {
        text(self.address(), failure)
    }
}

fn text(address: &Address, failure: &Failure) -> String {
    format!("{}: {failure}", address.shown)
}

impl Store for PostgresStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.call(CALL_TIMEOUT, StoreError::Unavailable, |engine, place, deadline| async move {
            let version = engine.version(&place, deadline).await;
            version.map_err(|failure| StoreError::Unavailable(text(&engine.address, &failure)))
        })
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.call(WRITE_TIMEOUT, StoreError::Unavailable, |engine, place, deadline| async move {
            let entry = engine.load(&place, deadline).await;
            entry.map_err(|failure| StoreError::Unavailable(text(&engine.address, &failure)))
        })
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let (expected, document) = (expected.cloned(), document.to_owned());
        self.call(WRITE_TIMEOUT, StoreError::UnknownOutcome, |engine, place, deadline| async move {
            let expected = expected.as_ref().map(Version::as_str);
            engine.swap(&place, expected, &document, deadline).await.map_err(|failure| match failure {
                SwapFailure::Unwritten(failure) => StoreError::Unavailable(text(&engine.address, &failure)),
                SwapFailure::Unknown(failure) => StoreError::UnknownOutcome(text(&engine.address, &failure)),
            })
        })
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn listen(&self, news: News) {
        let address = Arc::clone(&self.shared.engine.address);
        let listen = news::listen(address, self.place.channel.clone(), news);
        self.listener.start(&self.shared.runtime, listen);
    }

    fn location(&self) -> Option<String> {
        Some(self.address().shown.clone())
    }

    fn clock(&self) -> Option<ClockDifference> {
        self.shared.engine.clock()
    }
}

impl RemoteStore for PostgresStore {
    fn address(&self) -> &str {
        &self.address().shown
    }

    fn inspect(&self) -> Result<Vec<Finding>, StoreError> {
        let trial = Place::scratch(&Nonce::random()?);
        self.call(WRITE_TIMEOUT, StoreError::Unavailable, |engine, _, deadline| async move {
            let findings = deadline.of(inspection::inspect(&engine.address, &trial)).await;
            let findings = findings.and_then(|findings| findings);
            findings.map_err(|failure| StoreError::Unavailable(text(&engine.address, &failure)))
        })
    }

    /// A row of the same table, so that this needs no right to create one.
    fn scratch(&self) -> Result<Box<dyn ScratchStore>, StoreError> {
        let place = Place::scratch(&Nonce::random()?);
        Ok(Box::new(Scratch(Self::of(Arc::clone(&self.shared), place))))
    }
}

impl Removable for PostgresStore {
    fn remove(&self) -> Result<(), StoreError> {
        self.call(WRITE_TIMEOUT, StoreError::UnknownOutcome, |engine, place, deadline| async move {
            let removed = engine.remove(&place, deadline).await;
            removed.map_err(|failure| StoreError::UnknownOutcome(text(&engine.address, &failure)))
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresStore").field(&self.address().shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    fn waits_for_release(news: &Arc<()>, holders: usize) {
        let start = Instant::now();
        while Arc::strong_count(news) > holders {
            assert!(start.elapsed() < Duration::from_secs(30), "news are kept");
            thread::yield_now();
        }
    }

    #[test]
    fn store_drops_its_news_with_itself() {
        let store = PostgresStore::open("postgres://u@127.0.0.1:1/d").unwrap();
        // It keeps the runtime.
        let scratch = store.scratch().unwrap();
        let held = Arc::new(());
        for _ in 0..2 {
            let holder = Arc::clone(&held);
            store.listen(Arc::new(move || drop(Arc::clone(&holder))));
        }
        // A second listener replaces the first.
        waits_for_release(&held, 2);
        assert_eq!(Arc::strong_count(&held), 2);
        drop(store);
        waits_for_release(&held, 1);
        drop(scratch);
    }
}
