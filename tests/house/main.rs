//! Checks of the repository itself: layers, words, references and sizes.
//!
//! The checks read files and run no program. They know the folders of the repository, and not what
//! the code does. Each lists every violation with its file and line.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod layers;
mod programs;
mod references;
mod sizes;
mod sources;
mod vocabulary;
mod words;

/// Fails with one line a violation.
#[track_caller]
fn assert_none(violations: &[String], rule: &str) {
    assert!(violations.is_empty(), "{rule}: {} violations\n{}\n", violations.len(), violations.join("\n"));
}
