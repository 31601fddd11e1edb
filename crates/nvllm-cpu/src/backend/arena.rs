//! The memory of all values between ops: allocated once, placed by the memory plan.

use std::cell::UnsafeCell;

use nvllm_core::Result;

use crate::zeroed::zeroed;

/// One cache line: the alignment of every value.
const LINE: usize = 64;

/// One allocation, read and written in places that the plan keeps apart.
pub(super) struct Arena {
    bytes: Box<[UnsafeCell<u8>]>,
    /// Where the first line begins.
    start: usize,
    len: usize,
}

impl Arena {
    /// `len` zeroed bytes. What a step never reaches is never touched, so a plan for large steps
    /// costs small ones nothing.
    ///
    /// Errors if the system has not so many.
    pub(super) fn new(len: usize) -> Result<Self> {
        // Aligned here: an allocator that is asked for zeroed lines may write every byte to clear
        // them.
        let bytes = zeroed(len.saturating_add(LINE), "the values between ops")?.into_boxed_slice();
        // SAFETY: a cell has the layout of what it holds, and the box is the only owner.
        let bytes = unsafe { Box::from_raw(Box::into_raw(bytes) as *mut [UnsafeCell<u8>]) };
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Ok(Self { bytes, start, len })
    }

    /// Bytes held for values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of a place.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "the plan's places lie inside the arena");
        UnsafeCell::raw_get(self.bytes[self.start + offset..].as_ptr())
    }

    /// The bytes at a place.
    pub(super) fn read(&self, offset: usize, len: usize) -> &[u8] {
        // SAFETY: inside the allocation. Nobody writes here while the slice lives: see `write`.
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }

    /// The bytes at a place, to write.
    ///
    /// # Safety
    /// While the slice lives, no other slice of the arena overlaps it: an op's outputs overlap
    /// neither its inputs nor each other, because the memory plan gives no two values that live at
    /// the same node the same bytes.
    #[allow(clippy::mut_from_ref, reason = "one allocation holds the inputs and the outputs of an op")]
    pub(super) unsafe fn write(&self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: inside the allocation, in cells; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, LINE};

    #[test]
    fn places_are_zeroed_lines_that_keep_what_is_written() {
        let arena = Arena::new(4 * LINE).unwrap();
        assert_eq!(arena.len(), 4 * LINE);
        assert!(arena.read(LINE, 8).as_ptr().addr().is_multiple_of(LINE));
        assert_eq!(arena.read(0, 4 * LINE), [0; 4 * LINE]);
        // SAFETY: no other slice of the arena is alive.
        unsafe { arena.write(3 * LINE, LINE) }.fill(7);
        assert_eq!((arena.read(3 * LINE, LINE), arena.read(0, LINE)), (&[7; LINE][..], &[0; LINE][..]));
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        assert!(Arena::new(usize::MAX).is_err());
        assert!(Arena::new(isize::MAX as usize - LINE).is_err());
    }

    #[test]
    #[should_panic(expected = "inside the arena")]
    fn a_place_past_the_end_is_refused() {
        Arena::new(LINE).unwrap().read(usize::MAX, 2);
    }
}
