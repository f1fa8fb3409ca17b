//! Memory for small allocations where the system has none: without it, the first one that fails would end the host.
//!
//! While memory is out no tensor is taken ([`starving`]), so that the reserve is there for what is queued to be written
//! and the run to be sealed. What is larger than [`MOST`] fails as ever; tensors' copies are asked for in a way that
//! may fail.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of the reserve: untouched, they are addresses only.
const BYTES: usize = 32 << 20;
/// Most bytes of one allocation from it.
const MOST: usize = 8 << 20;
/// Alignment of what it gives: that of the Parquet library's buffers.
const ALIGN: usize = 128;

#[global_allocator]
static ALLOCATOR: Reserve = Reserve::new();

/// Bytes that the system must have for memory to be there again.
const PROBE: usize = 64 << 10;

/// Whether the system had no memory when it was asked last, and has none now.
pub fn starving() -> bool {
    if !ALLOCATOR.failed.load(Ordering::Relaxed) {
        return false;
    }
    let mut probe = Vec::<u8>::new();
    ALLOCATOR.failed.store(false, Ordering::Relaxed);
    // the compiler may not leave the allocation out: what it does is seen in `failed`
    std::hint::black_box(probe.try_reserve_exact(PROBE).is_ok());
    ALLOCATOR.failed.load(Ordering::Relaxed)
}

#[repr(align(128))]
struct Aligned(#[allow(dead_code)] [u8; BYTES]); // reached by address only

struct Reserve {
    /// How many bytes are given (upper half), to how many allocations (lower half); 0 again when all are returned.
    state: AtomicU64,
    /// Whether the system refused an allocation since [`starving`] looked.
    failed: AtomicBool,
    bytes: UnsafeCell<Aligned>,
}

// SAFETY: a range of the bytes belongs to the one allocation that `state` gave it to
unsafe impl Sync for Reserve {}

impl Reserve {
    const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            bytes: UnsafeCell::new(Aligned([0; BYTES])),
        }
    }

    /// Bytes of the reserve that nobody else has, or null.
    fn take(&self, layout: Layout) -> *mut u8 {
        self.failed.store(true, Ordering::Relaxed);
        if layout.size() > MOST || layout.align() > ALIGN {
            return std::ptr::null_mut();
        }
        let size = layout.size().next_multiple_of(ALIGN) as u64;
        let taken = (self.state).fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
            let fits = (state >> 32) + size <= BYTES as u64;
            fits.then_some(state + (size << 32) + 1)
        });
        match taken {
            // SAFETY: the range ends within the reserve, as was checked
            Ok(before) => unsafe { self.bytes.get().cast::<u8>().add((before >> 32) as usize) },
            Err(_) => std::ptr::null_mut(),
        }
    }

    fn holds(&self, pointer: *mut u8) -> bool {
        pointer.addr().wrapping_sub(self.bytes.get().addr()) < BYTES
    }

    /// One allocation less. When none is left, all bytes are there again.
    fn give(&self) {
        let _ = (self.state).fetch_update(Ordering::Release, Ordering::Relaxed, |state| {
            let left = state - 1;
            Some(if left & u64::from(u32::MAX) == 0 { 0 } else { left })
        });
    }

    /// Moves an allocation into the reserve.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::realloc`].
    unsafe fn move_to(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; both hold the bytes that are copied, and they do not overlap
        unsafe {
            let new = self.take(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size));
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}

// SAFETY: the system's allocator, or bytes of the reserve that belong to nobody else, of the size and alignment
// that are asked for; what the reserve gave is told by its address
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise
        let new = unsafe { System.alloc(layout) };
        if new.is_null() { self.take(layout) } else { new }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; what was taken has the layout's size
        unsafe {
            let mut new = System.alloc_zeroed(layout);
            if new.is_null() {
                new = self.take(layout);
                if !new.is_null() {
                    new.write_bytes(0, layout.size());
                }
            }
            new
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.holds(pointer) {
            self.give();
        } else {
            // SAFETY: the caller's promise: it is the system's
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; what the reserve does not hold is the system's
        unsafe {
            if !self.holds(pointer) {
                let new = System.realloc(pointer, layout, new_size);
                return if new.is_null() {
                    self.move_to(pointer, layout, new_size)
                } else {
                    new
                };
            }
            let new = System.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if new.is_null() {
                return self.move_to(pointer, layout, new_size);
            }
            std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size));
            self.give();
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_does_not_overlap_and_returns_when_all_is_given_back() {
        static OWN: Reserve = Reserve::new();
        let reserve = &OWN;
        let layout = |size, align| Layout::from_size_align(size, align).expect("a layout");
        let first = reserve.take(layout(1, 1));
        let second = reserve.take(layout(100, ALIGN));
        let third = reserve.take(layout(MOST, 8));
        assert_eq!(
            (second.addr() - first.addr(), third.addr() - first.addr()),
            (ALIGN, 2 * ALIGN)
        );
        assert!(reserve.holds(first) && reserve.holds(third) && !reserve.holds(first.wrapping_sub(1)));
        assert!(reserve.take(layout(MOST + 1, 1)).is_null() && reserve.take(layout(1, 2 * ALIGN)).is_null());
        assert!(!reserve.take(layout(MOST, 1)).is_null() && !reserve.take(layout(MOST, 1)).is_null());
        assert!(reserve.take(layout(MOST, 1)).is_null(), "it is used up");
        assert!(!reserve.take(layout(1, 1)).is_null(), "but for what still fits");
        for _ in 0..6 {
            assert_ne!(reserve.state.load(Ordering::Relaxed), 0);
            reserve.give();
        }
        assert_eq!(reserve.take(layout(1, 1)), first, "all bytes are there again");
    }

    #[test]
    fn an_allocation_moves_with_its_bytes() {
        let layout = Layout::from_size_align(4, 4).expect("a layout");
        // SAFETY: allocated and freed with their layouts, and written within them
        unsafe {
            let pointer = ALLOCATOR.alloc(layout);
            pointer.write_bytes(7, 4);
            let inside = ALLOCATOR.move_to(pointer, layout, 1000);
            assert!(ALLOCATOR.holds(inside) && ALLOCATOR.state.load(Ordering::Relaxed) != 0);
            assert!(!starving(), "the system has memory");
            let large = Layout::from_size_align(1000, 4).expect("a layout");
            let outside = ALLOCATOR.realloc(inside, large, 2000);
            assert!(!ALLOCATOR.holds(outside) && ALLOCATOR.state.load(Ordering::Relaxed) == 0);
            assert_eq!(std::slice::from_raw_parts(outside, 4), [7; 4]);
            ALLOCATOR.dealloc(outside, Layout::from_size_align(2000, 4).expect("a layout"));
        }
    }
}
