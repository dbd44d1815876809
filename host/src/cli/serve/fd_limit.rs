//! The limit of open files, to which connections count.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files everything but the connections of the main listener may open: store, logs,
/// listeners, connections of token recovery, and libraries.
const RESERVED: u64 = 48;

/// The fewest connections, however low the limit is.
const MIN_CONNECTIONS: usize = 8;

/// The lowest limit with which the server starts. It has about 20 files open before the first
/// client connects.
const MIN_FILES: u64 = 32;

/// Raises the soft limit to the hard one, and returns how many connections the main listener can
/// have then. Fails if the limit is too low for a server. Systems start processes with a low soft
/// limit, because some old programs fail with a higher one.
pub(crate) fn raise_limit() -> anyhow::Result<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("cannot raise the limit of open files: {error}");
            current
        }
    };
    if let Some(limit) = limit.filter(|limit| *limit < MIN_FILES) {
        bail!(
            "this process may open {limit} files only, and a server needs {MIN_FILES}; raise the limit of open files (ulimit \
             -n, or LimitNOFILE= of systemd)"
        );
    }
    // `None` is no limit.
    let connections = limit.map_or(u64::MAX, |limit| limit.saturating_sub(RESERVED));
    Ok(usize::try_from(connections).unwrap_or(usize::MAX).max(MIN_CONNECTIONS))
}
