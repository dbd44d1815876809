//! The hot path of every request: the hash of a token, the index that finds it, the names and
//! patterns that it may use.
//!
//! A separate crate for one reason: it is compiled for speed, the rest of a component for size.
//! Knows nothing of tokens beyond these.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod hash;
mod index;
mod scope;

pub use hash::{TokenHash, TokenHashError};
pub use index::HashIndex;
pub use scope::{NameIndex, Pattern, PatternList};
