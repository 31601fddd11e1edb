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

#[cfg(test)]
mod tests {
    use super::zeroed;

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
