//! The threads of the server. All are started before it serves, or the start fails with a sentence.
//!
//! The libraries that start threads panic where the system refuses one. A runtime that has lost a
//! thread in this way can neither serve nor end.

use std::num::NonZero;
use std::panic;
use std::process;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use crate::cli::serve::address_space;
use crate::cli::stderr::print_stderr;

/// The threads that run commands, which block. They are never stopped, because the system may
/// refuse to start others.
const BLOCKING_THREADS: usize = 4;

/// The threads of the sandbox, of the poller and of the audit log.
const OWN_THREADS: usize = 3;

/// How many blocking threads there may be.
const MAX_BLOCKING_THREADS: usize = 16;

/// How long an idle blocking thread waits for the next command: in effect without a limit.
const KEEP_ALIVE: Duration = Duration::from_secs(u32::MAX as u64);

/// How long the blocking threads may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do if the system refuses a thread.
const ADVICE: &str = "raise the limit of processes and threads of this user (ulimit -u), of the service (TasksMax= and \
                      LimitNPROC= of systemd) or of the container";

/// Returns what to do if the system refuses a thread. A thread also needs address space for its
/// stack.
fn advice() -> String {
    address_space::advice().map_or_else(|| ADVICE.to_owned(), |other| format!("{other}; or {ADVICE}"))
}

/// Fails if the system does not allow as many threads as a server needs. Other processes of the
/// user can start threads afterwards, so a later start can still fail.
pub(crate) fn check_limit() -> anyhow::Result<()> {
    // The compiler of the component and the runtime start one for each processor.
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let needed = 2 * processors + OWN_THREADS + BLOCKING_THREADS;
    let (release, released) = channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let mut started = Vec::new();
    let mut failure = None;
    for _ in 0..needed {
        let released = Arc::clone(&released);
        // Waits until the sender is dropped.
        let wait = move || released.lock().unwrap_or_else(PoisonError::into_inner).recv().is_ok();
        match thread::Builder::new().stack_size(64 << 10).spawn(wait) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let count = started.len();
    drop(release);
    for thread in started {
        let _ = thread.join();
    }
    match failure {
        None => Ok(()),
        Some(error) => Err(error).with_context(|| {
            format!("a server needs {needed} threads, and the system allows {count} only; {}", advice())
        }),
    }
}

/// Starts the runtime with all its threads.
pub(crate) fn start_runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .build()
        .context("cannot start the asynchronous runtime")?;
    let (report, reports) = channel();
    let waiting: Vec<_> = (0..BLOCKING_THREADS)
        .map(|_| {
            let (release, released) = channel::<()>();
            let report = report.clone();
            // As long as each waits, the next one needs another thread.
            runtime.spawn_blocking(move || start_blocking_thread(&report, &released));
            release
        })
        .collect();
    let started = (0..BLOCKING_THREADS).take_while(|_| reports.recv_timeout(START_TIMEOUT).is_ok()).count();
    drop(waiting);
    if started == 0 {
        anyhow::bail!("cannot start a thread for commands; {}", advice());
    }
    Ok(runtime)
}

fn start_blocking_thread(report: &Sender<()>, released: &Receiver<()>) {
    let _ = report.send(());
    let _ = released.recv();
}

/// Ends the process if a thread panics during `start`: a library could not start a thread.
pub(crate) fn exit_on_panic<T>(start: impl FnOnce() -> T) -> T {
    let hook = Arc::new(panic::take_hook());
    let logged = Arc::clone(&hook);
    panic::set_hook(Box::new(move |panic| {
        logged(panic);
        print_stderr(&format!(
            "Serve command failed: the server cannot start; if a thread is refused, {}",
            advice()
        ));
        process::exit(1);
    }));
    let started = start();
    panic::set_hook(Box::new(move |panic| hook(panic)));
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocking_threads_are_started_and_stay() {
        let runtime = start_runtime().unwrap();
        assert!(runtime.metrics().num_workers() > 0);
        let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let before = threads();
        for _ in 0..10 {
            runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        }
        assert!(before == 0 || before > BLOCKING_THREADS);
    }
}
