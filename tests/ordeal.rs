//! Hundreds of runs that are disturbed at every step. Apart from the other tests, which are not to wait for a machine that
//! is busy with these.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod kill;
mod lossy;
mod rotate_cli;
mod rotate_files;
#[allow(dead_code, reason = "the other tests stand on it, too")]
mod support;
