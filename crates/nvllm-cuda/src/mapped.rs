//! Page-locked host memory that kernels read and write over the bus.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::memory::Address;

/// One allocation. What a kernel wrote is there for the host once the kernel has ended, and what
/// the host wrote is there for kernels that are launched afterwards.
pub(crate) struct Mapped {
    device: Arc<Device>,
    bytes: *mut u8,
    address: Address,
    len: usize,
}

impl Mapped {
    /// `len` zeroed bytes.
    pub(crate) fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        device.bind()?;
        let len = len.max(1);
        // SAFETY: freed once, in `drop`; zeroed before anything reads it.
        let allocated = unsafe { result::malloc_host(len, sys::CU_MEMHOSTALLOC_DEVICEMAP) };
        let bytes = allocated.doing("pinning host memory")?.cast::<u8>();
        let mut mapped = Self { device: Arc::clone(device), bytes, address: 0, len };
        // SAFETY: `len` bytes were just allocated, to be mapped.
        unsafe {
            bytes.write_bytes(0, len);
            sys::cuMemHostGetDevicePointer_v2(&raw mut mapped.address, bytes.cast(), 0)
        }
        .result()
        .doing("mapping host memory")?;
        Ok(mapped)
    }

    /// Where kernels find byte `offset`.
    pub(crate) fn at(&self, offset: usize) -> Address {
        debug_assert!(offset <= self.len);
        self.address + offset as Address
    }

    /// The bytes.
    ///
    /// # Safety
    /// No kernel writes them as long as they are borrowed.
    pub(crate) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised in `new`; the caller sees to kernels.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    /// The bytes, to be written.
    ///
    /// # Safety
    /// No kernel reads or writes them as long as they are borrowed.
    pub(crate) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // A kernel may still use it; what fails here has failed before.
        let _ = self.device.bind();
        let _ = self.device.synchronize();
        // SAFETY: allocated in `new`, freed once; no kernel uses it.
        let _ = unsafe { result::free_host(self.bytes.cast()) };
    }
}
