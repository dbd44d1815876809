//! The limits of an instance. `src/lib.rs` lists them in one table.

use std::time::Duration;

/// The most memory of an instance, in bytes. A command holds the catalog as text and as records,
/// before and after the change. That takes about 2 KiB for a token, so the limit has room for ten
/// thousand tokens.
pub const MAX_MEMORY: usize = 32 << 20;

/// The most data that an instance passes to the host in one call, in bytes: a catalog document and
/// little else.
pub const MAX_HOSTCALL_DATA: usize = 16 << 20;

/// The most calls of the store for one command. Waiting for the store costs no processor time, so
/// the budget of a command does not end a loop of such calls. The component tries a command at most
/// 32 times, with one load and one swap each.
pub const MAX_STORE_CALLS: u32 = 64;

/// The most random bytes of one call. A token takes 64, in calls of 8.
pub const MAX_RANDOM_BYTES: u64 = 4096;

/// The most core instances of one instance. The built-in component is one module with the two shims
/// of `wasm-component-ld`; another build may have a few more.
pub const MAX_CORE_INSTANCES: u32 = 8;
/// The most memories of one instance; see [`MAX_CORE_INSTANCES`].
pub const MAX_MEMORIES: u32 = 2;
/// The most tables of one instance; see [`MAX_CORE_INSTANCES`].
pub const MAX_TABLES: u32 = 8;
/// The most elements of a table. The table of the built-in component has about a hundred functions.
pub const MAX_TABLE_ELEMENTS: usize = 4096;

/// The processor time of one authentication. It takes about a microsecond, and longer only where it
/// loads the catalog first.
pub const AUTHENTICATE_BUDGET: Duration = Duration::from_millis(250);

/// The processor time of one command. It takes less than a millisecond for a small catalog and each
/// try. Waiting for the store does not count; [`MAX_STORE_CALLS`] bounds that.
pub const COMMAND_BUDGET: Duration = Duration::from_secs(2);

/// How many commands an instance executes in its life. What the last one has stored is read by a
/// new instance before it is published, so that a fault of the memory shows itself there.
pub(crate) const MAX_COMMANDS: u32 = 64;
