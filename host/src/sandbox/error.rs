//! Why a component cannot be used, and why a call into it failed.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;
use thiserror::Error;

/// The contract that this host implements. The host accepts a component of another patch release
/// that imports nothing beyond this contract and exports all of it.
pub const CONTRACT: &str = "optoken:authority@0.2.0";

/// Why a component cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine or the configuration prevents wasmtime from running.
    #[error("cannot set up the sandbox: {}", WithAdvice(.0))]
    Engine(wasmtime::Error),
    /// The system refuses the memory that every compiled component needs.
    #[error("the component cannot be compiled here: {}", WithAdvice(.0))]
    Memory(wasmtime::Error),
    /// The bytes are no component, or one that this wasmtime cannot compile.
    #[error("this is not a WebAssembly component: {0:#}")]
    NotAComponent(wasmtime::Error),
    /// A component of another contract, or of none.
    #[error(
        "the component does not fit: this host speaks {CONTRACT}, the component was built for {contract}.\n\
         The first difference: {difference}.\n{wanted}\n{found}"
    )]
    World {
        /// The contract of the component, in the form of [`CONTRACT`].
        contract: String,
        /// The first item that differs, with the expected and the found form.
        difference: String,
        /// The interfaces that this host provides and requires.
        wanted: String,
        /// The interfaces of the component.
        found: String,
    },
}

impl SandboxError {
    /// Why these bytes could not be compiled.
    pub(super) fn of_compilation(error: wasmtime::Error) -> Self {
        match advice(&error) {
            Some(_) => Self::Memory(error),
            None => Self::NotAComponent(error),
        }
    }
}

/// A call into the component ended without a result.
#[derive(Debug, Error)]
#[error("the sandboxed component failed: {}", WithAdvice(.0))]
pub struct Trap(pub(super) wasmtime::Error);

/// An error of wasmtime with what to do next, where the system is the cause.
struct WithAdvice<'a>(&'a wasmtime::Error);

impl fmt::Display for WithAdvice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)?;
        match advice(self.0) {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What to do about this error, if the system has refused memory.
fn advice(error: &wasmtime::Error) -> Option<&'static str> {
    if error.is::<wasmtime::OutOfMemory>() {
        return Some(MORE_MEMORY);
    }
    match error.chain().find_map(errno)? {
        Errno::ACCESS | Errno::PERM => Some(EXECUTABLE_MEMORY),
        Errno::NOMEM | Errno::AGAIN => Some(MORE_MEMORY),
        _ => None,
    }
}

const EXECUTABLE_MEMORY: &str = "the system forbids to execute memory that was written, and the sandbox writes the \
                                 machine code of the component to memory: allow it (systemd: no \
                                 MemoryDenyWriteExecute=; SELinux: execmem)";

const MORE_MEMORY: &str = "the system grants too little memory: raise the limit of address space (ulimit -v, LimitAS= of \
                           systemd), of memory (MemoryMax= of systemd, or of the container) or of mappings (sysctl \
                           vm.max_map_count)";

/// The error number of the system in a cause.
fn errno(cause: &(dyn Error + 'static)) -> Option<Errno> {
    let of_io = || cause.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
    cause.downcast_ref::<Errno>().copied().or_else(of_io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_memory_is_not_a_broken_component() {
        let refused =
            |errno: Errno| SandboxError::of_compilation(wasmtime::Error::new(errno).context("unable"));
        for (error, text) in [
            (refused(Errno::ACCESS), "MemoryDenyWriteExecute="),
            (refused(Errno::PERM), "MemoryDenyWriteExecute="),
            (refused(Errno::NOMEM), "vm.max_map_count"),
            (SandboxError::of_compilation(io::Error::from(Errno::NOMEM).into()), "ulimit -v"),
        ] {
            let message = error.to_string();
            assert!(matches!(error, SandboxError::Memory(_)) && message.contains(text), "{message}");
        }
        for error in [wasmtime::Error::msg("magic"), io::Error::from(Errno::NOENT).into()] {
            assert!(matches!(SandboxError::of_compilation(error), SandboxError::NotAComponent(_)));
        }
        let trap = Trap(wasmtime::Error::new(Errno::NOMEM).context("mmap")).to_string();
        assert!(
            trap.starts_with("the sandboxed component failed: mmap: ") && trap.contains("ulimit -v"),
            "{trap}"
        );
    }
}
