//! What a service manager learns of the server: that it is ready, reloads, stops, and is alive.
//!
//! The protocol is that of `sd_notify(3)` and `sd_watchdog_enabled(3)`. Without `NOTIFY_SOCKET`
//! nothing is sent.

use std::env;
use std::process;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{self, MissedTickBehavior};

/// Reports that the server serves.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Reports that the reload has ended, with its result for the user.
pub(crate) fn reloaded(result: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(result)]);
}

/// Reports that a reload begins. [`reloaded`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // systemd 253 and later compares the time with that of its signal (Type=notify-reload).
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot read the monotonic clock: {error}"),
    }
}

/// Reports that the server stops.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!("cannot notify the service manager (NOTIFY_SOCKET): {error}");
    }
}

/// Returns how long the service manager waits for a sign of life, if it waits for this process.
pub(crate) fn watchdog_timeout() -> Option<Duration> {
    let read = |name| env::var(name).ok();
    timeout_for(read("WATCHDOG_USEC").as_deref(), read("WATCHDOG_PID").as_deref(), process::id())
}

/// Without a process id, the timeout is for any process.
fn timeout_for(timeout: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let is_own = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let microseconds = timeout?.parse().ok().filter(|microseconds| is_own && *microseconds > 0)?;
    Some(Duration::from_micros(microseconds))
}

/// Sends a sign of life twice in each `timeout`. `is_alive` runs before each, on the runtime that
/// serves requests: if either of them hangs, the signs end.
pub(crate) async fn watch(timeout: Duration, is_alive: impl Fn() -> bool) {
    keep_alive(timeout, is_alive, || notify(&[NotifyState::Watchdog])).await;
}

async fn keep_alive(timeout: Duration, is_alive: impl Fn() -> bool, send: impl Fn()) {
    let mut ticks = time::interval(timeout / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if is_alive() {
            send();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn watchdog_is_for_this_process_and_with_a_time() {
        for (timeout, pid, expected) in [
            (Some("1000000"), Some("7"), Some(Duration::from_secs(1))),
            (Some("1000000"), None, Some(Duration::from_secs(1))),
            (Some("1000000"), Some("8"), None),
            (Some("1000000"), Some(""), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(timeout_for(timeout, pid, 7), expected, "{timeout:?} {pid:?}");
        }
    }

    #[test]
    fn signs_of_life_end_with_life() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (sent, alive) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (count, living) = (Rc::clone(&sent), Rc::clone(&alive));
            let task = tokio::task::spawn_local(keep_alive(
                Duration::from_millis(10),
                move || living.get(),
                move || count.set(count.get() + 1),
            ));
            while sent.get() < 3 {
                time::sleep(Duration::from_millis(1)).await;
            }
            alive.set(false);
            let before = sent.get();
            time::sleep(Duration::from_millis(50)).await;
            assert_eq!(sent.get(), before);
            alive.set(true);
            while sent.get() == before {
                time::sleep(Duration::from_millis(1)).await;
            }
            task.abort();
        });
    }
}
