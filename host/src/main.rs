//! The command `optoken`.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes every block that is freed. Tokens pass through buffers of libraries that do not wipe them.
#[global_allocator]
static HEAP: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    optoken::cli::run()
}
