//! What the device keeps of each sequence beside the KV cache: its last token and how it is
//! sampled.
//!
//! Lengths and positions are mirrored on the host (`nvllm_core::host::Slots`), which knows them
//! exactly. Only the sampled token, and what counts it, are known to the device alone.

use nvllm_core::device::DeviceSlot;
use nvllm_core::{Limits, SlotReset, Step};
use wgpu::{Buffer, CommandEncoder};

use crate::error::Result;
use crate::gpu::{Gpu, Part, padded};
use crate::lower::{Dim, Dispatch};
use crate::shaders;

pub(crate) struct DeviceSlots {
    pub states: Buffer,
    /// `[slots, vocab]`: bit 31: in the prompt; below: how often in the output.
    pub seen: Buffer,
    vocab_size: usize,
}

/// Bytes of the counts of tokens.
pub(crate) const fn seen_bytes(limits: &Limits, vocab_size: usize) -> usize {
    limits.seqs.saturating_mul(vocab_size).saturating_mul(4)
}

/// Bytes of both buffers.
pub(crate) const fn bytes_for(limits: &Limits, vocab_size: usize) -> usize {
    padded(limits.seqs * size_of::<DeviceSlot>()).saturating_add(padded(seen_bytes(limits, vocab_size)))
}

impl DeviceSlots {
    pub(crate) fn new(gpu: &Gpu, limits: &Limits, vocab_size: usize) -> Result<Self> {
        Ok(Self {
            states: gpu.storage(limits.seqs * size_of::<DeviceSlot>(), "slots")?,
            seen: gpu.storage(seen_bytes(limits, vocab_size), "counts of tokens")?,
            vocab_size,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.states.size() + self.seen.size()) as usize
    }

    /// Clears the counts of a step's resets, and returns what then counts their tokens. Few
    /// sequences have penalties, so the memory of their lists is made for them.
    pub(crate) fn count(
        &self,
        gpu: &Gpu,
        encoder: &mut CommandEncoder,
        step: &Step,
    ) -> Result<Vec<Dispatch>> {
        let mut counts = Vec::new();
        for reset in step.resets.iter().filter(|reset| reset.sampling.needs_counts()) {
            let row = (self.vocab_size * 4) as u64;
            encoder.clear_buffer(&self.seen, reset.slot.index() as u64 * row, Some(row));
            for in_prompt in [true, false] {
                counts.extend(self.count_list(gpu, reset, in_prompt)?);
            }
        }
        Ok(counts)
    }

    fn count_list(&self, gpu: &Gpu, reset: &SlotReset, in_prompt: bool) -> Result<Option<Dispatch>> {
        let tokens = if in_prompt { &reset.prompt } else { &reset.output };
        if tokens.is_empty() {
            return Ok(None);
        }
        let mut words = vec![tokens.len() as u32, in_prompt.into(), reset.slot.0, self.vocab_size as u32];
        words.extend(tokens.iter().map(|token| token.0));
        let list = gpu.storage(words.len() * 4, "tokens to count")?;
        gpu.write(&list, 0, bytemuck::cast_slice(&words));
        let pipeline = gpu.pipeline(&shaders::SAMPLE_COUNT, "")?;
        let group = gpu.bind_group(&pipeline, &[Part::whole(&list), Part::whole(&self.seen)]);
        Ok(Some(Dispatch::new(pipeline, group, Dim::Fixed(tokens.len().div_ceil(64)), Dim::Fixed(1))))
    }
}
