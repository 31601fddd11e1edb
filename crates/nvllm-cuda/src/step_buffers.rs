//! The buffers that each step in flight has of its own, and in which order steps, copies and the
//! host follow each other.
//!
//! There are two streams. Steps follow each other on the compute stream; uploads go on the copy
//! stream. Kernels read a step's inputs at fixed addresses, because graphs hold addresses; each
//! step in flight has its own copy on the device. Results go straight to host memory that each step
//! in flight has of its own: its address comes with the inputs.
//!
//! ```text
//! copies    .. upload inputs k+1                               upload inputs k+2
//! compute   [ step k ][spread inputs ][ step k+1        ][spread inputs ][ step k+2 ..
//! host      submit k+1    collect k  ..waits..  submit k+2    collect k+1
//! ```
//!
//! 1. Submit: the host packs the inputs in pinned memory, and the copy stream uploads them:
//!    `arrived`.
//! 2. The compute stream waits for `arrived`, is then at `began`, spreads the bytes to where
//!    kernels read, and computes. It works in order, so that the inputs of a step are not
//!    overwritten before the step is done.
//! 3. The last kernels of the step write the results to `results`, some bytes a row: `computed`. A
//!    kernel that has ended has its writes in host memory.
//! 4. Collect: the host waits for `computed` and reads.
//!
//! Buffers serve their next step only after their last one was collected: nothing writes results
//! that the host still reads, the upload is done, and waiting for it before its memory is written
//! again costs nothing. Steps without results are waited for all the same.
//!
//! What looks at the device outside of steps (KV blocks, kept values, slots) does so on the compute
//! stream, behind every step that was submitted. Rows of logits lie in memory of their own,
//! complete when their step is collected, and are read on the copy stream.

use std::sync::Arc;

use cudarc::driver::CudaEvent;
use nvllm_core::StepSpan;

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::mapped::Mapped;
use crate::memory::{Address, Buffer, Pinned};
use crate::step_clock::{StepClock, TIMED};

/// The buffers of one step in flight: free again when the step has been collected.
pub(crate) struct StepBuffers {
    /// Where the host packs the inputs.
    packed: Pinned,
    inputs: Buffer,
    /// Where kernels leave the results.
    results: Mapped,
    /// The compute stream has the inputs and starts on the step.
    began: CudaEvent,
    /// The compute stream has completed `results`.
    computed: CudaEvent,
}

impl StepBuffers {
    pub(crate) fn new(device: &Arc<Device>, input_bytes: usize, result_bytes: usize) -> Result<Self> {
        let flags = TIMED.filter(|_| device.check_timing().is_ok());
        let event = || device.context.new_event(flags).doing("making an event");
        Ok(Self {
            packed: Pinned::new(device, input_bytes)?,
            inputs: Buffer::new(device, input_bytes)?,
            results: Mapped::new(device, result_bytes)?,
            began: event()?,
            computed: event()?,
        })
    }

    /// Bytes of device memory.
    pub(crate) fn bytes(&self) -> usize {
        self.inputs.len()
    }

    /// Where the host packs a step's inputs.
    pub(crate) fn staging(&mut self) -> Result<&mut [u8]> {
        self.packed.bytes_mut()
    }

    /// Uploads the first `len` bytes of the inputs; what the compute stream does next follows their
    /// arrival.
    pub(crate) fn upload(&mut self, device: &Device, len: usize) -> Result<&Buffer> {
        let arrived = self.packed.upload(&device.copies, std::iter::once(0..len), &self.inputs)?;
        device.stream.wait(arrived).doing("ordering two streams")?;
        self.began.record(&device.stream).doing("recording an event")?;
        Ok(&self.inputs)
    }

    /// Where kernels leave a step's results.
    pub(crate) fn results_at(&self) -> Address {
        self.results.at(0)
    }

    /// Marks the end of a step: the compute stream has been given all of it.
    pub(crate) fn complete(&self, device: &Device) -> Result<()> {
        self.computed.record(&device.stream).doing("recording an event")
    }

    /// Waits for the step.
    pub(crate) fn wait(&self) -> Result<()> {
        self.computed.synchronize().doing("waiting for a step")
    }

    /// When the device worked on the step, which was [waited for](Self::wait).
    pub(crate) fn span(&mut self, clock: &mut StepClock) -> Result<StepSpan> {
        clock.span(&self.began, &mut self.computed)
    }

    /// The results.
    ///
    /// # Safety
    /// The step was [waited for](Self::wait), and no other starts with these buffers as long as
    /// they are borrowed.
    pub(crate) unsafe fn results(&self) -> &[u8] {
        // SAFETY: only kernels of a step with these buffers write here.
        unsafe { self.results.bytes() }
    }
}
