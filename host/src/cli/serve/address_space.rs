//! The limit of address space, which the sandbox and the stacks of threads share.

use anyhow::bail;
use rustix::process::{Resource, getrlimit};

/// The lowest limit with which a start is attempted. Below it, an allocation of a library can end
/// the process without a sentence. More is refused by the sandbox or a thread, with advice.
const MIN_ADDRESS_SPACE: u64 = 256 << 20;

/// Fails if the limit is far too low for a server.
pub(crate) fn check_limit() -> anyhow::Result<()> {
    if let Some(limit) = limit().filter(|limit| *limit < MIN_ADDRESS_SPACE) {
        bail!(
            "this process may use {} MiB of address space only, and a server needs {} MiB or more; raise the limit (ulimit \
             -v, or LimitAS= of systemd)",
            limit >> 20,
            MIN_ADDRESS_SPACE >> 20
        );
    }
    Ok(())
}

/// What to do where the system refuses memory or a thread, if there is a limit.
pub(crate) fn advice() -> Option<String> {
    let limit = limit()?;
    Some(format!(
        "raise the limit of address space, which is {} MiB (ulimit -v, or LimitAS= of systemd)",
        limit >> 20
    ))
}

/// The limit in bytes, if there is one.
fn limit() -> Option<u64> {
    getrlimit(Resource::As).current
}
