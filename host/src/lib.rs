//! An operator-token authority: issues, checks, rotates and recovers the one secret that guards a service.
//!
//! All of its logic is one sandboxed WebAssembly component, which comes with the crate and has no files, network or
//! environment. This crate lends it storage, randomness and a clock, and keeps it within limits. The server `optoken` is
//! one program made with it; this page is for those who make another.
//!
//! # Adding it
//!
//! The crate is not on crates.io. From a program beside a checkout of its repository:
//!
//! ```toml
//! [dependencies]
//! optoken = { path = "../optoken/host", default-features = false }
//! ```
//!
//! With `git` and the address of the repository in place of `path`, cargo fetches it. It needs a Unix, Rust 1.95, and a
//! C compiler.
//!
//! In a build without optimisation, the compiler that is within takes one or two seconds for the component, and a token
//! some twenty microseconds to be checked. With these lines in the `Cargo.toml` of your workspace, only your own code is slow:
//!
//! ```toml
//! [profile.dev.package."*"]
//! opt-level = 2
//! ```
//!
//! | feature | what it adds | for that it takes in |
//! |---|---|---|
//! | (none) | [`Authority`](authority::Authority), the audit log, [`MemoryStore`](store::MemoryStore), and the [pieces](sandbox::linker) for a host with an engine of its own | wasmtime, and small crates |
//! | `async` | commands that are awaited: `optoken::async_authority` | tokio, its runtime alone |
//! | `sqlite` | `store::SqliteStore`: a file for any number of processes on one machine | SQLite, built from C |
//! | `test-suite` | `store::conformance`: what every store must do, for the tests of yours | nothing |
//! | `server` (default) | `cli`, the HTTP faces, the client and the binary `optoken`; has `async` and `sqlite` | clap, hyper, reqwest, rustls, … |
//!
//! # A complete example
//!
//! Tokens are kept wherever you say: a [`Store`](store::Store) holds one document and replaces it if nobody else has.
//!
//! ```
//! use std::sync::Mutex;
//!
//! use optoken::authority::Authority;
//! use optoken::secret::Secret;
//! use optoken::store::{Entry, Store, StoreError, SwapOutcome, Version};
//! use optoken::token::{AuthenticateError, CommandError};
//!
//! /// A row of a database, were this not an example.
//! #[derive(Default)]
//! struct Row(Mutex<(u64, Option<String>)>);
//!
//! impl Store for Row {
//!     fn load(&self) -> Result<Option<Entry>, StoreError> {
//!         let row = self.0.lock().map_err(|_| StoreError::Unavailable("a panic".into()))?;
//!         let entry = |text: &String| Entry { version: Version::from(row.0.to_string()), document: text.clone() };
//!         Ok(row.1.as_ref().map(entry))
//!     }
//!
//!     fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
//!         let mut row = self.0.lock().map_err(|_| StoreError::Unavailable("a panic".into()))?;
//!         let found = row.1.as_ref().map(|_| Version::from(row.0.to_string()));
//!         if found.as_ref() != expected {
//!             return Ok(SwapOutcome::Stale);
//!         }
//!         *row = (row.0 + 1, Some(document.to_owned()));
//!         Ok(SwapOutcome::Swapped(Version::from(row.0.to_string())))
//!     }
//! }
//!
//! // Compiles the component: some tens of milliseconds, once, in a release build.
//! let authority = Authority::builder(Row::default()).build()?;
//!
//! // The first token of all. The text of a token is shown this once; the store has only its SHA-512.
//! let operator = authority.create_operator("setup")?.secret;
//!
//! // Each request: about a microsecond in a release build. It waits for no store.
//! fn may_pass(authority: &Authority, presented: &str) -> Result<bool, String> {
//!     match authority.authenticate(presented) {
//!         Ok(_) => Ok(true),
//!         Err(AuthenticateError::Unknown | AuthenticateError::Expired(_)) => Ok(false),
//!         // Not the token's fault: a 503, not a 401.
//!         Err(other) => Err(other.to_string()),
//!     }
//! }
//! assert_eq!(may_pass(&authority, operator.expose()), Ok(true));
//! assert_eq!(may_pass(&authority, "something else"), Ok(false));
//!
//! // A rotation that no lost answer can spoil: the new token is stored away before the old one ends.
//! let staged = authority.stage(&operator, None, None, "rotation")?;
//! let next: Secret = staged.secret.ok_or("only where a hash was given")?;
//! authority.confirm(&next, 0, "rotation")?;
//! assert_eq!(may_pass(&authority, operator.expose()), Ok(false));
//! assert_eq!(may_pass(&authority, next.expose()), Ok(true));
//!
//! // Who is no operator may not do that.
//! let named = authority.create_named(&next, "ci", Some(3600), "setup")?;
//! assert_eq!(authority.regenerate(&named.secret, 0, "ci").err(), Some(CommandError::Forbidden));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can go wrong
//!
//! Whatever is not certain is denied, and every error says which of these it is:
//!
//! | error | when | what to do |
//! |---|---|---|
//! | [`BuildError`](authority::BuildError) | the component does not fit, or the store, its catalog or the audit log cannot be used | tell whoever starts the program; nothing was changed |
//! | [`AuthenticateError::Unknown`](token::AuthenticateError::Unknown), [`Expired`](token::AuthenticateError::Expired) | the token is not, or no longer, accepted | refuse (401) |
//! | [`AuthenticateError::Unavailable`](token::AuthenticateError::Unavailable) | the store has been silent for longer than [`max_staleness`](authority::Builder::max_staleness), or the component has failed | refuse, and say that it may pass later (503) |
//! | [`CommandError`](token::CommandError): the caller's fault | each case names one, from `Unauthenticated` to `InvalidArgument` | tell the caller; nothing was changed |
//! | [`CommandError::Unavailable`](token::CommandError::Unavailable) | the store or the component has failed | try again; nothing was changed |
//! | [`CommandError::UnknownOutcome`](token::CommandError::UnknownOutcome) | the store has failed in the middle of the change | look: the old token may be refused from now on; a new one is lost |
//! | [`CommandError::Internal`](token::CommandError::Internal) | the catalog cannot be read, or there is no randomness | tell an operator; trying again does not help |
//! | [`StoreError`](store::StoreError) | given by your store: whether something may have been written | be exact about it |
//!
//! A component that traps, loops or asks for too much is stopped and dropped, counted in
//! [`traps`](authority::Authority::traps), and the next call gets a new instance.
//!
//! # In asynchronous programs
//!
//! Async code may call [`authenticate`](authority::Authority::authenticate). Commands block. With the
//! feature `async`, `Authority::builder(…).build_async().await` returns an `AsyncAuthority`, which runs
//! them on threads that may block.
//!
//! # With an engine of one's own
//!
//! A host that runs other components already takes [`sandbox::linker::add_to_linker`] and [`sandbox::bindings`] instead
//! of an [`Authority`](authority::Authority), with the [`sandbox::wasmtime`] that they are made for. [`sandbox::linker`]
//! has a complete example.
//!
//! # Limits
//!
//! | what | limit | |
//! |---|---|---|
//! | processor time of an authentication | 250 ms | [`AUTHENTICATE_BUDGET`](sandbox::AUTHENTICATE_BUDGET) |
//! | processor time of a command, without what it waits | 2 s | [`COMMAND_BUDGET`](sandbox::COMMAND_BUDGET) |
//! | calls of the store by a command, of which each takes what your store takes | 64 | [`MAX_STORE_CALLS`](sandbox::MAX_STORE_CALLS) |
//! | memory of an instance | 32 MiB | [`MAX_MEMORY`](sandbox::MAX_MEMORY) |
//! | what it hands to the host in one call | 16 MiB | [`MAX_HOSTCALL_DATA`](sandbox::MAX_HOSTCALL_DATA) |
//! | random bytes at a time | 4096 | [`MAX_RANDOM_BYTES`](sandbox::MAX_RANDOM_BYTES) |
//! | core instances, memories, tables, elements of a table | 8, 2, 8, 4096 | [`MAX_CORE_INSTANCES`](sandbox::MAX_CORE_INSTANCES), [`MAX_MEMORIES`](sandbox::MAX_MEMORIES), [`MAX_TABLES`](sandbox::MAX_TABLES), [`MAX_TABLE_ELEMENTS`](sandbox::MAX_TABLE_ELEMENTS) |
//! | until a change by another process counts here | 250 ms and one read | [`POLL_INTERVAL`](authority::POLL_INTERVAL) |
//! | until a silent store makes all tokens refused | 10 s | [`DEFAULT_MAX_STALENESS`](authority::DEFAULT_MAX_STALENESS) |
//! | commands that block a thread at a time, with `async` | 4 | `async_authority::MAX_CONCURRENT_COMMANDS` |
//! | tokens in a catalog; audit records that it keeps | 10,000; 64 | the component's |
//! | a token's name; the origin of a request | 128 bytes; 256 bytes, cut | the component's |

#![warn(missing_debug_implementations)]

#[cfg(feature = "async")]
pub mod async_authority;
pub mod audit;
pub mod authority;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
mod client;
mod command;
#[cfg(feature = "server")]
mod http;
#[cfg(feature = "server")]
mod metrics;
mod observed_store;
pub mod observer;
mod private_file;
#[cfg(feature = "server")]
mod program;
pub mod sandbox;
pub mod secret;
#[cfg(feature = "server")]
mod server;
pub mod store;
pub mod token;
