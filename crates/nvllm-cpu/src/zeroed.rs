//! Zeroed memory that costs nothing until it is touched, and whose absence is an error.

use std::alloc::{Layout, alloc_zeroed};

use nvllm_core::{CoreError, Result};

/// `len` zeroed bytes for `what`. The system provides pages when they are first touched.
///
/// Errors if it has not so many: `vec![0; len]` would end the process.
#[expect(clippy::same_length_and_capacity, reason = "that is what was allocated")]
pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Vec<u8>> {
    let lacking = || CoreError::OutOfMemory { bytes: len, what };
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<u8>(len).map_err(|_| lacking())?;
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(lacking());
    }
    // SAFETY: allocated just now by the global allocator as `len` bytes, all of them initialised.
    Ok(unsafe { Vec::from_raw_parts(start, len, len) })
}

/// As [`zeroed`], for what is read from end to end again and again: in huge pages where the system
/// has them, so that fewer addresses have to be translated.
pub(crate) fn zeroed_in_huge_pages(len: usize, what: &'static str) -> Result<Vec<u8>> {
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "advice is given on Linux only"))]
    let mut bytes = zeroed(len, what)?;
    #[cfg(target_os = "linux")]
    {
        /// Of x86-64 and of most others; smaller vectors would gain nothing.
        const HUGE: usize = 2 << 20;
        let skip = bytes.as_ptr().align_offset(HUGE);
        if let Some(inner) = bytes.get_mut(skip..) {
            // SAFETY: advice about memory that the vector owns; it changes no byte, and that it may
            // be refused does no harm.
            unsafe {
                libc::madvise(inner.as_mut_ptr().cast(), inner.len() / HUGE * HUGE, libc::MADV_HUGEPAGE)
            };
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{zeroed, zeroed_in_huge_pages};

    #[test]
    fn huge_pages_are_zeroed_bytes() {
        for len in [0, 5, 9 << 20] {
            assert!(zeroed_in_huge_pages(len, "a test").unwrap().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn absent_memory_is_an_error() {
        assert_eq!(zeroed(5, "a test").unwrap(), [0; 5]);
        assert!(zeroed(0, "a test").unwrap().is_empty());
        for len in [usize::MAX, isize::MAX as usize, isize::MAX as usize - 4096] {
            let text = zeroed(len, "the KV cache").unwrap_err().to_string();
            assert!(text.contains("for the KV cache"), "{text}");
        }
    }
}
