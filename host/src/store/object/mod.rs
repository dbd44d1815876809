//! `s3://`, `gs://` and `az://`: one object in a bucket, replaced by conditional writes.
//!
//! The object is `PREFIX/catalog`. Its first line has a random nonce, so that the same document
//! again has another `ETag`, and the nonces of the states before it, by which a write whose answer
//! is lost or wrong is found (stored.rs). The client repeats no write: a repetition of one's own
//! write is refused like a lost race (transport.rs, swap.rs).

mod address;
mod bucket;
mod cloud;
mod failure;
mod stored;
mod swap;
#[cfg(test)]
mod tests;
mod transport;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::RetryConfig;
use tokio::time::Instant;

use self::address::Address;
use self::bucket::Bucket;
use self::failure::{Failure, Kind};
use self::stored::Form;
use self::swap::{Object, Swap};
use crate::store::remote::{
    CALL_TIMEOUT, CallRuntime, ConnectError, Finding, Nonce, RemoteStore, Removable, Scratch, ScratchStore,
    TimedOut, Usable, WRITE_TIMEOUT,
};
use crate::store::{ClockDifference, Entry, Store, StoreError, SwapOutcome, Version};

/// The name of the object below the prefix.
const CATALOG: &str = "catalog";

/// The time between two reads of the poller: each is a request that the cloud bills.
const INTERVAL: Duration = Duration::from_secs(1);

/// The end of a call, before the runtime cancels it, so that it can state what it knows.
const MARGIN: Duration = Duration::from_millis(100);

/// A catalog in a bucket of an object store.
pub struct ObjectStore {
    bucket: Arc<Bucket>,
    object: Arc<Object>,
    runtime: Arc<CallRuntime>,
}

impl ObjectStore {
    /// Reads a URL such as `s3://bucket/prefix`, with the credentials of the environment. Makes no
    /// call.
    ///
    /// The options of the URL are `endpoint`, `region` (S3 only), `ca` (a file of authorities to
    /// trust instead of those of the system) and `allow_http`. The variables are those of the crate
    /// `object_store`: `AWS_…`, `GOOGLE_…` and `AZURE_…`.
    pub fn open(url: &str) -> Result<Self, ConnectError> {
        // A variable that is no text configures nothing here.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::open_with(url, std::env::vars_os().filter_map(text))
    }

    /// Like [`open`](Self::open), with these variables instead of the environment.
    pub fn open_with(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConnectError> {
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        Self::build(url, variables, once, false)
    }

    /// An adapter with the defaults of the crate `object_store`: it repeats writes, and its word
    /// for a lost race is believed. A test must find that it loses its own changes.
    #[cfg(any(test, feature = "test-suite"))]
    pub fn open_with_default_retries(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConnectError> {
        Self::build(url, variables, RetryConfig::default(), true)
    }

    fn build(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        retry: RetryConfig,
        trusts_refusals: bool,
    ) -> Result<Self, ConnectError> {
        let mut address = Address::parse(url)?;
        let client = cloud::client(&mut address, variables.into_iter(), retry)?;
        let runtime = CallRuntime::start().map_err(|error| ConnectError::Setup {
            address: address.text.clone(),
            reason: format!("no thread for its client: {error}"),
        })?;
        let object = Arc::new(Object::new(address.object(CATALOG)));
        let bucket = Arc::new(Bucket::new(address, client, trusts_refusals));
        Ok(Self { bucket, object, runtime: Arc::new(runtime) })
    }

    /// Runs a read until its deadline.
    fn read<T, F>(
        &self,
        timeout: Duration,
        read: impl FnOnce(Arc<Bucket>, Arc<Object>, Instant) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let deadline = Instant::now() + timeout.saturating_sub(MARGIN);
        let read = read(Arc::clone(&self.bucket), Arc::clone(&self.object), deadline);
        let unavailable = |text: &str| StoreError::Unavailable(format!("{}: {text}", self.address()));
        match self.runtime.call(timeout, read) {
            Ok(result) => result.map_err(|failure| unavailable(&failure.without_change())),
            Err(late) => Err(unavailable(&format!("{late}. Check the store and the network"))),
        }
    }

    fn finding(check: &str, found: impl Into<String>, usable: Usable) -> Finding {
        Finding { check: check.to_owned(), found: found.into(), usable }
    }
}

impl fmt::Debug for ObjectStore {
    /// Omits the client, which has credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Store for ObjectStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let mark = self.read(CALL_TIMEOUT, |bucket, object, deadline| async move {
            bucket.mark(&object.path, deadline).await
        })?;
        Ok(mark.map(|mark| mark.version()))
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let found = self.read(WRITE_TIMEOUT, |bucket, object, deadline| async move {
            bucket.document(&object.path, deadline).await
        })?;
        Ok(found.map(|(state, document)| {
            self.object.remember(&state);
            Entry { version: state.mark.version(), document }
        }))
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let swap = Swap {
            bucket: Arc::clone(&self.bucket),
            object: Arc::clone(&self.object),
            deadline: Instant::now() + WRITE_TIMEOUT.saturating_sub(MARGIN),
        };
        let swap = swap.run(expected.cloned(), document.to_owned());
        self.runtime.call(WRITE_TIMEOUT, swap).unwrap_or_else(|TimedOut(timeout)| {
            let late = TimedOut(timeout);
            Err(StoreError::UnknownOutcome(format!("{}: {late}. The write may still happen", self.address())))
        })
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn location(&self) -> Option<String> {
        Some(self.address().to_owned())
    }

    fn clock(&self) -> Option<ClockDifference> {
        self.bucket.clock()
    }
}

impl RemoteStore for ObjectStore {
    fn address(&self) -> &str {
        &self.bucket.address.text
    }

    fn inspect(&self) -> Result<Vec<Finding>, StoreError> {
        let learned = self.read(WRITE_TIMEOUT, |bucket, _, deadline| async move {
            match bucket.learn(deadline).await {
                Err(Failure { kind: Kind::Unfit, text }) => Ok(Err(text)),
                learned => learned.map(Ok),
            }
        })?;
        let learned = match learned {
            Ok(learned) => learned,
            Err(text) => return Ok(vec![Self::finding("conditions", text, Usable::No)]),
        };
        let mut findings = vec![match learned.form {
            Form::Quoted => Self::finding("conditions", "the right ETag is accepted", Usable::Yes),
            Form::Bare => {
                Self::finding("conditions", "the right ETag is accepted, without quotes only", Usable::Yes)
            }
        }];
        findings.push(if self.bucket.address.is_exposed() {
            let found = "without encryption: the network can read and change the catalog";
            Self::finding("connection", found, Usable::WithLimit)
        } else if self.bucket.address.is_loopback() {
            Self::finding("connection", "on this machine", Usable::Yes)
        } else {
            Self::finding("connection", "TLS with a verified certificate", Usable::Yes)
        });
        if learned.is_versioned && self.bucket.address.cloud != address::Cloud::Google {
            let found = "the bucket keeps old versions, which have old hashes: let them expire";
            findings.push(Self::finding("old versions", found, Usable::WithLimit));
        }
        if self.bucket.limits_writes() {
            let found = "one write a second: commands wait for each other, on all nodes";
            findings.push(Self::finding("rate of writes", found, Usable::WithLimit));
        }
        Ok(findings)
    }

    fn scratch(&self) -> Result<Box<dyn ScratchStore>, StoreError> {
        let object = self.bucket.address.object(&format!("probe-{}", Nonce::random()?));
        Ok(Box::new(Scratch(Self {
            bucket: Arc::clone(&self.bucket),
            object: Arc::new(Object::new(object)),
            runtime: Arc::clone(&self.runtime),
        })))
    }
}

impl Removable for ObjectStore {
    fn remove(&self) -> Result<(), StoreError> {
        self.read(WRITE_TIMEOUT, |bucket, object, _| async move { bucket.remove(&object.path).await })
    }
}
