//! The operator-token authority: token hashing, the catalog of tokens and the state machine that changes it.
//!
//! Compiled for wasm this crate has no standard library and is the core of three components: the one of `wit/world.wit`
//! (`authority`), and two that a stock runtime runs as they are (`cli` and `http`). Compiled natively it is an ordinary Rust
//! library, so that unit tests and benchmarks run the very same code.
//!
//! The crate does no I/O: randomness, time and storage are handed to it through [`ports`]. Read it from
//! [`transition`], which says what every command does, outwards to [`commit`], which makes it durable, and
//! [`authority`], which an embedder calls. It does not know that there is a component at all.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod audit;
pub mod authority;
pub mod catalog;
pub mod commit;
mod json_line;
pub mod ports;
pub mod rotation;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod token_name;
pub mod token_strength;
pub mod transition;
