//! The thread that ends long calls: it increments the epoch of an engine at an interval.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::Engine;

use crate::sandbox::limits::AUTHENTICATE_BUDGET;

/// The interval while calls are long. A call exceeds its budget, which counts from its first tick,
/// by one tick at most.
const TICK: Duration = Duration::from_millis(10);

/// The interval while they are not, so that an idle process sleeps. It delays the first tick of a
/// call, from which its budget counts.
const IDLE_TICK: Duration = AUTHENTICATE_BUDGET;

/// The ticks without a long call after which the interval is [`IDLE_TICK`].
const TICKS_UNTIL_IDLE: u32 = 100;

/// The ticks that met a call, in all engines of the process. A call that ends before a tick does
/// not touch it.
static MET_CALLS: Mutex<u64> = Mutex::new(0);
static MET_CALL: Condvar = Condvar::new();

/// Records that a tick has met a call.
pub(super) fn met_call() {
    let mut met = met_calls();
    *met = met.wrapping_add(1);
    MET_CALL.notify_all();
}

fn met_calls() -> MutexGuard<'static, u64> {
    MET_CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Increments the epoch of the engine until it is dropped.
pub(super) fn start_ticker(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let mut idle_ticks = TICKS_UNTIL_IDLE;
    let mut seen = *met_calls();
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            let met = if idle_ticks < TICKS_UNTIL_IDLE {
                thread::sleep(TICK);
                *met_calls()
            } else {
                let wait = MET_CALL.wait_timeout_while(met_calls(), IDLE_TICK, |met| *met == seen);
                *wait.unwrap_or_else(PoisonError::into_inner).0
            };
            idle_ticks = if met == seen { idle_ticks.saturating_add(1) } else { 0 };
            seen = met;
        }
    };
    thread::Builder::new().name("optoken-epoch".into()).spawn(tick).map(drop)
}
