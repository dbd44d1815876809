//! The bindings that wasmtime generates from the contract: the world as [`Authority`], its types,
//! and the traits of its imports. [`linker`](super::linker) implements the trait of the catalog
//! store and both WASI interfaces.
//!
//! Calls into the component are synchronous; [`linker`](super::linker) explains the consequences.
//! The types of [`token`](crate::token) implement `From` for the types here.

#![allow(missing_docs, missing_debug_implementations, clippy::all, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "authority",
    imports: { default: trappable },
    // Parameters are not copied, so that no copy of a token has to be wiped.
    ownership: Borrowing { duplicate_if_necessary: false },
});
