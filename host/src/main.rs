//! The `influxdb3` command.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes every block that is given back. Tokens pass through buffers of libraries, for HTTP and TLS, that do not wipe them.
#[global_allocator]
static HEAP: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    optoken::cli::run()
}
