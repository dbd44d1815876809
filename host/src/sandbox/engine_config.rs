//! The settings of the wasmtime engine that decide on machine code.
//!
//! `host/build.rs` includes this file as well, so that the machine code it makes fits the engine of
//! the run.

use wasmtime::Config;

/// The settings of an engine without those of its memory.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Every call is synchronous, and cheaper without support for concurrent ones.
        .concurrency_support(false)
        .epoch_interruption(true);
    config
}
