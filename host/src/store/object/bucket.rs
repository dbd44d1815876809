//! Requests for single objects. Reads are repeated until their deadline, writes never.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, ObjectStoreExt as _, PutMode, PutOptions,
    UpdateVersion,
};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::address::{Address, Cloud};
use super::failure::{Failure, Kind};
use super::stored::{Form, Header, MAX_LINE, Mark};
use super::transport::Trace;
use crate::store::ClockDifference;
use crate::store::remote::Nonce;

/// The largest object that is read: more than any catalog has.
const MAX_OBJECT: u64 = 16 << 20;

/// The first pause before a read is repeated. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(30);

/// The longest pause of that kind.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How many requests of one read are under way at once.
const MAX_ATTEMPTS: usize = 3;

/// How often some engines write the same object: once in this time.
const WRITE_SPACING: Duration = Duration::from_secs(1);

/// A stored state, as far as it was read.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) mark: Mark,
    pub(super) header: Header,
}

/// What trials have shown about the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) form: Form,
    /// The bucket keeps old versions of its objects.
    pub(super) is_versioned: bool,
}

/// The way to one bucket, shared by the stores in it.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) address: Address,
    client: Arc<dyn object_store::ObjectStore>,
    form: OnceCell<Form>,
    /// The engine limits writes of one object.
    limits_writes: AtomicBool,
    clock: Mutex<Option<ClockDifference>>,
    /// The word of the client decides a lost race, without a read (only in tests).
    pub(super) trusts_refusals: bool,
}

impl Bucket {
    pub(super) fn new(
        address: Address,
        client: Arc<dyn object_store::ObjectStore>,
        trusts_refusals: bool,
    ) -> Self {
        let is_known = address.cloud != Cloud::S3 || address.endpoint.is_none();
        let form = if is_known { OnceCell::from(Form::Quoted) } else { OnceCell::new() };
        let limits_writes = AtomicBool::new(address.is_slow());
        Self { address, client, form, limits_writes, clock: Mutex::default(), trusts_refusals }
    }

    pub(super) fn clock(&self) -> Option<ClockDifference> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits_writes(&self) -> bool {
        self.limits_writes.load(Ordering::Relaxed)
    }

    /// Returns the name of the stored state, without its bytes.
    pub(super) async fn mark(
        self: &Arc<Self>,
        object: &Path,
        deadline: Instant,
    ) -> Result<Option<Mark>, Failure> {
        let read = self.repeated(deadline, |bucket| {
            let object = object.clone();
            async move {
                let trace = Trace::default();
                let options = GetOptions { head: true, ..GetOptions::default() };
                let result = bucket.get(&object, options, &trace).await?;
                if let Some(clock) = trace.facts().clock {
                    *bucket.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
                }
                bucket.mark_of(&result)
            }
        });
        match read.await {
            // This answer has no body, so it does not show whether there is a bucket at all.
            Err(Failure { kind: Kind::Nameless, .. }) => {
                Ok(self.state(object, deadline).await?.map(|state| state.mark))
            }
            result => found(result),
        }
    }

    /// Reads the first line of an object.
    pub(super) async fn state(
        self: &Arc<Self>,
        object: &Path,
        deadline: Instant,
    ) -> Result<Option<State>, Failure> {
        let read = self.repeated(deadline, |bucket| {
            let object = object.clone();
            async move {
                let range = Some(GetRange::Bounded(0..MAX_LINE));
                let (mark, bytes) = bucket.read(&object, range).await?;
                let (header, _) = Header::parse(&bytes).ok_or_else(|| foreign(&object))?;
                Ok(State { mark, header })
            }
        });
        found(read.await)
    }

    /// Reads an object whole.
    pub(super) async fn document(
        self: &Arc<Self>,
        object: &Path,
        deadline: Instant,
    ) -> Result<Option<(State, String)>, Failure> {
        let read = self.repeated(deadline, |bucket| {
            let object = object.clone();
            async move {
                let (mark, mut bytes) = bucket.read(&object, None).await?;
                let (header, start) = Header::parse(&bytes).ok_or_else(|| foreign(&object))?;
                bytes.drain(..start);
                let document = String::from_utf8(bytes).map_err(|_| foreign(&object))?;
                Ok((State { mark, header }, document))
            }
        });
        found(read.await)
    }

    /// Writes an object if its state is still the expected one, in one request.
    pub(super) async fn put(
        &self,
        object: &Path,
        expected: Option<(&Mark, Form)>,
        bytes: String,
    ) -> Result<(Mark, bool), Failure> {
        let trace = Trace::default();
        let mode = expected.map_or(PutMode::Create, |(mark, form)| {
            let e_tag = Some(form.condition(&mark.tag));
            PutMode::Update(UpdateVersion { e_tag, version: mark.generation.clone() })
        });
        let attributes: Attributes = [
            // No cache may answer for the store.
            (Attribute::CacheControl, "no-store"),
            (Attribute::ContentType, "application/octet-stream"),
        ]
        .into_iter()
        .collect();
        let options =
            PutOptions { mode, attributes, extensions: trace.extensions(), ..PutOptions::default() };
        let result = self.client.put_opts(object, bytes.into(), options).await;
        let result = result.map_err(|error| Failure::of(&error, &trace.facts()));
        match result {
            Ok(result) => {
                let e_tag = result.e_tag.ok_or_else(no_tag)?;
                let versioned = result.version.as_deref().is_some_and(|version| version != "null");
                Ok((self.new_mark(&e_tag, result.version), versioned))
            }
            Err(failure) => {
                if failure.kind == Kind::Limited {
                    self.limits_writes.store(true, Ordering::Relaxed);
                }
                Err(failure)
            }
        }
    }

    pub(super) async fn remove(&self, object: &Path) -> Result<(), Failure> {
        // A deletion has no way for a trace; its error is enough.
        match self.client.delete(object).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Failure::of_removal(object.as_ref(), &error)),
        }
    }

    /// Returns the form of tags in conditions. Finds it out first, if it is unknown.
    pub(super) async fn form(self: &Arc<Self>, deadline: Instant) -> Result<Form, Failure> {
        self.form.get_or_try_init(|| async { Ok(self.learn(deadline).await?.form) }).await.copied()
    }

    /// Finds out how the engine handles conditions, with an object of its own.
    pub(super) async fn learn(self: &Arc<Self>, deadline: Instant) -> Result<Learned, Failure> {
        let object = self.address.object(&format!("probe-{}", random()?));
        let learned = self.learn_from(&object, deadline).await;
        // What stays is of no use and in no way.
        let removed = self.remove(&object).await;
        if let Err(failure) = removed {
            tracing::debug!(object = %object, reason = failure.text, "a trial object stays");
        }
        let learned = learned?;
        // Another call may have set the same.
        let _ = self.form.set(learned.form);
        Ok(learned)
    }

    async fn learn_from(self: &Arc<Self>, object: &Path, deadline: Instant) -> Result<Learned, Failure> {
        let first = Header::after(None, random()?);
        let (mark, is_versioned) = self.put(object, None, first.object("")).await?;
        for form in [Form::Quoted, Form::Bare] {
            if self.limits_writes() {
                sleep(WRITE_SPACING).await;
            }
            let second = Header::after(Some(&first), random()?);
            match self.put(object, Some((&mark, form)), second.object("")).await {
                Ok(_) => return Ok(Learned { form, is_versioned }),
                Err(Failure { kind: Kind::Refused, .. }) => {}
                Err(failure) => return Err(failure),
            }
            // A proxy may have repeated it.
            let state = self.state(object, deadline).await?;
            if state.is_some_and(|state| state.header == second) {
                return Ok(Learned { form, is_versioned });
            }
        }
        Err(Failure::new(
            Kind::Unfit,
            "it refuses a write on the condition of the right ETag, with quotes and without: a catalog needs a \
             store with conditional writes",
        ))
    }

    async fn get(&self, object: &Path, options: GetOptions, trace: &Trace) -> Result<GetResult, Failure> {
        let options = GetOptions { extensions: trace.extensions(), ..options };
        let result = self.client.get_opts(object, options).await;
        let facts = trace.facts();
        if facts.cached {
            let text = "a cache has answered, whose answers may be old. Use an endpoint without one";
            return Err(Failure::new(Kind::Denied, text));
        }
        result.map_err(|error| Failure::of(&error, &facts))
    }

    async fn read(&self, object: &Path, range: Option<GetRange>) -> Result<(Mark, Vec<u8>), Failure> {
        let trace = Trace::default();
        let result = self.get(object, GetOptions { range, ..GetOptions::default() }, &trace).await?;
        let mark = self.mark_of(&result)?;
        let expected = result.range.end - result.range.start;
        if expected > MAX_OBJECT {
            return Err(foreign(object));
        }
        let bytes = result.bytes().await.map_err(|error| {
            Failure::of(&error, &super::transport::Facts { sent: true, ..Default::default() })
        })?;
        if bytes.len() as u64 != expected {
            let text = format!("it has sent {} bytes of {object} instead of {expected}", bytes.len());
            return Err(Failure::new(Kind::Unclear, text));
        }
        Ok((mark, bytes.into()))
    }

    fn mark_of(&self, result: &GetResult) -> Result<Mark, Failure> {
        let e_tag = result.meta.e_tag.as_deref().ok_or_else(no_tag)?;
        Ok(self.new_mark(e_tag, result.meta.version.clone()))
    }

    fn new_mark(&self, e_tag: &str, version: Option<String>) -> Mark {
        // In the other clouds it names an old version to read, and is in no condition.
        Mark::new(e_tag, version.filter(|_| self.address.cloud == Cloud::Google))
    }

    /// Repeats a read that fails for a moment. One that is slow gets a second connection: the first
    /// may be dead.
    async fn repeated<T, F>(
        self: &Arc<Self>,
        deadline: Instant,
        read: impl Fn(Arc<Self>) -> F,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let slow = deadline.saturating_duration_since(Instant::now()) / 3;
        let mut attempts = JoinSet::new();
        let mut pause = FIRST_PAUSE;
        let mut last = Failure::new(Kind::Unclear, "it has not answered in time");
        loop {
            if attempts.len() < MAX_ATTEMPTS {
                attempts.spawn(read(Arc::clone(self)));
            }
            let until = deadline.min(Instant::now() + slow);
            match timeout_at(until, attempts.join_next()).await {
                Ok(Some(Ok(Ok(value)))) => return Ok(value),
                Ok(Some(Ok(Err(failure)))) if failure.is_transient() => last = failure,
                Ok(Some(Ok(Err(failure)))) => return Err(failure),
                Ok(Some(Err(_)) | None) => last = Failure::new(Kind::Unclear, "a request has panicked"),
                Err(_) if Instant::now() < deadline => continue,
                Err(_) => return Err(last),
            }
            let next = Instant::now() + jitter(pause);
            if next >= deadline {
                return Err(last);
            }
            sleep_until(next).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// An object that is not there is none.
fn found<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Failure { kind: Kind::Missing, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn foreign(object: &Path) -> Failure {
    let text = format!("{object} is no catalog of optoken, and stays as it is. Use another prefix");
    Failure::new(Kind::Foreign, text)
}

fn no_tag() -> Failure {
    Failure::new(Kind::Unclear, "it has answered without an ETag")
}

pub(super) fn random() -> Result<Nonce, Failure> {
    Nonce::random().map_err(|error| Failure::new(Kind::Denied, error.to_string()))
}

/// A random time between half of `pause` and one and a half.
pub(super) fn jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
