//! The heap of a component.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

use dlmalloc::Dlmalloc;
use zeroize::Zeroize as _;

/// A heap that wipes every freed block, so that no token outlives its use in the memory of the
/// component, in any string, buffer or document.
#[derive(Debug)]
pub(crate) struct Heap(UnsafeCell<Dlmalloc>);

impl Heap {
    /// Returns an empty heap.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(Dlmalloc::new()))
    }
}

// SAFETY: wasm32-wasip2 has no threads, so no other thread shares the heap.
#[allow(unsafe_code)]
unsafe impl Sync for Heap {}

// SAFETY: `alloc` and `dealloc` pass the obligations of the caller on to dlmalloc, which upholds
// the contract. There is one thread and dlmalloc calls nothing back, so its exclusive borrow is
// never held twice.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller frees `layout.size()` bytes at `block`, which it owns until `free`.
        let bytes = unsafe { core::slice::from_raw_parts_mut(block, layout.size()) };
        // SAFETY: any bytes are words.
        let (first, words, last) = unsafe { bytes.align_to_mut::<u64>() };
        first.zeroize();
        words.zeroize();
        last.zeroize();
        // SAFETY: as above.
        unsafe { (*self.0.get()).free(block, layout.size(), layout.align()) }
    }

    // `realloc` is the provided one, which allocates, copies and frees: that of dlmalloc leaves an
    // unwiped copy behind when it moves.
}
