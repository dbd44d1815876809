//! An operator-token authority: issues, checks, rotates and recovers the one secret that guards a
//! service.
//!
//! All of its logic is one sandboxed WebAssembly component. The component is part of the crate and
//! has no files, network or environment. This crate lends it storage, randomness and a clock, and
//! enforces limits. The server `optoken` is one program that uses the crate; this page is for
//! authors of other programs.
//!
//! # Dependency
//!
//! The crate is not on crates.io. From a program beside a checkout of its repository:
//!
//! ```toml
//! [dependencies]
//! optoken = { path = "../optoken/host", default-features = false }
//! ```
//!
//! With `git` and the address of the repository in place of `path`, cargo fetches it. The crate
//! needs a Unix, Rust 1.95 and a C compiler.
//!
//! In debug builds Cranelift needs 1 to 2 s to compile the component, and checking a token takes
//! about 20 µs. These lines in the `Cargo.toml` of a workspace optimise the dependencies alone:
//!
//! ```toml
//! [profile.dev.package."*"]
//! opt-level = 2
//! ```
//!
//! | feature | adds | depends on |
//! |---|---|---|
//! | (none) | [`Authority`](authority::Authority), the audit log, [`MemoryStore`](store::MemoryStore), and the [linker functions](sandbox::linker) for a host with its own engine | wasmtime, and small crates |
//! | `async` | `optoken::async_authority`: awaits commands | tokio, its runtime alone |
//! | `async-store` | `sandbox::async_linker`: an asynchronous store for a host with its own engine | the fibers of wasmtime |
//! | `sqlite` | `store::SqliteStore`: a file for any number of processes on one machine | SQLite, built from C |
//! | `object-store` | `store::ObjectStore`: a bucket of S3, Google Cloud Storage or Azure, for any number of nodes | `object_store`, reqwest, rustls |
//! | `postgres` | `store::PostgresStore`: a row of PostgreSQL, for any number of nodes | tokio-postgres, rustls |
//! | `etcd` | `store::EtcdStore`: keys of etcd, for any number of nodes | reqwest, rustls |
//! | `remote-store` | `store::remote`: what these three share | tokio, rustls |
//! | `precompiled` | the machine code of the built-in component: the start loads it in a millisecond | nothing at run time; the build compiles it |
//! | `test-suite` | `store::conformance`: the conformance tests of the port, for other stores | nothing |
//! | `server` (default) | `cli`, the HTTP listeners, the client and the binary `optoken`; has `async`, `precompiled` and all stores | clap, hyper, reqwest, rustls, … |
//!
//! # A complete example
//!
//! A [`Store`](store::Store) of the embedder holds one document. It replaces the document only if
//! its version is still the expected one.
//!
//! ```
//! use std::sync::Mutex;
//!
//! use optoken::authority::Authority;
//! use optoken::secret::Secret;
//! use optoken::store::{Entry, Store, StoreError, SwapOutcome, Version};
//! use optoken::token::{AuthenticateError, CommandError};
//!
//! /// Stands for a row of a database.
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
//! // Compiles the component: a hundred milliseconds, once, in a release build. With the feature
//! // `precompiled` it loads machine code instead, in a millisecond.
//! let authority = Authority::builder(Row::default()).build()?;
//!
//! // Creates the first token. Its text is returned this once; the store has only its SHA-512.
//! let operator = authority.create_operator("setup")?.secret;
//!
//! // Runs for each request: about a microsecond in a release build, without a call of the store.
//! fn may_pass(authority: &Authority, presented: &str) -> Result<bool, String> {
//!     match authority.authenticate(presented) {
//!         Ok(_) => Ok(true),
//!         Err(AuthenticateError::Unknown | AuthenticateError::Expired(_)) => Ok(false),
//!         // The state of the token is unknown: 503, not 401.
//!         Err(other) => Err(other.to_string()),
//!     }
//! }
//! assert_eq!(may_pass(&authority, operator.expose()), Ok(true));
//! assert_eq!(may_pass(&authority, "something else"), Ok(false));
//!
//! // Rotates: the caller saves the new token before the old one is refused.
//! let staged = authority.stage(&operator, None, None, "rotation")?;
//! let next: Secret = staged.secret.ok_or("the caller supplied a hash")?;
//! authority.confirm(&next, 0, "rotation")?;
//! assert_eq!(may_pass(&authority, operator.expose()), Ok(false));
//! assert_eq!(may_pass(&authority, next.expose()), Ok(true));
//!
//! // A named token cannot replace the operator token.
//! let named = authority.create_named(&next, "ci", None, Some(3600), "setup")?;
//! assert_eq!(authority.regenerate(&named.secret, 0, "ci").err(), Some(CommandError::Forbidden));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors
//!
//! An uncertain result is a refusal. Each error has one of these meanings:
//!
//! | error | cause | action |
//! |---|---|---|
//! | [`BuildError`](authority::BuildError) | the component does not fit, or the store, its catalog or the audit log cannot be used | report it to the operator; nothing was changed |
//! | [`AuthenticateError::Unknown`](token::AuthenticateError::Unknown), [`Expired`](token::AuthenticateError::Expired) | the token is not, or no longer, accepted | refuse (401) |
//! | [`AuthenticateError::Unavailable`](token::AuthenticateError::Unavailable) | the store has been silent for longer than [`max_staleness`](authority::Builder::max_staleness), or the component has failed | refuse, and report that a retry may succeed (503) |
//! | [`CommandError`](token::CommandError): other cases | an error of the caller, from `Unauthenticated` to `InvalidArgument` | report it to the caller; nothing was changed |
//! | [`CommandError::Unavailable`](token::CommandError::Unavailable) | the store or the component has failed | try again; nothing was changed |
//! | [`CommandError::UnknownOutcome`](token::CommandError::UnknownOutcome) | the store has failed in the middle of the change | check: the old token may be refused from now on; a new one is lost |
//! | [`CommandError::Internal`](token::CommandError::Internal) | the catalog cannot be read, or there is no randomness | report it to the operator; a retry does not help |
//! | [`StoreError`](store::StoreError) | the result of the store: whether the document may have been written | the store must be exact |
//!
//! The host drops an instance that traps, loops or exceeds a limit. It counts the event in
//! [`traps`](authority::Authority::traps), and the next call gets a new instance.
//!
//! # Asynchronous programs
//!
//! Async code may call [`authenticate`](authority::Authority::authenticate). Commands block. With
//! the feature `async`, `Authority::builder(…).build_async().await` returns an `AsyncAuthority`,
//! which runs them on threads that may block.
//!
//! # Hosts with their own engine
//!
//! A host that already runs other components uses [`sandbox::linker::add_to_linker`] and
//! [`sandbox::bindings`] instead of an [`Authority`](authority::Authority). [`sandbox::wasmtime`]
//! is the version that they need. [`sandbox::linker`] has a complete example.
//!
//! # Limits
//!
//! | what | limit | |
//! |---|---|---|
//! | processor time of an authentication | 250 ms | [`AUTHENTICATE_BUDGET`](sandbox::AUTHENTICATE_BUDGET) |
//! | processor time of a command, without waiting | 2 s | [`COMMAND_BUDGET`](sandbox::COMMAND_BUDGET) |
//! | store calls of a command | 64 | [`MAX_STORE_CALLS`](sandbox::MAX_STORE_CALLS) |
//! | memory of an instance | 32 MiB | [`MAX_MEMORY`](sandbox::MAX_MEMORY) |
//! | data that an instance passes to the host in one call | 16 MiB | [`MAX_HOSTCALL_DATA`](sandbox::MAX_HOSTCALL_DATA) |
//! | random bytes at a time | 4096 | [`MAX_RANDOM_BYTES`](sandbox::MAX_RANDOM_BYTES) |
//! | core instances, memories, tables, elements of a table | 8, 2, 8, 4096 | [`MAX_CORE_INSTANCES`](sandbox::MAX_CORE_INSTANCES), [`MAX_MEMORIES`](sandbox::MAX_MEMORIES), [`MAX_TABLES`](sandbox::MAX_TABLES), [`MAX_TABLE_ELEMENTS`](sandbox::MAX_TABLE_ELEMENTS) |
//! | delay of a change by another process, if the store states no other interval | 250 ms and one read | [`POLL_INTERVAL`](store::POLL_INTERVAL) |
//! | silence of the store until all tokens are refused | 10 s | [`DEFAULT_MAX_STALENESS`](authority::DEFAULT_MAX_STALENESS) |
//! | commands that block a thread at once, with `async` | 4 | `async_authority::MAX_CONCURRENT_COMMANDS` |
//! | tokens in a catalog; audit records that it retains | 10,000; 64 | of the component |
//! | a token's name; the origin of a request | 128 bytes; 256 bytes, cut | of the component |

#![warn(missing_debug_implementations)]

pub mod access;
#[cfg(feature = "async")]
pub mod async_authority;
pub mod audit;
pub mod authority;
#[cfg(feature = "server")]
mod certificate;
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
#[cfg(feature = "server")]
mod visible_text;
