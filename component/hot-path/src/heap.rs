//! The heap of the guest.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

use dlmalloc::Dlmalloc;
use zeroize::Zeroize as _;

/// The heap. Every block is wiped when it is given back, so that no token outlives its use in the guest's memory, in
/// whichever string, buffer or document it stood.
#[derive(Debug)]
pub struct Heap(UnsafeCell<Dlmalloc>);

impl Heap {
    /// An empty heap.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Dlmalloc::new()))
    }
}

// SAFETY: wasm32-wasip2 has no threads, so there is nobody to share the heap with.
#[allow(unsafe_code)]
unsafe impl Sync for Heap {}

// SAFETY: `alloc` and `dealloc` hand the caller's obligations on to dlmalloc, which upholds the contract. There is
// one thread and dlmalloc calls nothing back, so its exclusive borrow is never held twice.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back `layout.size()` bytes at `block`, which are its own until `free`.
        let bytes = unsafe { core::slice::from_raw_parts_mut(block, layout.size()) };
        // SAFETY: any bytes are words.
        let (first, words, last) = unsafe { bytes.align_to_mut::<u64>() };
        first.zeroize();
        words.zeroize();
        last.zeroize();
        // SAFETY: as above.
        unsafe { (*self.0.get()).free(block, layout.size(), layout.align()) }
    }

    // `realloc` stays the provided one, which moves and gives back the old block: dlmalloc's own would leave
    // an unwiped copy where it moves.
}
