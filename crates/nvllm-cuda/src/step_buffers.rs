//! The buffers that each step in flight has of its own, and in which order steps and the host
//! follow each other.
//!
//! Steps follow each other on the compute stream. Kernels read a step's inputs at fixed addresses,
//! because graphs hold addresses: a step's first kernel copies them there from host memory that
//! each step in flight has of its own. Its results go straight to such memory too, at an address
//! that comes with the inputs.
//!
//! ```text
//! compute   [ step k           ][ step k+1           ][ step k+2 ..
//! host      submit k+1    collect k, submit k+2    collect k+1
//! ```
//!
//! 1. Submit: the host packs the inputs in `packed`. The compute stream is at `began`; the first
//!    kernel reads them (kernels/step/begin.cu). It works in order, so that the inputs of a step
//!    are not overwritten before the step is done.
//! 2. The last kernels of the step write the results to `results`, some bytes a row: `computed`. A
//!    kernel that has ended has its writes in host memory.
//! 3. Collect: the host waits for `computed` and reads.
//!
//! Buffers serve their next step only after their last one was collected: neither is written while
//! it is read, and waiting for `computed` before `packed` is written again costs nothing. Steps
//! without results are waited for all the same.
//!
//! No copy engine uploads inputs ahead, whatever their size: for some kilobytes the host would
//! start a copy, and the compute stream wait for another one, in every step. What a step reads over
//! the bus is little beside its work: 20 bytes a token, 32 a row of output and 4 a block of KV
//! cache, where a token costs a model of half a billion weights a billion operations, and a block
//! is a megabyte of keys and values.
//!
//! What looks at the device outside of steps (KV blocks, kept values, slots) does so on the compute
//! stream, behind every step that was submitted. Rows of logits lie in memory of their own,
//! complete when their step is collected, and are read on the copy stream. So that masks arrive
//! while the forward pass runs, they are uploaded on the copy stream as well (`sampler.rs`).

use std::sync::Arc;

use cudarc::driver::CudaEvent;
use nvllm_core::StepSpan;

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::mapped::Mapped;
use crate::memory::Address;
use crate::step_clock::{StepClock, TIMED};

/// The buffers of one step in flight: free again when the step has been collected.
pub(crate) struct StepBuffers {
    /// Where the host packs the inputs.
    packed: Mapped,
    /// Where kernels leave the results.
    results: Mapped,
    /// The compute stream starts on the step.
    began: CudaEvent,
    /// The compute stream has done with both.
    computed: CudaEvent,
}

impl StepBuffers {
    pub(crate) fn new(device: &Arc<Device>, input_bytes: usize, result_bytes: usize) -> Result<Self> {
        let flags = TIMED.filter(|_| device.check_timing().is_ok());
        let event = || device.context.new_event(flags).doing("making an event");
        Ok(Self {
            packed: Mapped::new(device, input_bytes)?,
            results: Mapped::new(device, result_bytes)?,
            began: event()?,
            computed: event()?,
        })
    }

    /// Where the host packs a step's inputs.
    pub(crate) fn staging(&mut self) -> Result<&mut [u8]> {
        self.wait()?;
        // SAFETY: the last step with these buffers is done; the next one starts after the borrow.
        Ok(unsafe { self.packed.bytes_mut() })
    }

    /// Where kernels find what the host packed.
    pub(crate) fn packed_at(&self) -> Address {
        self.packed.at(0)
    }

    /// Marks where the compute stream starts on the step.
    pub(crate) fn start(&self, device: &Device) -> Result<()> {
        self.began.record(&device.stream).doing("recording an event")
    }

    /// Where kernels leave a step's results.
    pub(crate) fn results_at(&self) -> Address {
        self.results.at(0)
    }

    /// Marks the end of the step: the compute stream has been given all that uses these buffers.
    pub(crate) fn complete(&self, device: &Device) -> Result<()> {
        self.computed.record(&device.stream).doing("recording an event")
    }

    /// Waits for the last step with these buffers.
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
