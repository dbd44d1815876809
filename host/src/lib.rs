//! An operator-token authority: issues, checks, rotates and recovers the one secret that guards a service.
//!
//! All of its logic is one sandboxed WebAssembly component; this crate gives it storage, randomness, a clock and
//! faces. [`authority::Authority`] is where to start.

#[cfg(feature = "async")]
pub mod asynchronous;
pub mod audit;
pub mod authority;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
mod client;
#[cfg(feature = "server")]
mod http;
#[cfg(feature = "server")]
mod metrics;
pub mod observer;
pub mod sandbox;
pub mod secret;
pub mod store;
pub mod token;
