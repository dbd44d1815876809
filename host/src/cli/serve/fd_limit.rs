//! How many files this process may have open, to which connections count.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for everything but the connections of the main listener: those of the store and the logs, the listeners, the
/// connections of token recovery, and some for what opens a file now and then.
const RESERVED: u64 = 48;

/// How many connections there are to be in any case.
const FEWEST: usize = 8;

/// Lets this process have as many files open as it may allow itself, and tells how many connections the main listener can
/// have then. Systems start processes with less, for the sake of old programs that cannot deal with more.
pub(crate) fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("cannot raise the limit of open files: {error}");
            current
        }
    };
    // No number is no limit.
    let connections = limit.map_or(u64::MAX, |limit| limit.saturating_sub(RESERVED));
    usize::try_from(connections).unwrap_or(usize::MAX).max(FEWEST)
}
