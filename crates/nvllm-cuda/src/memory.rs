//! Device memory and pinned host memory, owned.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::device::Device;
use crate::error::{CudaError, Doing, Result};

/// An address in device memory.
pub(crate) type Address = sys::CUdeviceptr;

/// One allocation in device memory.
pub(crate) struct Buffer {
    device: Arc<Device>,
    address: Address,
    len: usize,
}

impl Buffer {
    /// `len` bytes, uninitialised; an empty one holds no memory.
    pub(crate) fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        device.bind()?;
        let mut address = 0;
        if len > 0 {
            // SAFETY: the memory is freed once, in `drop`.
            let allocated = unsafe { result::malloc_sync(len) };
            address = match allocated {
                Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                    return Err(CudaError::OutOfMemory { asked: len, free: device.free_bytes()? });
                }
                allocated => allocated.doing("allocating GPU memory")?,
            };
        }
        Ok(Self { device: Arc::clone(device), address, len })
    }

    /// `len` zeroed bytes.
    pub(crate) fn zeroed(device: &Arc<Device>, len: usize) -> Result<Self> {
        let buffer = Self::new(device, len)?;
        buffer.clear(0, len)?;
        Ok(buffer)
    }

    /// A copy of `bytes`.
    pub(crate) fn of(device: &Arc<Device>, bytes: &[u8]) -> Result<Self> {
        let buffer = Self::new(device, bytes.len())?;
        buffer.write(0, bytes)?;
        Ok(buffer)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `offset`.
    pub(crate) fn at(&self, offset: usize) -> Address {
        debug_assert!(offset <= self.len);
        self.address + offset as Address
    }

    /// Zeroes `len` bytes from `offset`, in stream order.
    pub(crate) fn clear(&self, offset: usize, len: usize) -> Result<()> {
        assert!(offset + len <= self.len, "inside the buffer");
        if len == 0 {
            return Ok(());
        }
        // SAFETY: inside the allocation.
        unsafe { result::memset_d8_async(self.at(offset), 0, len, self.device.stream.cu_stream()) }
            .doing("clearing GPU memory")
    }

    /// Copies `bytes` to `offset`, in stream order. They may be dropped or changed on return.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.start_write(&self.device.stream, offset, bytes)?;
        // The driver may still read from pageable memory; a caller that must not wait uses pinned memory.
        self.device.stream.synchronize().doing("waiting for the GPU")
    }

    /// As [`write`](Self::write); nothing to write costs nothing.
    pub(crate) fn write_some(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.write(offset, bytes) }
    }

    /// Starts a copy to `offset` on `stream`; `bytes` must stay as they are until it is done.
    pub(crate) fn start_write(&self, stream: &CudaStream, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= self.len, "inside the buffer");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the allocation.
        unsafe { result::memcpy_htod_async(self.at(offset), bytes, stream.cu_stream()) }
            .doing("copying to the GPU")
    }

    /// Copies `out.len()` bytes from `offset` to the host in the order of `stream`, and waits for it.
    pub(crate) fn read(&self, stream: &CudaStream, offset: usize, out: &mut [u8]) -> Result<()> {
        self.start_read(stream, offset, out)?;
        stream.synchronize().doing("waiting for a copy from the GPU")
    }

    /// Starts a copy to the host on `stream`; `out` holds it when the stream has come so far.
    pub(crate) fn start_read(&self, stream: &CudaStream, offset: usize, out: &mut [u8]) -> Result<()> {
        assert!(offset + out.len() <= self.len, "inside the buffer");
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the allocation.
        unsafe { result::memcpy_dtoh_async(out, self.at(offset), stream.cu_stream()) }
            .doing("copying from the GPU")
    }

    /// Copies `len` bytes of `from` at `start` to `offset`, in stream order.
    pub(crate) fn copy(&self, offset: usize, from: &Self, start: usize, len: usize) -> Result<()> {
        assert!(offset + len <= self.len && start + len <= from.len, "inside the buffers");
        if len == 0 {
            return Ok(());
        }
        // SAFETY: inside the allocations.
        unsafe {
            result::memcpy_dtod_async(self.at(offset), from.at(start), len, self.device.stream.cu_stream())
        }
        .doing("copying on the GPU")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        // Freeing waits for whatever still uses the memory. A failure here has been reported by the call that caused it.
        let _ = self.device.bind();
        // SAFETY: allocated in `new`, freed once.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Page-locked host memory: copies from and to it run beside the host.
pub(crate) struct Pinned {
    context: Arc<CudaContext>,
    bytes: *mut u8,
    len: usize,
}

impl Pinned {
    /// `len` zeroed bytes.
    pub(crate) fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        device.bind()?;
        let len = len.max(1);
        // SAFETY: freed once, in `drop`; zeroed before anything reads it.
        let bytes = unsafe { result::malloc_host(len, 0) }.doing("pinning host memory")?.cast::<u8>();
        // SAFETY: `len` bytes were just allocated.
        unsafe { bytes.write_bytes(0, len) };
        Ok(Self { context: Arc::clone(&device.context), bytes, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised in `new`; the caller has waited for copies into it.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated in `new`, freed once.
        let _ = unsafe { result::free_host(self.bytes.cast()) };
    }
}
