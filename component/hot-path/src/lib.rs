//! What every request passes through on its way to an answer: the hash of a token, the index that finds it, and the
//! heap.
//!
//! A crate of its own for one reason: it is compiled for speed, and the rest of the component for size. Knows nothing of
//! what is found by a hash.

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
