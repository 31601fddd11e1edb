//! The buffers that each step in flight has of its own, and in which order steps, copies and the
//! host follow each other.
//!
//! There are two streams. Steps follow each other on the compute stream; uploads and downloads go
//! on the copy stream. Kernels read a step's inputs and leave its results at fixed addresses,
//! because graphs hold addresses; each step in flight has its own copy of both on the device:
//!
//! ```text
//! copies    .. upload inputs k+1        download results k    upload inputs k+2
//! compute   [ step k ][spread inputs ][ step k+1        ][spread inputs ][ step k+2 ..
//! host      submit k+1    collect k  ..waits..  submit k+2    collect k+1
//! ```
//!
//! 1. Submit: the host packs the inputs in pinned memory, and the copy stream uploads them:
//!    `arrived`.
//! 2. The compute stream waits for `arrived`, is then at `began`, spreads the bytes to where
//!    kernels read, and computes. It works in order, so that the inputs of a step are not
//!    overwritten before the step is done.
//! 3. At the end of the step it copies the results into the step's buffers: `computed`. The next
//!    step may then write its own.
//! 4. Collect: the copy stream waits for `computed` and downloads the results to pinned memory, and
//!    the host waits for that.
//!
//! The download is enqueued in collect: enqueued in submit, it would make the in-order copy stream
//! wait for step k and delay the upload for step k+1. Buffers serve their next step only after
//! their last one was collected: then both of its copies are done, and waiting for the upload
//! before its memory is written again costs nothing. Steps without results are waited for all the
//! same.
//!
//! What looks at the device outside of steps (KV blocks, kept values, slots) does so on the compute
//! stream, behind every step that was submitted. Rows of logits lie in memory of their own,
//! complete when their step is collected, and are read on the copy stream.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;
use nvllm_core::StepSpan;

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::memory::{Buffer, Pinned};
use crate::step_clock::{StepClock, TIMED};

/// The buffers of one step in flight: free again when the step has been collected.
pub(crate) struct StepBuffers {
    /// Where the host packs the inputs.
    packed: Pinned,
    inputs: Buffer,
    results: Buffer,
    /// The compute stream has the inputs and starts on the step.
    began: CudaEvent,
    /// The compute stream has completed `results`.
    computed: CudaEvent,
    /// Where the download leaves the results.
    on_host: Pinned,
}

impl StepBuffers {
    pub(crate) fn new(device: &Arc<Device>, input_bytes: usize, result_bytes: usize) -> Result<Self> {
        let flags = TIMED.filter(|_| device.check_timing().is_ok());
        let event = || device.context.new_event(flags).doing("making an event");
        Ok(Self {
            packed: Pinned::new(device, input_bytes)?,
            inputs: Buffer::new(device, input_bytes)?,
            results: Buffer::new(device, result_bytes)?,
            began: event()?,
            computed: event()?,
            on_host: Pinned::new(device, result_bytes)?,
        })
    }

    /// Bytes of device memory.
    pub(crate) fn bytes(&self) -> usize {
        self.inputs.len() + self.results.len()
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

    /// Copies `ranges` of a step's `results` to these buffers, on the device: the last that the
    /// compute stream does for the step.
    pub(crate) fn stage_results(
        &self,
        device: &Device,
        ranges: &[Range<usize>],
        results: &Buffer,
    ) -> Result<()> {
        for range in ranges {
            self.results.copy(range.start, results, range.start, range.len())?;
        }
        self.computed.record(&device.stream).doing("recording an event")
    }

    /// Waits for the step and downloads `ranges` of its staged results, to the same offsets.
    pub(crate) fn download_results(&mut self, device: &Device, ranges: &[Range<usize>]) -> Result<()> {
        device.copies.wait(&self.computed).doing("ordering two streams")?;
        self.on_host.download(&device.copies, ranges, &self.results)
    }

    /// When the device worked on the step whose results were [downloaded](Self::download_results).
    pub(crate) fn span(&mut self, clock: &mut StepClock) -> Result<StepSpan> {
        clock.span(&self.began, &mut self.computed)
    }

    /// The results, as far as they were downloaded.
    pub(crate) fn results_on_host(&self) -> &[u8] {
        self.on_host.bytes()
    }
}
