//! The inputs of a step: uploaded as packed bytes, then spread to the fixed places from which
//! kernels read.
//!
//! Kernels take their extents from the counts, or run the rows of padding up to the bucket as well.

use std::sync::Arc;

use nvllm_core::device::{PackedStep, StepLayout};
use nvllm_core::{KvGeometry, Limits, RowsOf, SlotId};

use crate::device::Device;
use crate::error::Result;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::memory::{Address, Buffer};
use crate::modules::{Function, Modules};
use crate::slots::REQUEST_LIMITS;

/// The layout of steps under `limits`.
pub(crate) fn layout(limits: &Limits, kv: &[KvGeometry]) -> StepLayout {
    StepLayout::new(limits, kv, REQUEST_LIMITS)
}

/// The inputs of the step that runs.
pub(crate) struct Inputs {
    pub layout: StepLayout,
    buffer: Buffer,
    /// Tokens of all rows, those from slots resolved.
    pub tokens: Buffer,
    spread: Function,
}

impl Inputs {
    pub(crate) fn new(
        device: &Arc<Device>,
        modules: &Modules,
        limits: &Limits,
        kv: &[KvGeometry],
    ) -> Result<Self> {
        let layout = layout(limits, kv);
        Ok(Self {
            buffer: Buffer::zeroed(device, layout.len)?,
            tokens: Buffer::zeroed(device, limits.step_tokens * 4)?,
            spread: modules.function("step_spread")?,
            layout,
        })
    }

    /// Bytes that [`new`](Self::new) takes.
    pub(crate) fn bytes_for(limits: &Limits, kv: &[KvGeometry]) -> usize {
        layout(limits, kv).len.saturating_add(limits.step_tokens * 4)
    }

    pub(crate) fn at(&self, offset: usize) -> Address {
        self.buffer.at(offset)
    }

    /// A slot's biases and stop tokens.
    pub(crate) fn lists(&self, slot: SlotId) -> [Address; 2] {
        let StepLayout { biases, max_biases, stops, max_stops, .. } = self.layout;
        [self.at(biases + slot.index() * max_biases * 8), self.at(stops + slot.index() * max_stops * 4)]
    }

    pub(crate) fn count(&self, of: RowsOf) -> Address {
        self.buffer.at(StepLayout::count(of))
    }

    /// Sets the counts of tokens, outputs and sequences, and waits: for measurements at load.
    pub(crate) fn write_counts(&self, counts: [i32; 3]) -> Result<()> {
        self.buffer.write(0, bytemuck::cast_slice(&counts))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len() + self.tokens.len()
    }

    /// Copies a step's parts from `packed` to their places, in stream order.
    pub(crate) fn spread(&self, device: &Device, step: &PackedStep, packed: &Buffer) -> Result<()> {
        let args = Args::new().ptr(packed.at(0)).ptr(packed.at(step.copies_at)).ptr(self.buffer.at(0));
        Launch::new(&self.spread, Dim::Fixed(step.num_copies), args).run(device, Extents::NONE)
    }
}
