//! The component that is built in: WebAssembly and, with the feature `precompiled`, machine code.
//!
//! `host/build.rs` makes the machine code. wasmtime refuses it in an engine of another release or
//! with other settings, and on a processor that lacks a feature.

use wasmtime::Engine;
use wasmtime::component::Component;

/// The component that is built in.
pub const BUILT_IN_COMPONENT: &[u8] = include_bytes!("../../../component/prebuilt/optoken.wasm");

/// The machine code of [`BUILT_IN_COMPONENT`]; empty after a build on another architecture.
#[cfg(feature = "precompiled")]
const MACHINE_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/optoken.cwasm"));

/// The built-in component in this engine. Loads its machine code, which takes less than a
/// millisecond; where that does not fit, compiles, which takes a hundred.
pub(super) fn built_in_component(engine: &Engine) -> wasmtime::Result<Component> {
    #[cfg(feature = "precompiled")]
    return load_or_compile(engine, MACHINE_CODE);
    #[cfg(not(feature = "precompiled"))]
    Component::new(engine, BUILT_IN_COMPONENT)
}

#[cfg(feature = "precompiled")]
fn load_or_compile(engine: &Engine, machine_code: &[u8]) -> wasmtime::Result<Component> {
    load(engine, machine_code).or_else(|error| {
        tracing::info!("compiling the built-in component: its machine code does not fit here: {error:#}");
        Component::new(engine, BUILT_IN_COMPONENT)
    })
}

/// Loads machine code that wasmtime has made. Fails where it does not fit the engine or the
/// processor.
#[cfg(feature = "precompiled")]
fn load(engine: &Engine, machine_code: &[u8]) -> wasmtime::Result<Component> {
    wasmtime::ensure!(!machine_code.is_empty(), "there is none, as the build ran on another architecture");
    // SAFETY: outside tests, the bytes are part of this program, like the code beside them, and
    // `host/build.rs` has made them with `Engine::precompile_component`. Tests damage the part that
    // is read before any of it is used.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, machine_code)
    }
}

#[cfg(test)]
#[cfg(all(feature = "precompiled", feature = "server"))]
mod tests;
