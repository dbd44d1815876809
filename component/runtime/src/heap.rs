//! The heap of a component.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};

use dlmalloc::Dlmalloc;
use zeroize::Zeroize as _;

/// A heap that wipes every freed block, so that no token outlives its use in the memory of the
/// component, in any string, buffer or document.
#[derive(Debug)]
pub(crate) struct Heap {
    dlmalloc: UnsafeCell<Dlmalloc>,
    scratch: UnsafeCell<Scratch>,
    is_scratch_lent: Cell<bool>,
}

/// A block that stays outside the heap, for the credential that each authentication receives.
/// Allocating and freeing it on the heap takes a tenth of an authentication. The longest token of
/// InfluxDB fits, and a longer credential is allocated.
#[derive(Debug)]
struct Scratch([u64; 16]);

impl Heap {
    /// Returns an empty heap.
    pub(crate) const fn new() -> Self {
        Self {
            dlmalloc: UnsafeCell::new(Dlmalloc::new()),
            scratch: UnsafeCell::new(Scratch([0; 16])),
            is_scratch_lent: Cell::new(false),
        }
    }

    /// Returns the scratch block, if it is free and large enough. It is freed like any other block.
    pub(crate) fn lend_scratch(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > size_of::<Scratch>()
            || layout.align() > align_of::<Scratch>()
            || self.is_scratch_lent.replace(true)
        {
            return None;
        }
        Some(self.scratch.get().cast())
    }

    /// Wipes the scratch block, which is free from then on.
    fn return_scratch(&self) {
        // SAFETY: the caller of `dealloc` owned the block until now, and nothing else refers to it.
        #[allow(unsafe_code)]
        let Scratch(words) = unsafe { &mut *self.scratch.get() };
        // One by one: a loop takes a check of the epoch at each turn.
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words;
        a.zeroize();
        b.zeroize();
        c.zeroize();
        d.zeroize();
        e.zeroize();
        f.zeroize();
        g.zeroize();
        h.zeroize();
        i.zeroize();
        j.zeroize();
        k.zeroize();
        l.zeroize();
        m.zeroize();
        n.zeroize();
        o.zeroize();
        p.zeroize();
        self.is_scratch_lent.set(false);
    }
}

// SAFETY: wasm32-wasip2 has no threads, so no other thread shares the heap.
#[allow(unsafe_code)]
unsafe impl Sync for Heap {}

// SAFETY: `alloc` and `dealloc` pass the obligations of the caller on to dlmalloc, which upholds
// the contract. There is one thread and dlmalloc calls nothing back, so its exclusive borrow is
// never held twice. The scratch block is lent to one owner at a time, and dlmalloc never sees it.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.dlmalloc.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block == self.scratch.get().cast() {
            return self.return_scratch();
        }
        // SAFETY: the caller frees `layout.size()` bytes at `block`, which it owns until `free`.
        let bytes = unsafe { core::slice::from_raw_parts_mut(block, layout.size()) };
        // SAFETY: any bytes are words.
        let (first, words, last) = unsafe { bytes.align_to_mut::<u64>() };
        first.zeroize();
        words.zeroize();
        last.zeroize();
        // SAFETY: as above.
        unsafe { (*self.dlmalloc.get()).free(block, layout.size(), layout.align()) }
    }

    // `realloc` is the provided one, which allocates, copies and frees: that of dlmalloc leaves an
    // unwiped copy behind when it moves.
}
