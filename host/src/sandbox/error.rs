//! Why a component cannot be used, and why a call into it failed.

use thiserror::Error;

/// The contract that this host implements. The host accepts a component of another patch release
/// that imports nothing beyond this contract and exports all of it.
pub const CONTRACT: &str = "optoken:authority@0.2.0";

/// Why a component cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine or the configuration prevents wasmtime from running.
    #[error("cannot set up the sandbox: {0:#}")]
    Engine(wasmtime::Error),
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

/// A call into the component ended without a result.
#[derive(Debug, Error)]
#[error("the sandboxed component failed: {0:#}")]
pub struct Trap(pub(super) wasmtime::Error);
