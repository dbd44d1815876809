//! The thread that appends to the audit log.
//!
//! A command waits for its record, but only for a limited time. A hung disk must neither block
//! authentication nor keep the process from exiting. Knows nothing of what a record means.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem, thread};

use crate::audit::{AuditLog, AuditLogError, RetainedRecord};
use crate::observer::Observer;

/// How long a command waits for its record. A working disk takes much less, and a client must not
/// wait longer because of a log.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before the next attempt after a failed one.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How many records wait in memory for a log that fails. At some hundred bytes each they stay well
/// below a megabyte. Records beyond that are lost; they are counted once the log can be written.
const MAX_PENDING: usize = 1024;

/// Appends to an audit log on its own thread. Drop ends the thread and unlocks the log.
pub(crate) struct AuditWriter {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct State {
    /// Records that the log may lack, oldest first.
    pending: Vec<RetainedRecord>,
    /// How many times records were submitted.
    submitted: u64,
    /// How many submissions were attempted, with success or not.
    attempted: u64,
    reopening: Reopening,
    /// Whether the last attempt failed.
    failing: bool,
    /// Whether a command has timed out since.
    stalled: bool,
    phase: Phase,
}

/// A request to open the file again.
#[derive(Default)]
enum Reopening {
    #[default]
    Idle,
    Requested,
    Done(Result<(), AuditLogError>),
}

/// What the thread does next.
enum Work {
    /// Appends these records, which the submission with this number completes.
    Append(Vec<RetainedRecord>, u64),
    Reopen,
}

/// The life cycle of the thread.
#[derive(Default, PartialEq, Eq)]
enum Phase {
    /// It appends submitted records.
    #[default]
    Open,
    /// It makes one more attempt and ends.
    Closing,
    /// It has closed the log.
    Ended,
}

impl State {
    /// Adds the records that are newer than all pending ones.
    fn add(&mut self, kept: Vec<RetainedRecord>) {
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

impl AuditWriter {
    /// Starts the thread. `attempted` is the result of appending `kept` to `log` before.
    pub(crate) fn start(
        log: AuditLog,
        kept: Vec<RetainedRecord>,
        attempted: Result<u64, AuditLogError>,
        observer: Arc<dyn Observer>,
    ) -> io::Result<Self> {
        let failing = attempted.is_err();
        let pending = if failing { kept } else { Vec::new() };
        let state = State { pending, failing, ..State::default() };
        let recorder = Self::start_with(state, observer, log, AuditLog::append_missing, AuditLog::reopen)?;
        recorder.shared.report(attempted, false);
        Ok(recorder)
    }

    fn start_with<L: Send + 'static>(
        state: State,
        observer: Arc<dyn Observer>,
        log: L,
        append: impl Fn(&mut L, &[RetainedRecord]) -> Result<u64, AuditLogError> + Send + 'static,
        reopen: impl Fn(&mut L) -> Result<(), AuditLogError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), observer });
        let recorder = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("optoken-audit".into()).spawn(move || {
            let mut log = log;
            shared.run(&mut log, append, reopen);
            drop(log);
            shared.state().phase = Phase::Ended;
            shared.changed.notify_all();
        })?;
        Ok(recorder)
    }

    /// Submits the newest records of the catalog, some of which the log may have. Must be called in
    /// the order of the changes. Returns the argument for [`wait`](Self::wait).
    pub(crate) fn submit(&self, kept: Vec<RetainedRecord>) -> u64 {
        let mut state = self.shared.state();
        state.add(kept);
        state.submitted += 1;
        self.shared.changed.notify_all();
        state.submitted
    }

    /// Opens the file at the path of the log, if it is another than the open one. Waits for that at
    /// most [`APPEND_TIMEOUT`].
    pub(crate) fn reopen(&self) -> Result<(), AuditLogError> {
        let Shared { changed, .. } = &*self.shared;
        let mut state = self.shared.state();
        state.reopening = Reopening::Requested;
        changed.notify_all();
        let is_open = |state: &mut State| matches!(state.reopening, Reopening::Requested);
        let waited = changed.wait_timeout_while(state, APPEND_TIMEOUT, is_open);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match mem::take(&mut state.reopening) {
            Reopening::Done(reopened) => reopened,
            // The thread may still do it, and the next record does it in any case.
            Reopening::Requested | Reopening::Idle => Err(AuditLogError::Busy),
        }
    }

    /// Waits for the attempt to append that submission, at most [`APPEND_TIMEOUT`]. Does not wait
    /// while an earlier wait has timed out and the log has not recovered.
    pub(crate) fn wait(&self, submitted: u64) {
        let Shared { changed, observer, .. } = &*self.shared;
        let state = self.shared.state();
        let stalled = state.stalled;
        let patience = if stalled { Duration::ZERO } else { APPEND_TIMEOUT };
        let (mut state, waited) = changed
            .wait_timeout_while(state, patience, |state| state.attempted < submitted)
            .unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return;
        }
        let reported = state.behind();
        state.stalled = true;
        drop(state);
        observer.audit_append_failed();
        if !reported {
            tracing::error!(
                "the audit log has not accepted a record for {APPEND_TIMEOUT:?}; {APPEND_FAILED_NOTE}"
            );
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.phase = Phase::Closing;
        self.shared.changed.notify_all();
        // The next authority on this log must find it unlocked. The append may hang.
        drop(
            self.shared
                .changed
                .wait_timeout_while(state, APPEND_TIMEOUT, |state| state.phase != Phase::Ended),
        );
    }
}

/// The note that follows the error of a failed append, logged once.
const APPEND_FAILED_NOTE: &str = "changes are still made; their records wait in memory, the newest 64 also in the \
                            catalog, and are appended as soon as possible";

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every step of a change leaves a consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends submitted records until the writer is dropped.
    fn run<L>(
        &self,
        log: &mut L,
        append: impl Fn(&mut L, &[RetainedRecord]) -> Result<u64, AuditLogError>,
        reopen: impl Fn(&mut L) -> Result<(), AuditLogError>,
    ) {
        while let Some(work) = self.next() {
            let Work::Append(kept, submitted) = work else {
                let reopened = reopen(log);
                self.state().reopening = Reopening::Done(reopened);
                self.changed.notify_all();
                continue;
            };
            let recorded = append(log, &kept);
            let mut state = self.state();
            let was_behind = state.behind();
            state.stalled = false;
            state.failing = recorded.is_err();
            if recorded.is_err() {
                let newer = mem::replace(&mut state.pending, kept);
                state.add(newer);
            }
            drop(state);
            self.report(recorded, was_behind);
            // Last, so that a waiting command finds the report already logged.
            self.state().attempted = submitted;
            self.changed.notify_all();
        }
    }

    /// Waits for a submission, for a request, or for the next attempt.
    fn next(&self) -> Option<Work> {
        let idle = |state: &mut State| {
            state.submitted == state.attempted
                && state.phase == Phase::Open
                && !matches!(state.reopening, Reopening::Requested)
        };
        let state = self.state();
        let mut state = if state.failing {
            let waited = self.changed.wait_timeout_while(state, RETRY_INTERVAL, idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner)
        };
        if state.phase == Phase::Closing && state.submitted == state.attempted {
            return None;
        }
        if matches!(state.reopening, Reopening::Requested) {
            return Some(Work::Reopen);
        }
        Some(Work::Append(mem::take(&mut state.pending), state.submitted))
    }

    fn report(&self, recorded: Result<u64, AuditLogError>, was_behind: bool) {
        match recorded {
            Ok(lost) => {
                if lost > 0 {
                    self.observer.audit_records_lost(lost);
                }
                if was_behind {
                    tracing::info!("the audit log is up to date again");
                }
            }
            Err(error) => {
                self.observer.audit_append_failed();
                // Once, not at every attempt.
                if !was_behind {
                    tracing::error!("{error}; {APPEND_FAILED_NOTE}");
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
        fn audit_append_failed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn record(sequence: u64) -> RetainedRecord {
        let previous = if sequence == 1 { "null" } else { "\"\"" };
        let line = format!(
            r#"{{"sequence":{sequence},"at":0,"action":"","actor":"recovery","subject":null,"origin":"","previous":{previous}}}"#
        );
        RetainedRecord::read(vec![line]).unwrap().remove(0)
    }

    #[test]
    fn hung_log_blocks_once_and_gets_all_records() {
        let (go, gone) = mpsc::channel::<()>();
        let (report, appended_sequences) = mpsc::channel();
        let failures = Arc::new(Failures::default());
        let append = move |log: &mut (mpsc::Receiver<()>, mpsc::Sender<u64>), kept: &[RetainedRecord]| {
            let _ = log.0.recv();
            for kept in kept {
                log.1.send(kept.record.sequence).unwrap();
            }
            Ok(0)
        };
        let observer: Arc<Failures> = Arc::clone(&failures);
        let recorder =
            AuditWriter::start_with(State::default(), observer, (gone, report), append, |_| Ok(())).unwrap();
        let begun = Instant::now();
        for sequence in 1..=200 {
            // The newest two of the catalog.
            let kept = [sequence - 1, sequence].into_iter().filter(|sequence| *sequence > 0);
            recorder.wait(recorder.submit(kept.map(record).collect()));
        }
        let waited = begun.elapsed();
        assert!(APPEND_TIMEOUT <= waited && waited < 2 * APPEND_TIMEOUT, "{waited:?}");
        assert_eq!(failures.0.load(Ordering::Relaxed), 200);
        drop(go);
        // The first is submitted again with the second, before it was appended.
        let mut appended: Vec<_> = appended_sequences.iter().take(201).collect();
        appended.dedup();
        assert_eq!(appended, (1..=200).collect::<Vec<_>>());
        // After recovery, commands wait again.
        recorder.wait(recorder.submit(vec![record(201)]));
        assert_eq!(appended_sequences.try_iter().last(), Some(201));
        assert_eq!(failures.0.load(Ordering::Relaxed), 200);
    }

    #[test]
    fn pending_records_are_bounded_oldest_dropped() {
        let mut state = State::default();
        for sequence in 1..=MAX_PENDING as u64 + 10 {
            state.add(vec![record(sequence)]);
        }
        state.add(vec![record(5)]);
        let ends = [&state.pending[0], &state.pending[MAX_PENDING - 1]].map(|kept| kept.record.sequence);
        assert_eq!((state.pending.len(), ends), (MAX_PENDING, [11, MAX_PENDING as u64 + 10]));
    }

    #[test]
    fn reopening_waits_for_its_result_and_no_longer() {
        let reopen = |log: &mut mpsc::Receiver<bool>| match log.recv() {
            Ok(true) => Ok(()),
            _ => Err(AuditLogError::Catalog("broken".to_owned())),
        };
        let (answer, answers) = mpsc::channel();
        let observer = Arc::new(Failures::default());
        let append = |_: &mut _, _: &[RetainedRecord]| Ok(0);
        let recorder = AuditWriter::start_with(State::default(), observer, answers, append, reopen).unwrap();
        answer.send(true).unwrap();
        recorder.reopen().unwrap();
        answer.send(false).unwrap();
        assert!(recorder.reopen().unwrap_err().to_string().ends_with("broken"));
        // A hung disk.
        let begun = Instant::now();
        assert!(matches!(recorder.reopen(), Err(AuditLogError::Busy)));
        assert!(begun.elapsed() < 2 * APPEND_TIMEOUT);
        drop(answer);
        // Records are appended afterwards.
        recorder.wait(recorder.submit(vec![record(1)]));
        assert!(!recorder.shared.state().stalled);
    }

    #[test]
    fn drop_times_out() {
        let (_never, comes) = mpsc::channel::<()>();
        let append = |log: &mut mpsc::Receiver<()>, _: &[RetainedRecord]| {
            let _ = log.recv();
            Ok(0)
        };
        let observer = Arc::new(Failures::default());
        let recorder =
            AuditWriter::start_with(State::default(), observer, comes, append, |_| Ok(())).unwrap();
        recorder.submit(vec![record(1)]);
        let begun = Instant::now();
        drop(recorder);
        assert!(begun.elapsed() < 2 * APPEND_TIMEOUT);
    }
}
