//! What each step in flight has of its own, and in which order steps, copies and the host follow
//! each other.
//!
//! There are two streams. On the compute stream steps follow each other; on the copy stream goes
//! what crosses the bus. Kernels read a step's inputs and leave its results at fixed places,
//! because graphs hold addresses; a lane has its own copy of both on the device:
//!
//! ```text
//! copies    .. inputs k+1 to lane       results k to host     inputs k+2 to lane
//! compute   [ step k ][lane to inputs][ step k+1        ][lane to inputs][ step k+2 ..
//! host      submit k+1    collect k  ..waits..  submit k+2    collect k+1
//! ```
//!
//! 1. Submit: the host packs the inputs in pinned memory, and the copy stream brings them into the
//!    lane: `arrived`.
//! 2. The compute stream waits for `arrived`, is then at `began`, spreads the lane's bytes to where kernels read, and
//!    computes. It works in order, so that what the step before reads is not written before it is
//!    done.
//! 3. At the end of the step it copies the results into the lane: `computed`. The next step may
//!    then leave its own.
//! 4. Collect: the copy stream waits for `computed` and brings the lane's results to pinned memory,
//!    and the host waits for that.
//!
//! Results are asked for by collect and not by submit because the copy stream works in order too:
//! there, waiting for step k would hold the inputs of step k+1 back until step k is done. A lane
//! serves its next step only after its last one was collected: then both of its copies are done,
//! and waiting for the upload before its memory is written again costs nothing. Steps without
//! results are waited for all the same.
//!
//! What looks at the device outside of steps (KV blocks, kept values, slots) does so on the compute
//! stream, behind every step that was submitted. Rows of logits lie in memory of their own,
//! finished when their step is collected, and are read on the copy stream.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;
use nvllm_core::StepSpan;

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::memory::{Buffer, Pinned};
use crate::step_clock::{StepClock, TIMED};

/// What one step in flight uses: free again when the step has been collected.
pub(crate) struct Lane {
    staging: Pinned,
    inputs: Buffer,
    results: Buffer,
    /// The compute stream has the inputs and starts on the step.
    began: CudaEvent,
    computed: CudaEvent,
    fetched: Pinned,
}

impl Lane {
    pub(crate) fn new(device: &Arc<Device>, input_bytes: usize, result_bytes: usize) -> Result<Self> {
        let flags = TIMED.filter(|_| device.check_timing().is_ok());
        let event = || device.context.new_event(flags).doing("making an event");
        Ok(Self {
            staging: Pinned::new(device, input_bytes)?,
            inputs: Buffer::new(device, input_bytes)?,
            results: Buffer::new(device, result_bytes)?,
            began: event()?,
            computed: event()?,
            fetched: Pinned::new(device, result_bytes)?,
        })
    }

    /// Bytes of device memory.
    pub(crate) fn bytes(&self) -> usize {
        self.inputs.len() + self.results.len()
    }

    /// Where the host packs a step's inputs.
    pub(crate) fn staging(&mut self) -> Result<&mut [u8]> {
        self.staging.bytes_mut()
    }

    /// Uploads the first `len` bytes of the inputs; what the compute stream does next follows their
    /// arrival.
    pub(crate) fn upload(&mut self, device: &Device, len: usize) -> Result<&Buffer> {
        let arrived = self.staging.upload(&device.copies, std::iter::once(0..len), &self.inputs)?;
        device.stream.wait(arrived).doing("ordering two streams")?;
        self.began.record(&device.stream).doing("recording an event")?;
        Ok(&self.inputs)
    }

    /// Keeps `ranges` of a step's `results`: the last that the compute stream does for it.
    pub(crate) fn keep(&self, device: &Device, ranges: &[Range<usize>], results: &Buffer) -> Result<()> {
        for range in ranges {
            self.results.copy(range.start, results, range.start, range.len())?;
        }
        self.computed.record(&device.stream).doing("recording an event")
    }

    /// Waits for the step and brings `ranges` of what was kept to the host, at the same places.
    pub(crate) fn fetch(&mut self, device: &Device, ranges: &[Range<usize>]) -> Result<()> {
        device.copies.wait(&self.computed).doing("ordering two streams")?;
        self.fetched.download(&device.copies, ranges, &self.results)
    }

    /// When the device worked on the step that was [fetched](Self::fetch).
    pub(crate) fn span(&mut self, clock: &mut StepClock) -> Result<StepSpan> {
        clock.span(&self.began, &mut self.computed)
    }

    /// What was fetched.
    pub(crate) fn fetched(&self) -> &[u8] {
        self.fetched.bytes()
    }
}
