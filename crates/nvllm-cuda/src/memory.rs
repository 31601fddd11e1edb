//! Device memory and pinned host memory, owned.
//!
//! A copy runs on after the call that starts it. No safe function leaves one that reads or writes
//! borrowed host memory: [`Buffer`] waits, on every way out, and [`Pinned`] owns what an upload
//! still reads and waits before it is changed or freed.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};

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

    /// Copies `bytes` to `offset`, in stream order, and waits for it.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.write_all([(offset, bytes)])
    }

    /// Copies each of `parts` to its offset, in stream order, and waits once for all.
    pub(crate) fn write_all<'a>(&self, parts: impl IntoIterator<Item = (usize, &'a [u8])>) -> Result<()> {
        let copies = Started(&self.device.stream);
        for (offset, bytes) in parts {
            // SAFETY: `copies` waits before the borrow of `bytes` ends.
            unsafe { self.start_write(copies.0, offset, bytes) }?;
        }
        copies.wait()
    }

    /// Copies `out.len()` bytes from `offset` to the host in the order of `stream`, and waits for
    /// it.
    pub(crate) fn read(&self, stream: &CudaStream, offset: usize, out: &mut [u8]) -> Result<()> {
        self.read_all(stream, [(offset, out)])
    }

    /// Copies what is at each offset to its part in the order of `stream`, and waits once for all.
    pub(crate) fn read_all<'a>(
        &self,
        stream: &CudaStream,
        parts: impl IntoIterator<Item = (usize, &'a mut [u8])>,
    ) -> Result<()> {
        let copies = Started(stream);
        for (offset, out) in parts {
            // SAFETY: `copies` waits before the borrow of `out` ends.
            unsafe { self.start_read(copies.0, offset, out) }?;
        }
        copies.wait()
    }

    /// Starts a copy to `offset` on `stream`.
    ///
    /// # Safety
    /// `bytes` stay allocated and as they are until `stream` has done it.
    unsafe fn start_write(&self, stream: &CudaStream, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= self.len, "inside the buffer");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the allocation; the caller keeps `bytes`.
        unsafe { result::memcpy_htod_async(self.at(offset), bytes, stream.cu_stream()) }
            .doing("copying to the GPU")
    }

    /// Starts a copy to the host on `stream`.
    ///
    /// # Safety
    /// `out` stays allocated and untouched until `stream` has done it.
    unsafe fn start_read(&self, stream: &CudaStream, offset: usize, out: &mut [u8]) -> Result<()> {
        assert!(offset + out.len() <= self.len, "inside the buffer");
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the allocation; the caller keeps `out`.
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
        // Freeing waits for whatever still uses the memory. A failure here has been reported by the
        // call that caused it.
        let _ = self.device.bind();
        // SAFETY: allocated in `new`, freed once.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Copies that were started on a stream: an error or a panic between them waits for those before it
/// too.
struct Started<'a>(&'a CudaStream);

impl Started<'_> {
    fn wait(self) -> Result<()> {
        let stream = self.0;
        // `drop` would wait a second time.
        std::mem::forget(self);
        stream.synchronize().doing("waiting for a copy")
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // The error that is being returned says more.
        let _ = self.0.synchronize();
    }
}

/// Page-locked host memory: copies from it run beside the host.
pub(crate) struct Pinned {
    device: Arc<Device>,
    bytes: *mut u8,
    len: usize,
    /// The last upload is done.
    uploaded: CudaEvent,
}

impl Pinned {
    /// `len` zeroed bytes.
    pub(crate) fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        device.bind()?;
        let len = len.max(1);
        let uploaded = device.context.new_event(None).doing("making an event")?;
        // SAFETY: freed once, in `drop`; zeroed before anything reads it.
        let bytes = unsafe { result::malloc_host(len, 0) }.doing("pinning host memory")?.cast::<u8>();
        // SAFETY: `len` bytes were just allocated.
        unsafe { bytes.write_bytes(0, len) };
        Ok(Self { device: Arc::clone(device), bytes, len, uploaded })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised in `new`; nothing but the host writes it.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    /// The bytes, when no upload reads them any more.
    pub(crate) fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.uploaded.synchronize().doing("waiting for a copy to the GPU")?;
        // SAFETY: as in `bytes`; the borrow is exclusive, and nothing is copied from it.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) })
    }

    /// Starts copies of `ranges` to the same places in `to` on `stream`; the event says when they
    /// are done.
    pub(crate) fn upload(
        &mut self,
        stream: &CudaStream,
        ranges: impl IntoIterator<Item = Range<usize>>,
        to: &Buffer,
    ) -> Result<&CudaEvent> {
        let copies = Started(stream);
        for range in ranges {
            // SAFETY: nothing changes or frees the bytes before `uploaded`, or `copies` waits.
            unsafe { to.start_write(stream, range.start, &self.bytes()[range]) }?;
        }
        self.uploaded.record(stream).doing("recording an event")?;
        std::mem::forget(copies);
        Ok(&self.uploaded)
    }

    /// Starts a copy of the first `len` bytes to `offset` in `to` on `stream`.
    pub(crate) fn upload_to(
        &mut self,
        stream: &CudaStream,
        len: usize,
        to: &Buffer,
        offset: usize,
    ) -> Result<()> {
        let copies = Started(stream);
        // SAFETY: nothing changes or frees the bytes before `uploaded`, or `copies` waits.
        unsafe { to.start_write(stream, offset, &self.bytes()[..len]) }?;
        self.uploaded.record(stream).doing("recording an event")?;
        std::mem::forget(copies);
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.device.bind();
        let _ = self.uploaded.synchronize();
        // SAFETY: allocated in `new`, freed once; no upload reads it.
        let _ = unsafe { result::free_host(self.bytes.cast()) };
    }
}
