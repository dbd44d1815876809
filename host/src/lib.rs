//! An operator-token authority: issues, checks, rotates and recovers the one secret that guards a service.
//!
//! All of its logic is one sandboxed WebAssembly component; this crate gives it storage, randomness, a clock and
//! faces. [`authority::Authority`] is where to start.

pub mod audit;
pub mod authority;
pub mod cli;
mod client;
mod http;
mod metrics;
pub mod sandbox;
pub mod secret;
pub mod store;
pub mod token;
