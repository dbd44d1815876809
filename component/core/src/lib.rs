//! The operator-token authority: the catalog of tokens and the state machine that changes it.
//! Compiled for wasm, this crate has no standard library. It is the core of three components: the
//! one of `wit/world.wit` (`authority`), and two that WASI runtimes run directly (`cli` and
//! `http`). Compiled natively, it is an ordinary Rust library for unit tests and benchmarks. The
//! crate does no I/O: [`ports`] provide randomness, time and storage. Read it from the inside:
//! [`transition`] defines the effect of every command, [`commit`] makes it durable, and a component
//! calls [`authority`]. The crate does not know that it is part of a component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod access;
pub mod audit;
pub mod authentication;
pub mod authority;
pub mod catalog;
pub mod command;
pub mod commit;
pub mod former_secrets;
mod json_line;
pub mod permission;
pub mod ports;
pub mod rotation;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod token_name;
pub mod token_record;
pub mod token_strength;
pub mod transition;
