//! The operator-token authority: token hashing, the catalog of tokens and the state machine that changes it.
//!
//! Compiled for wasm this crate is the component of `wit/world.wit` and has no standard library. Compiled natively
//! it is an ordinary Rust library, so that unit tests and benchmarks run the very same code.
//!
//! The crate does no I/O: randomness, time and storage are handed to it through [`ports`]. Read it from
//! [`machine`], which says what every command does, outwards to [`commit`], which makes it durable, and
//! [`authority`], which an embedder calls. Only the private module `guest` knows that there is a component at all.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod audit;
pub mod authority;
pub mod catalog;
pub mod commit;
pub mod machine;
pub mod name;
pub mod ports;
pub mod rotation;
pub mod strength;
mod text;
pub mod token;

#[cfg(target_arch = "wasm32")]
mod guest;
