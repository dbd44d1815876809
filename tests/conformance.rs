//! The conformance suite: `tests/conformance/README.md` says what a case and a runner are. Here is the judge, and with it the
//! runners that need nothing but Rust. `tests/embed.rs` has the others.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "conformance/judge.rs"]
mod judge;
#[path = "conformance/native.rs"]
mod native;

use std::env;

#[test]
fn the_native_core_conforms() {
    if env::var_os("BLESS").is_some() {
        judge::bless(native::play);
    }
    judge::judge("the native core", |cases| cases.iter().map(native::play).collect());
}
