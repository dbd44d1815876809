//! Prevents core dumps of this process: its memory holds tokens.

use rustix::io;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Forbids core dumps, and other processes of the same user to read the memory of this one.
pub(crate) fn forbid() -> io::Result<()> {
    // The limit alone does not stop a dump that the kernel pipes into a program. A process that is
    // not dumpable is not dumped at all, and debuggers of the same user cannot attach.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
