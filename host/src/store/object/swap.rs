//! The compare-and-swap: one write, and reads until it is certain what became of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::bucket::{Bucket, State, jitter, random};
use super::failure::{Failure, Kind};
use super::stored::{Evidence, Form, Header, evidence};
use crate::store::remote::Nonce;
use crate::store::{StoreError, SwapOutcome, Version};

/// The part of the time of a swap that is kept for reads after the write.
const READ_BACK: Duration = Duration::from_millis(1200);

/// How long reads look for the outcome of a write that nothing else has replaced.
const SETTLING: Duration = Duration::from_millis(800);

/// The first pause between these reads. Each further one is twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// The pause of a loser, so that the tries of one command outlast those of others.
const LOST: Duration = Duration::from_millis(30);

/// The same where the engine writes an object once a second.
const LOST_AND_LIMITED: Duration = Duration::from_millis(700);

/// The time between two writes of this process to such an engine.
const WRITE_SPACING: Duration = Duration::from_millis(1050);

/// How many states an object remembers to have read.
const REMEMBERED: usize = 8;

/// One object, and what this process knows about it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) path: Path,
    /// The newest is last.
    states: Mutex<VecDeque<State>>,
    written: Mutex<Option<Instant>>,
}

impl Object {
    pub(super) fn new(path: Path) -> Self {
        Self { path, states: Mutex::default(), written: Mutex::default() }
    }

    /// Keeps the first line of a state, which the next state names.
    pub(super) fn remember(&self, state: &State) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|known| known.mark != state.mark);
        states.push_back(state.clone());
        if states.len() > REMEMBERED {
            states.pop_front();
        }
    }

    fn remembered(&self, version: &Version) -> Option<State> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().find(|state| state.mark.version() == *version).cloned()
    }
}

/// One swap.
pub(super) struct Swap {
    pub(super) bucket: Arc<Bucket>,
    pub(super) object: Arc<Object>,
    pub(super) deadline: Instant,
}

/// The write of a swap.
struct Write {
    nonce: Nonce,
    expected: Option<State>,
}

impl Swap {
    pub(super) async fn run(
        self,
        expected: Option<Version>,
        document: String,
    ) -> Result<SwapOutcome, StoreError> {
        let result = self.swap(expected.as_ref(), &document).await;
        if result == Ok(SwapOutcome::Stale) {
            let pause = if self.bucket.limits_writes() { LOST_AND_LIMITED } else { LOST };
            sleep_until(self.deadline.min(Instant::now() + jitter(pause))).await;
        }
        result
    }

    async fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let nothing = |failure: Failure| self.unavailable(&failure);
        let expected = match expected {
            None => None,
            Some(version) => match self.expected(version).await.map_err(nothing)? {
                None => return Ok(SwapOutcome::Stale),
                state => state,
            },
        };
        let form = if expected.is_some() {
            let learned = timeout_at(self.deadline, self.bucket.form(self.deadline)).await;
            learned.unwrap_or_else(|_| Err(late())).map_err(nothing)?
        } else {
            // A first write has no tag.
            Form::Quoted
        };
        let header = Header::after(expected.as_ref().map(|state| &state.header), random().map_err(nothing)?);
        self.wait_for_turn().await.map_err(nothing)?;

        let condition = expected.as_ref().map(|state| (&state.mark, form));
        let put = self.bucket.put(&self.object.path, condition, header.object(document));
        let end = self.deadline.checked_sub(READ_BACK).unwrap_or(self.deadline);
        let put = timeout_at(end, put)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Kind::Unclear, "it has not answered the write in time")));
        let write = Write { nonce: header.nonce().clone(), expected };
        match put {
            Ok((mark, _)) => Ok(self.swapped(&State { mark, header })),
            Err(failure) => self.settle(&write, &failure).await,
        }
    }

    /// Returns the expected state; `None` if another one is there.
    async fn expected(&self, version: &Version) -> Result<Option<State>, Failure> {
        if let Some(state) = self.object.remembered(version) {
            return Ok(Some(state));
        }
        let state = self.bucket.state(&self.object.path, self.deadline).await?;
        let state = state.filter(|state| state.mark.version() == *version);
        if let Some(state) = &state {
            self.object.remember(state);
        }
        Ok(state)
    }

    /// Spaces the writes of this process to an engine that refuses more than one a second.
    async fn wait_for_turn(&self) -> Result<(), Failure> {
        if !self.bucket.limits_writes() {
            return Ok(());
        }
        let written = *self.object.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = written.map(|written| written + WRITE_SPACING) else { return Ok(()) };
        if next + READ_BACK >= self.deadline {
            return Err(late());
        }
        sleep_until(next).await;
        Ok(())
    }

    fn swapped(&self, state: &State) -> SwapOutcome {
        *self.object.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let version = state.mark.version();
        self.object.remember(state);
        SwapOutcome::Swapped(version)
    }

    /// Finds out what became of a write that was not answered with success.
    async fn settle(&self, write: &Write, failure: &Failure) -> Result<SwapOutcome, StoreError> {
        match failure.kind {
            Kind::Denied | Kind::Unfit | Kind::Unreached => return Err(self.unavailable(failure)),
            Kind::Limited => return self.after_limit(write, failure).await,
            Kind::Refused if self.bucket.trusts_refusals => return Ok(SwapOutcome::Stale),
            // The object of the condition is gone, or the answer is not the one of the store.
            Kind::Missing | Kind::Nameless | Kind::Refused | Kind::Foreign | Kind::Unclear => {}
        }
        let is_refused = matches!(failure.kind, Kind::Missing | Kind::Refused);
        let end = self.deadline.min(Instant::now() + SETTLING);
        let mut pause = FIRST_LOOK;
        loop {
            let state = match self.bucket.state(&self.object.path, self.deadline).await {
                Ok(state) => state,
                // What is there is not of this write, and was there before it.
                Err(found) if is_refused && found.kind == Kind::Foreign => {
                    return Err(self.unavailable(&found));
                }
                Err(found) => {
                    let text = format!("{}; then {}", failure.text, found.text);
                    return Err(self.unknown(&text));
                }
            };
            match evidence(&write.nonce, write.expected_nonce(), state.as_ref().map(|state| &state.header)) {
                Evidence::Written => {
                    return match state {
                        Some(state) => Ok(self.swapped(&state)),
                        None => Err(self.unknown(&failure.text)),
                    };
                }
                Evidence::Lost => return Ok(SwapOutcome::Stale),
                // Also after a refusal: a proxy may have repeated the write, and the first one not
                // have ended, nor that of the winner.
                Evidence::Unchanged if Instant::now() + pause < end => {
                    sleep_until(Instant::now() + jitter(pause)).await;
                    pause *= 2;
                }
                Evidence::Unchanged if is_refused => return Ok(SwapOutcome::Stale),
                Evidence::Unchanged | Evidence::Open => return Err(self.unknown(&failure.text)),
                Evidence::Replaced => {
                    let text =
                        format!("{}; the write has happened, and another one has replaced it", failure.text);
                    return Err(self.unknown(&text));
                }
            }
        }
    }

    /// Waits until the engine writes again. By its answer, nothing was written.
    async fn after_limit(&self, write: &Write, failure: &Failure) -> Result<SwapOutcome, StoreError> {
        let end = self.deadline.checked_sub(READ_BACK).unwrap_or(self.deadline);
        sleep_until(end.min(Instant::now() + jitter(LOST_AND_LIMITED))).await;
        let state = self.bucket.state(&self.object.path, self.deadline).await;
        // Not every answer of this kind is of the engine: without a look, nothing is certain.
        let state = state.map_err(|found| self.unknown(&format!("{}; then {}", failure.text, found.text)))?;
        match evidence(&write.nonce, write.expected_nonce(), state.as_ref().map(|state| &state.header)) {
            Evidence::Lost => Ok(SwapOutcome::Stale),
            Evidence::Unchanged => Err(self.unavailable(failure)),
            // The answer was wrong.
            Evidence::Written => Ok(state.map_or(SwapOutcome::Stale, |state| self.swapped(&state))),
            Evidence::Replaced | Evidence::Open => Err(self.unknown(&failure.text)),
        }
    }

    fn unavailable(&self, failure: &Failure) -> StoreError {
        StoreError::Unavailable(format!("{}: {}", self.bucket.address.text, failure.without_change()))
    }

    fn unknown(&self, text: &str) -> StoreError {
        let address = &self.bucket.address.text;
        StoreError::UnknownOutcome(format!("{address}: {text}. The write may have happened, or may still"))
    }
}

impl Write {
    fn expected_nonce(&self) -> Option<&Nonce> {
        self.expected.as_ref().map(|state| state.header.nonce())
    }
}

fn late() -> Failure {
    Failure::new(Kind::Unreached, "it has not answered in time to begin the write. Repeat the command")
}
