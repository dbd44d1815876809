//! The calls of the port, as requests to etcd.
//!
//! Every read is a linearizable range: it reflects each change that was acknowledged before it
//! began. A swap is one transaction on the value of the version. Neither a revision of etcd nor a
//! lease decides anything: a restored snapshot repeats revisions, and a paused process outlives its
//! lease.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::store::etcd::gateway::{Answer, Gateway, Patience};
use crate::store::etcd::layout::{CHUNK_BYTES, Keys, MAX_CHUNKS, State, chunks_of};
use crate::store::etcd::message::{
    Below, KeyValue, Lease, LeasedPut, Range, Transaction, adopt, decode, delete, delete_one, encode, put,
    range, range_below,
};
use crate::store::remote::Nonce;
use crate::store::{ClockDifference, Entry, StoreError, SwapOutcome, Version};

/// The time that the transaction of a swap needs after its chunks.
const COMMIT_TIME: Duration = Duration::from_secs(1);

/// How often a reader finds a chunk missing before it reports damage.
const MAX_MISSING: usize = 3;

/// The pause of a writer that lost, in milliseconds. Writers that race do not repeat in step.
const STALE_PAUSE_MS: std::ops::Range<u64> = 10..50;

/// One call: where and until when.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) gateway: Arc<Gateway>,
    pub(super) keys: Keys,
    /// The address for errors.
    pub(super) address: Arc<str>,
    pub(super) patience: Patience,
}

impl Call {
    /// Reads the version and the clock of the member that answers.
    pub(super) async fn version(&self) -> Result<(Option<Version>, Option<ClockDifference>), StoreError> {
        let answer = self.read("kv/range", &range(&self.keys.version())).await?;
        let found: Range = self.parse(&answer)?;
        let state = found.kvs.first().map(|found| self.state(found)).transpose()?;
        Ok((state.map(|state| Version::from(state.to_string())), answer.clock))
    }

    /// Reads the document.
    pub(super) async fn load(&self) -> Result<Option<Entry>, StoreError> {
        let both = json!({ "success": [
            { "request_range": range(&self.keys.version()) },
            { "request_range": range(&self.keys.document()) },
        ] });
        let mut missing: Option<(State, usize)> = None;
        loop {
            let found: Transaction = self.parse(&self.read("kv/txn", &both).await?)?;
            let Some(version) = found.found(0).first() else { return Ok(None) };
            let state = self.state(version)?;
            let document = if state.chunks == 0 {
                let Some(document) = found.found(1).first() else {
                    return Err(self.damaged("names a document that is missing"));
                };
                Some(self.decode(document)?)
            } else {
                self.chunks(&state).await?
            };
            if let Some(document) = document {
                return Ok(Some(Entry { version: Version::from(state.to_string()), document }));
            }
            // A chunk is missing: another writer has replaced the document meanwhile.
            let count = missing.filter(|(before, _)| *before == state).map_or(1, |(_, count)| count + 1);
            if count == MAX_MISSING {
                return Err(self.damaged("names chunks that are missing"));
            }
            missing = Some((state, count));
        }
    }

    /// Reads the chunks of a document. Returns `None` if one is missing.
    async fn chunks(&self, state: &State) -> Result<Option<String>, StoreError> {
        let answer = self.read("kv/range", &range_below(Below(&self.keys.chunks_of(&state.nonce)))).await?;
        let found: Range = self.parse(&answer)?;
        if found.kvs.len() != state.chunks {
            return Ok(None);
        }
        let mut document = String::with_capacity(state.chunks * CHUNK_BYTES);
        for (number, chunk) in found.kvs.iter().enumerate() {
            if decode(&chunk.key).as_deref() != Some(&self.keys.chunk(&state.nonce, number)) {
                return Ok(None);
            }
            document.push_str(&self.decode(chunk)?);
        }
        Ok(Some(document))
    }

    /// Replaces the document if its version is still the expected one.
    pub(super) async fn swap(
        &self,
        expected: Option<Version>,
        document: &str,
        lease: Duration,
    ) -> Result<SwapOutcome, StoreError> {
        let outcome = self.try_swap(expected, document, lease).await;
        if matches!(outcome, Ok(SwapOutcome::Stale)) {
            let pause = Instant::now() + random_pause();
            sleep_until(pause.min(self.patience.deadline)).await;
        }
        outcome
    }

    async fn try_swap(
        &self,
        expected: Option<Version>,
        document: &str,
        lease: Duration,
    ) -> Result<SwapOutcome, StoreError> {
        let chunks = chunks_of(document);
        if chunks.len() > MAX_CHUNKS {
            let limit = MAX_CHUNKS * CHUNK_BYTES;
            let bytes = document.len();
            return Err(self.unavailable(format_args!("a document of {bytes} bytes exceeds {limit}")));
        }
        let state = State { nonce: Nonce::random()?, chunks: chunks.len() };
        let (version, all) = (self.keys.version(), self.keys.chunks());
        let compared = match &expected {
            None => json!({
                "key": encode(version.as_bytes()), "target": "CREATE", "result": "EQUAL", "create_revision": "0",
            }),
            Some(expected) => json!({
                "key": encode(version.as_bytes()), "target": "VALUE", "result": "EQUAL",
                "value": encode(expected.as_str().as_bytes()),
            }),
        };
        let mut changes = vec![put(&version, &state.to_string())];
        let leased = if chunks.is_empty() {
            changes.push(put(&self.keys.document(), document));
            changes.push(delete(&all, &Below(&all).end()));
            None
        } else {
            // A writer that has lost already spares etcd its chunks.
            if self.version().await?.0 != expected {
                return Ok(SwapOutcome::Stale);
            }
            let own = self.keys.chunks_of(&state.nonce);
            changes.push(delete_one(&self.keys.document()));
            changes.extend((0..chunks.len()).map(|number| adopt(&self.keys.chunk(&state.nonce, number))));
            changes.push(delete(&all, &own));
            changes.push(delete(&Below(&own).end(), &Below(&all).end()));
            Some(self.upload(&state, &chunks, lease).await?)
        };
        let transaction = json!({
            "compare": [compared],
            "success": changes,
            "failure": [{ "request_range": range(&version) }],
        });
        let outcome = self.commit(&state, expected.as_ref(), &transaction).await;
        if let (Some(lease), Ok(SwapOutcome::Stale) | Err(StoreError::Unavailable(_))) = (leased, &outcome) {
            self.discard(lease);
        }
        outcome
    }

    /// Sends the transaction of a swap, once.
    async fn commit(
        &self,
        state: &State,
        expected: Option<&Version>,
        transaction: &Value,
    ) -> Result<SwapOutcome, StoreError> {
        let own = state.to_string();
        let sent = self.gateway.write("kv/txn", &transaction.to_string(), self.patience.deadline).await;
        match sent {
            Ok(answer) => {
                let done: Transaction = answer.parse().map_err(|reason| self.unknown(reason))?;
                // A proxy may repeat a request. The second one finds the version of the first.
                let found = || done.found(0).first().and_then(|found| decode(&found.value));
                if done.succeeded || found().as_ref() == Some(&own) {
                    Ok(SwapOutcome::Swapped(Version::from(own)))
                } else {
                    Ok(SwapOutcome::Stale)
                }
            }
            Err(failure) if failure.is_full() => {
                // The write is done or refused by now: a transaction that exceeds the quota is
                // applied, and reported as refused.
                match self.version().await {
                    Ok((Some(found), _)) if found.as_str() == own => Ok(SwapOutcome::Swapped(found)),
                    Ok((found, _)) if found.as_ref() == expected => Err(self.unavailable(failure)),
                    _ => Err(self.unknown(failure)),
                }
            }
            Err(failure) if failure.changed_nothing() => Err(self.unavailable(failure)),
            Err(failure) => Err(self.unknown(failure)),
        }
    }

    /// Writes the chunks under a new lease, which removes them if no transaction adopts them.
    /// Returns the lease.
    async fn upload(&self, state: &State, chunks: &[&str], lease: Duration) -> Result<Lease, StoreError> {
        // The document is unchanged, however these writes end.
        let deadline = self.patience.deadline - COMMIT_TIME;
        let granted = json!({ "TTL": lease.as_secs().to_string() }).to_string();
        let granted = self.gateway.write("lease/grant", &granted, deadline).await;
        let granted: Lease = self.parse(&granted.map_err(|failure| self.unavailable(failure))?)?;
        for (number, chunk) in chunks.iter().enumerate() {
            let put = LeasedPut {
                key: encode(self.keys.chunk(&state.nonce, number).as_bytes()),
                value: encode(chunk.as_bytes()),
                lease: &granted.id,
            };
            let put = serde_json::to_string(&put).map_err(|error| self.unavailable(error))?;
            if let Err(failure) = self.gateway.write("kv/put", &put, deadline).await {
                self.discard(granted);
                return Err(self.unavailable(failure));
            }
        }
        Ok(granted)
    }

    /// Revokes a lease with its chunks, in the background. If that fails they go with its time.
    fn discard(&self, Lease { id }: Lease) {
        let call = self.clone();
        tokio::spawn(async move {
            let revoked = json!({ "ID": id }).to_string();
            // The task outlives the call.
            let deadline = Instant::now() + Duration::from_secs(2);
            let _ = call.gateway.write("lease/revoke", &revoked, deadline).await;
        });
    }

    /// Removes all keys.
    pub(super) async fn remove(&self) -> Result<(), StoreError> {
        let all = range_below(Below(&self.keys.all())).to_string();
        let removed = self.gateway.write("kv/deleterange", &all, self.patience.deadline).await;
        removed.map(drop).map_err(|failure| self.unknown(failure))
    }

    pub(super) async fn read(&self, path: &'static str, body: &Value) -> Result<Answer, StoreError> {
        let answer = self.gateway.read(path, body.to_string(), self.patience).await;
        answer.map_err(|failure| self.unavailable(failure))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, answer: &Answer) -> Result<T, StoreError> {
        answer.parse().map_err(|reason| self.unavailable(reason))
    }

    fn state(&self, found: &KeyValue) -> Result<State, StoreError> {
        let state = decode(&found.value).and_then(|value| State::parse(&value));
        state.ok_or_else(|| self.damaged("does not have the form of this program"))
    }

    fn decode(&self, found: &KeyValue) -> Result<String, StoreError> {
        decode(&found.value).ok_or_else(|| self.damaged("names a document that is not UTF-8"))
    }

    /// The keys were changed by something else.
    fn damaged(&self, fault: &str) -> StoreError {
        let key = self.keys.version();
        self.unavailable(format_args!(
            "the key {key} {fault}; use another prefix, or restore a backup after removing the keys below {}",
            self.keys.all()
        ))
    }

    pub(super) fn unavailable(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Unavailable(format!("{}: {reason}", self.address))
    }

    pub(super) fn unknown(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::UnknownOutcome(format!("{}: {reason}", self.address))
    }
}

fn random_pause() -> Duration {
    let std::ops::Range { start, end } = STALE_PAUSE_MS;
    // Without random numbers every writer pauses for the shortest time.
    let random = getrandom::u64().unwrap_or_default();
    Duration::from_millis(start + random % (end - start))
}
