//! What a component without a standard library must bring along: a heap, the way for its host to get memory, and what
//! becomes of a panic.
//!
//! Each artefact of this directory links it, and nothing else may. Compiled natively it is empty.

#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use alloc::alloc::{alloc, realloc};
use core::alloc::Layout;

use optoken_hot_path::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

/// How a host gets memory for what it hands to the guest; wit-bindgen brings one along only where there is `std`.
///
/// # Safety
///
/// The component model's ABI: a new block (`old_size` of 0), or one of `old_size` bytes at `old` from an earlier call.
#[allow(unsafe_code)]
#[unsafe(export_name = "cabi_realloc")]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return core::ptr::without_provenance_mut(align);
    }
    // An alignment that is none, or a size beyond all memory, has no layout and gets no block.
    let block = match (Layout::from_size_align(old_size, align), Layout::from_size_align(new_size, align)) {
        // SAFETY: the size is not zero.
        (Ok(_), Ok(layout)) if old_size == 0 => unsafe { alloc(layout) },
        // SAFETY: by this function's contract `old` is a block of that layout; the new size has one, too.
        (Ok(layout), Ok(_)) => unsafe { realloc(old, layout, new_size) },
        _ => core::ptr::null_mut(),
    };
    if block.is_null() {
        core::arch::wasm32::unreachable()
    }
    block
}

/// Ends the instance: the host drops it and starts another one. The message is not shown to anybody, since it could
/// quote what it stumbled over.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
