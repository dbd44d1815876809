//! The store in etcd, through its JSON gateway, which every etcd from 3.4 has at `/v3/`.
//!
//! `layout.rs` has the keys, `document.rs` the calls, `gateway.rs` the requests to the members.
//! A watch only wakes the poller: a member that has lost the others answers watches and
//! serializable reads for as long as it likes, so neither proves anything.

mod address;
mod document;
mod failure;
mod gateway;
mod inspect;
mod layout;
mod message;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::address::Address;
use self::document::Call;
use self::gateway::{Gateway, Patience};
use self::layout::Keys;
use crate::store::remote::{
    CALL_TIMEOUT, CallRuntime, ConnectError, Finding, NewsTask, Nonce, RemoteStore, Removable, Scratch,
    ScratchStore, WRITE_TIMEOUT,
};
use crate::store::{ClockDifference, Entry, News, Store, StoreError, SwapOutcome, Version};

/// The interval of the poller, beside the watch.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long chunks stay that no transaction has adopted.
const CHUNK_LEASE: Duration = Duration::from_mins(10);

/// What a call leaves of its time to the thread that waits for it.
const MARGIN: Duration = Duration::from_millis(50);

/// A catalog in etcd, for any number of nodes.
///
/// The URL is `etcd://HOST:PORT[,HOST:PORT…]/PREFIX`, or `etcds://` with TLS. All hosts are members
/// of one cluster. Keys begin with `PREFIX/`. The options `ca`, `cert` and `key` name files in PEM,
/// and `allow_http=true` permits plain text to other machines. A user stands before the hosts, as
/// in `etcds://USER@HOST/PREFIX`. The environment variables `INFLUXDB3_TOKEN_STORE_PASSWORD` and
/// `INFLUXDB3_TOKEN_STORE_PASSWORD_FILE` hold the password, or name its file.
pub struct EtcdStore {
    client: Arc<Shared>,
    /// The prefix of the URL.
    prefix: String,
    keys: Keys,
    lease: Duration,
    clock: Mutex<Option<ClockDifference>>,
    watch: NewsTask,
}

/// What a store shares with its scratch stores.
struct Shared {
    runtime: CallRuntime,
    gateway: Arc<Gateway>,
    address: Arc<str>,
}

impl EtcdStore {
    /// Opens the store of a URL. Makes no call.
    ///
    /// # Errors
    ///
    /// The URL has a wrong part, or a certificate, key or password cannot be read.
    pub fn open(url: &str) -> Result<Self, ConnectError> {
        let mut address = Address::parse(url)?;
        let gateway = Gateway::new(&mut address)?;
        let runtime = CallRuntime::start().map_err(|error| ConnectError::Setup {
            address: address.shown.clone(),
            reason: format!("its thread does not start: {error}"),
        })?;
        let keys = Keys::catalog(&address.prefix);
        let client = Shared { runtime, gateway: Arc::new(gateway), address: address.shown.into() };
        Ok(Self::of(Arc::new(client), address.prefix, keys))
    }

    fn of(client: Arc<Shared>, prefix: String, keys: Keys) -> Self {
        Self { client, prefix, keys, lease: CHUNK_LEASE, clock: Mutex::default(), watch: NewsTask::default() }
    }

    /// Sets how long chunks stay that no transaction has adopted, in whole seconds.
    #[cfg(any(test, feature = "test-suite"))]
    #[must_use]
    pub fn with_chunk_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Makes a call within `timeout`. `late` is its error if the thread of the client is stuck.
    fn call<T, F>(
        &self,
        timeout: Duration,
        late: fn(String) -> StoreError,
        call: impl FnOnce(Call) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let Shared { runtime, gateway, address } = &*self.client;
        let deadline = Instant::now() + timeout.saturating_sub(MARGIN);
        let future = call(Call {
            gateway: Arc::clone(gateway),
            keys: self.keys.clone(),
            address: Arc::clone(address),
            patience: Patience { deadline, hedge: timeout / 4 },
        });
        runtime.call(timeout, future).unwrap_or_else(|error| Err(late(format!("{address}: {error}"))))
    }
}

impl Store for EtcdStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let read = |call: Call| async move { call.version().await };
        let (version, clock) = self.call(CALL_TIMEOUT, StoreError::Unavailable, read)?;
        if clock.is_some() {
            *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
        }
        Ok(version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.call(WRITE_TIMEOUT, StoreError::Unavailable, |call| async move { call.load().await })
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let (expected, document, lease) = (expected.cloned(), document.to_owned(), self.lease);
        self.call(WRITE_TIMEOUT, StoreError::UnknownOutcome, |call| async move {
            call.swap(expected, &document, lease).await
        })
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn listen(&self, news: News) {
        let Shared { runtime, gateway, .. } = &*self.client;
        self.watch.start(runtime, watch::watch(Arc::clone(gateway), self.keys.version(), news));
    }

    fn location(&self) -> Option<String> {
        Some(self.client.address.to_string())
    }

    fn clock(&self) -> Option<ClockDifference> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteStore for EtcdStore {
    fn address(&self) -> &str {
        &self.client.address
    }

    fn inspect(&self) -> Result<Vec<Finding>, StoreError> {
        self.call(WRITE_TIMEOUT, StoreError::Unavailable, |call| async move { inspect::inspect(&call).await })
    }

    fn scratch(&self) -> Result<Box<dyn ScratchStore>, StoreError> {
        let keys = Keys::scratch(&self.prefix, &Nonce::random()?);
        Ok(Box::new(Scratch(Self::of(Arc::clone(&self.client), self.prefix.clone(), keys))))
    }
}

impl Removable for EtcdStore {
    fn remove(&self) -> Result<(), StoreError> {
        self.call(WRITE_TIMEOUT, StoreError::UnknownOutcome, |call| async move { call.remove().await })
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("address", &self.client.address).finish_non_exhaustive()
    }
}
