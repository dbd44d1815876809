//! Runs the component under wasmtime: engine, linker, limits and instances.
//!
//! The only module that knows wasmtime. An instance has one of two roles. A *read instance* may
//! only load, and loads one immutable [`Snapshot`](linker::Snapshot); the sandbox reuses it until
//! the snapshot is replaced. A *command instance* has the store and executes one command. A read
//! instance executes the next command, without reading the catalog again. It is then the first read
//! instance of the new snapshot. The sandbox drops an instance whose command failed, and one that
//! traps or exceeds a limit. The next call gets a new one: the component keeps no state between
//! calls that the store does not have.
//!
//! A host with an engine of its own uses [`linker`] and [`bindings`] instead, and [`wasmtime`] from
//! here, so that the versions match.

#[cfg(feature = "async-store")]
pub mod async_linker;
pub mod bindings;
#[cfg(feature = "async-store")]
pub mod bindings_async;
mod built_in;
mod contract_check;
mod convert;
mod engine;
mod engine_config;
mod epoch;
mod error;
mod instances;
mod limits;
pub mod linker;
mod pool;
mod snapshot;

pub use wasmtime;

pub use self::built_in::BUILT_IN_COMPONENT;
pub use self::contract_check::check;
pub use self::error::{CONTRACT, SandboxError, Trap};
pub(crate) use self::instances::{CallResult, CommandInstance, Executed, ReadInstance};
pub use self::limits::{
    AUTHENTICATE_BUDGET, COMMAND_BUDGET, MAX_CORE_INSTANCES, MAX_HOSTCALL_DATA, MAX_MEMORIES, MAX_MEMORY,
    MAX_RANDOM_BYTES, MAX_STORE_CALLS, MAX_TABLE_ELEMENTS, MAX_TABLES,
};
pub(crate) use self::pool::Sandbox;
pub(crate) use self::snapshot::VersionedSnapshot;
