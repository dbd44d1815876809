//! The hot path of every authentication: the hash of a token, the index that finds it, and the
//! heap.
//!
//! A separate crate for one reason: it is compiled for speed, the rest of a component for size.
//! Knows nothing of tokens beyond their hashes.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod hash;
#[cfg(target_arch = "wasm32")]
mod heap;
mod index;

pub use hash::{TokenHash, TokenHashError};
#[cfg(target_arch = "wasm32")]
pub use heap::Heap;
pub use index::HashIndex;
