//! No core dump of this process: its memory holds tokens.

use rustix::io;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Lets a crash leave no copy of this process's memory behind, and lets no other process of the same user read it.
pub(crate) fn forbid() -> io::Result<()> {
    // The limit alone does not stop a dump that the system pipes into a program. What is not dumpable is not dumped at all, nor
    // can a debugger of the same user look into it.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
