//! The memory of all values between ops: allocated once, placed by the memory plan.

use std::cell::UnsafeCell;

/// One cache line: the alignment of every value.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// One allocation, read and written in places that the plan keeps apart.
pub(super) struct Arena(Vec<UnsafeCell<Line>>);

impl Arena {
    /// `len` zeroed bytes.
    pub(super) fn new(len: usize) -> Self {
        Self((0..len.div_ceil(64)).map(|_| UnsafeCell::new(Line([0; 64]))).collect())
    }

    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.0.len() * 64
    }

    /// The bytes at a place.
    pub(super) fn read(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len(), "the plan's places lie inside the arena");
        // SAFETY: inside the allocation. Nobody writes here while the slice lives: see `write`.
        unsafe {
            std::slice::from_raw_parts(UnsafeCell::raw_get(self.0.as_ptr()).cast::<u8>().add(offset), len)
        }
    }

    /// The bytes at a place, to write.
    ///
    /// # Safety
    /// While the slice lives, no other slice of the arena overlaps it: an op's outputs overlap neither its inputs nor each
    /// other, because the memory plan gives no two values that live at the same node the same bytes.
    #[allow(clippy::mut_from_ref, reason = "one allocation holds the inputs and the outputs of an op")]
    pub(super) unsafe fn write(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len(), "the plan's places lie inside the arena");
        // SAFETY: inside the allocation, in cells; exclusive by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(UnsafeCell::raw_get(self.0.as_ptr()).cast::<u8>().add(offset), len)
        }
    }
}
