//! The bindings of [`bindings`](super::bindings) with asynchronous calls into the component, for
//! instances that [`async_linker`](super::async_linker) gives an asynchronous store.

#![allow(missing_docs, missing_debug_implementations, clippy::all, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "authority",
    imports: { default: async | trappable },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: false },
});
