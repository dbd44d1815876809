//! Hundreds of runs with a fault in each step. A target of its own, as they keep a machine too busy
//! for tests that measure times.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod crash_recovery;
mod fault_proxy;
mod rotation_faults;
mod rotation_output_file;
#[allow(dead_code, reason = "each test crate uses a part")]
mod rotation_run;
#[allow(dead_code, unused_imports, reason = "each test crate uses a part")]
mod support;
