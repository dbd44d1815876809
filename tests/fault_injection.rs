//! Hundreds of runs that are disturbed at every step. Apart from the other tests, which are not to wait for a machine that
//! is busy with these.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod crash_recovery;
mod fault_proxy;
mod rotation_faults;
mod rotation_output_file;
#[allow(dead_code, unused_imports, reason = "each test crate uses a part")]
mod support;
