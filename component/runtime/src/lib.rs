//! The runtime of a component without a standard library: a heap, the allocation function of the
//! canonical ABI, and the panic handler.
//!
//! Every component links this crate, and no native program may. Compiled natively it is empty.

#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use alloc::alloc::{alloc, realloc};
use core::alloc::Layout;

use self::heap::Heap;

mod heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

/// Allocates memory of the component for arguments that a host passes. wit-bindgen has this
/// function only with `std`.
///
/// # Safety
///
/// As the canonical ABI specifies: `old_size` is 0, or `old` is a block of `old_size` bytes from an
/// earlier call.
#[allow(unsafe_code)]
#[unsafe(export_name = "cabi_realloc")]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return core::ptr::without_provenance_mut(align);
    }
    // An invalid alignment, or a size beyond the address space, has no layout and gets no block.
    let block = match (Layout::from_size_align(old_size, align), Layout::from_size_align(new_size, align)) {
        (Ok(_), Ok(layout)) if old_size == 0 => match HEAP.lend_scratch(layout) {
            Some(block) => block,
            // SAFETY: the size is not zero.
            None => unsafe { alloc(layout) },
        },
        // SAFETY: by this function's contract `old` is a block of that layout; the new size has
        // one, too.
        (Ok(layout), Ok(_)) => unsafe { realloc(old, layout, new_size) },
        _ => core::ptr::null_mut(),
    };
    if block.is_null() {
        core::arch::wasm32::unreachable()
    }
    block
}

/// Ends the instance; the host drops it and starts another one. The message is dropped, because it
/// could quote a secret.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
