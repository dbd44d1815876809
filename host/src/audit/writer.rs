//! The thread that appends to the audit log. A command waits for its record, but not for long: a disk that hangs must not
//! take authentication with it, nor keep the process from ending.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem, thread};

use crate::audit::{AuditLog, AuditLogError, Kept};
use crate::observer::Observer;

/// How long a command waits for its record. A disk that writes at all does it in much less; whoever waits for a token should
/// not have to for longer than a moment, because of a log.
const APPEND_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait before trying again what has failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How many records wait in memory for a log that cannot be appended to. At some hundred bytes each they are well below a
/// megabyte; what is more is lost, and counted as that once the log can be written again.
const MAX_PENDING: usize = 1024;

/// Appends to an audit log, on a thread of its own. Ends, and gives the log free, when dropped.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct State {
    /// What the log may lack, oldest first.
    pending: Vec<Kept>,
    /// How often records were handed over.
    handed: u64,
    /// How many of these times have been dealt with, whether that succeeded or not.
    tried: u64,
    /// Whether the last try failed.
    failing: bool,
    /// Whether somebody has waited in vain since.
    stalled: bool,
    phase: Phase,
}

/// How far the thread is.
#[derive(Default, PartialEq, Eq)]
enum Phase {
    /// It appends what it is handed.
    #[default]
    Open,
    /// It tries once more, and ends.
    Closing,
    /// It has closed the log.
    Ended,
}

impl State {
    /// Adds those that are newer than all that wait.
    fn add(&mut self, kept: Vec<Kept>) {
        let last = self.pending.last().map_or(0, |kept| kept.record.sequence);
        self.pending.extend(kept.into_iter().filter(|kept| kept.record.sequence > last));
        let too_many = self.pending.len().saturating_sub(MAX_PENDING);
        self.pending.drain(..too_many);
    }

    /// Whether the log is known to lack records.
    fn behind(&self) -> bool {
        self.failing || self.stalled
    }
}

impl Recorder {
    /// Starts with a log to which it was tried to append these records, with this result.
    pub(crate) fn start(
        log: AuditLog,
        kept: Vec<Kept>,
        tried: Result<u64, AuditLogError>,
        observer: Arc<dyn Observer>,
    ) -> io::Result<Self> {
        let failing = tried.is_err();
        let pending = if failing { kept } else { Vec::new() };
        let state = State { pending, failing, ..State::default() };
        let recorder = Self::start_with(state, observer, log, AuditLog::catch_up)?;
        recorder.shared.tell(tried, false);
        Ok(recorder)
    }

    fn start_with<L: Send + 'static>(
        state: State,
        observer: Arc<dyn Observer>,
        log: L,
        append: impl Fn(&mut L, &[Kept]) -> Result<u64, AuditLogError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), observer });
        let recorder = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("optoken-audit".into()).spawn(move || {
            let mut log = log;
            shared.run(|kept| append(&mut log, kept));
            drop(log);
            shared.state().phase = Phase::Ended;
            shared.changed.notify_all();
        })?;
        Ok(recorder)
    }

    /// Hands over the newest records of the catalog, of which the log may have some. Must be called in the order of the
    /// changes; what it gives is for [`wait`](Self::wait).
    pub(crate) fn hand_over(&self, kept: Vec<Kept>) -> u64 {
        let mut state = self.shared.state();
        state.add(kept);
        state.handed += 1;
        self.shared.changed.notify_all();
        state.handed
    }

    /// Waits until it was tried to append what was handed over then, but no longer than [`APPEND_PATIENCE`], and not at all
    /// while somebody else has just waited in vain.
    pub(crate) fn wait(&self, handed: u64) {
        let Shared { changed, observer, .. } = &*self.shared;
        let state = self.shared.state();
        let stalled = state.stalled;
        let patience = if stalled { Duration::ZERO } else { APPEND_PATIENCE };
        let (mut state, waited) = changed
            .wait_timeout_while(state, patience, |state| state.tried < handed)
            .unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return;
        }
        let told = state.behind();
        state.stalled = true;
        drop(state);
        observer.not_recorded();
        if !told {
            tracing::error!("the audit log has not taken a record for {APPEND_PATIENCE:?}; {NEVERTHELESS}");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.phase = Phase::Closing;
        self.shared.changed.notify_all();
        // So that who makes another authority with this log finds it free. It may hang.
        drop(
            self.shared
                .changed
                .wait_timeout_while(state, APPEND_PATIENCE, |state| state.phase != Phase::Ended),
        );
    }
}

/// What is said once of a log that cannot be appended to.
const NEVERTHELESS: &str = "changes are made nevertheless, and their records wait in memory, the newest 64 also in the \
                            catalog; they are appended as soon as that is possible";

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No step of a change leaves a state that the next could not go on from.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends whatever is handed over until the recorder is dropped.
    fn run(&self, mut append: impl FnMut(&[Kept]) -> Result<u64, AuditLogError>) {
        while let Some((kept, handed)) = self.next() {
            let recorded = append(&kept);
            let mut state = self.state();
            let was_behind = state.behind();
            state.stalled = false;
            state.failing = recorded.is_err();
            if recorded.is_err() {
                let newer = mem::replace(&mut state.pending, kept);
                state.add(newer);
            }
            drop(state);
            self.tell(recorded, was_behind);
            // Afterwards, so that whoever waits finds said what was to be said.
            self.state().tried = handed;
            self.changed.notify_all();
        }
    }

    /// Waits for something to append, or for the time to try it again.
    fn next(&self) -> Option<(Vec<Kept>, u64)> {
        let idle = |state: &mut State| state.handed == state.tried && state.phase == Phase::Open;
        let state = self.state();
        let mut state = if state.failing {
            let waited = self.changed.wait_timeout_while(state, RETRY_INTERVAL, idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner)
        };
        if state.phase == Phase::Closing && state.handed == state.tried {
            return None;
        }
        Some((mem::take(&mut state.pending), state.handed))
    }

    fn tell(&self, recorded: Result<u64, AuditLogError>, was_behind: bool) {
        match recorded {
            Ok(lost) => {
                if lost > 0 {
                    self.observer.records_lost(lost);
                }
                if was_behind {
                    tracing::info!("the audit log is up to date again");
                }
            }
            Err(error) => {
                self.observer.not_recorded();
                // Once, not at every try.
                if !was_behind {
                    tracing::error!("{error}; {NEVERTHELESS}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Failures(AtomicU64);

    impl Observer for Failures {
        fn not_recorded(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn record(sequence: u64) -> Kept {
        let previous = if sequence == 1 { "null" } else { "\"\"" };
        let line = format!(
            r#"{{"sequence":{sequence},"at":0,"action":"","actor":"recovery","subject":null,"origin":"","previous":{previous}}}"#
        );
        Kept::read(vec![line]).unwrap().remove(0)
    }

    #[test]
    fn a_log_that_hangs_is_waited_for_once_and_then_gets_all_of_it() {
        let (go, gone) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let failures = Arc::new(Failures::default());
        let append = move |log: &mut (mpsc::Receiver<()>, mpsc::Sender<u64>), kept: &[Kept]| {
            let _ = log.0.recv();
            for kept in kept {
                log.1.send(kept.record.sequence).unwrap();
            }
            Ok(0)
        };
        let observer: Arc<Failures> = Arc::clone(&failures);
        let recorder = Recorder::start_with(State::default(), observer, (gone, tell), append).unwrap();
        let begun = Instant::now();
        for sequence in 1..=200 {
            // The newest two of the catalog.
            let kept = [sequence - 1, sequence].into_iter().filter(|sequence| *sequence > 0);
            recorder.wait(recorder.hand_over(kept.map(record).collect()));
        }
        let waited = begun.elapsed();
        assert!(APPEND_PATIENCE <= waited && waited < 2 * APPEND_PATIENCE, "{waited:?}");
        assert_eq!(failures.0.load(Ordering::Relaxed), 200);
        drop(go);
        // The first again, as it had not been told when the second was handed over.
        let mut appended: Vec<_> = told.iter().take(201).collect();
        appended.dedup();
        assert_eq!(appended, (1..=200).collect::<Vec<_>>());
        // Once it writes again it is waited for again.
        recorder.wait(recorder.hand_over(vec![record(201)]));
        assert_eq!(told.try_iter().last(), Some(201));
        assert_eq!(failures.0.load(Ordering::Relaxed), 200);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let mut state = State::default();
        for sequence in 1..=MAX_PENDING as u64 + 10 {
            state.add(vec![record(sequence)]);
        }
        state.add(vec![record(5)]);
        let ends = [&state.pending[0], &state.pending[MAX_PENDING - 1]].map(|kept| kept.record.sequence);
        assert_eq!((state.pending.len(), ends), (MAX_PENDING, [11, MAX_PENDING as u64 + 10]));
    }

    #[test]
    fn who_drops_it_does_not_wait_for_ever() {
        let (_never, comes) = mpsc::channel::<()>();
        let append = |log: &mut mpsc::Receiver<()>, _: &[Kept]| {
            let _ = log.recv();
            Ok(0)
        };
        let observer = Arc::new(Failures::default());
        let recorder = Recorder::start_with(State::default(), observer, comes, append).unwrap();
        recorder.hand_over(vec![record(1)]);
        let begun = Instant::now();
        drop(recorder);
        assert!(begun.elapsed() < 2 * APPEND_PATIENCE);
    }
}
