//! The deadline of a command: a disk that hangs delays the change, not the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::token::CommandError;

/// How long a client waits for a command. A working disk takes some milliseconds.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The command waits for its thread.
const WAITING: u8 = 0;
/// The command has begun. It is completed and published, whether a client waits or not.
const BEGUN: u8 = 1;
/// The command must not begin any more.
const ABANDONED: u8 = 2;

/// Runs a command on a thread that may block, and waits so long for its result. A command that has
/// not begun by then does not begin later.
pub(crate) async fn run_within<T: Send + 'static>(
    commands: &AsyncAuthority,
    timeout: Duration,
    run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let phase = Arc::new(AtomicU8::new(WAITING));
    let change = |phase: &AtomicU8, to| {
        phase.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    };
    let why = format!("the token store has not answered for {timeout:?}");
    let of_command = Arc::clone(&phase);
    let abandoned = why.clone();
    let command = commands.run(move |authority| {
        if change(&of_command, BEGUN) { run(authority) } else { Err(CommandError::Unavailable(abandoned)) }
    });
    time::timeout(timeout, command).await.unwrap_or_else(|_| {
        Err(if change(&phase, ABANDONED) {
            CommandError::Unavailable(why)
        } else {
            CommandError::UnknownOutcome(why)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::async_authority::MAX_CONCURRENT_COMMANDS;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn hung_command_is_unknown_and_one_behind_it_never_begins() {
        let authority = Authority::builder(MemoryStore::default()).build_async().await.unwrap();
        let hung = Arc::new((Mutex::new(true), Condvar::new()));
        let timeout = Duration::from_millis(50);
        for _ in 0..MAX_CONCURRENT_COMMANDS {
            let hung = Arc::clone(&hung);
            let result = run_within(&authority, timeout, move |_| {
                drop(hung.1.wait_while(hung.0.lock().unwrap(), |hung| *hung).unwrap());
                Ok(())
            });
            assert!(matches!(result.await, Err(CommandError::UnknownOutcome(_))));
        }
        let behind = run_within(&authority, timeout, |authority| authority.create_operator("behind"));
        assert!(matches!(behind.await, Err(CommandError::Unavailable(_))));
        *hung.0.lock().unwrap() = false;
        hung.1.notify_all();
        // All permits are free again, and no command is left.
        let timeout = Duration::from_mins(1);
        run_within(&authority, timeout, |authority| authority.create_operator("test")).await.unwrap();
    }
}
