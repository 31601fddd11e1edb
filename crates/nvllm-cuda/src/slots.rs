//! What the device keeps of each sequence beside the KV cache: its last token and how it is sampled.
//!
//! Lengths and positions are mirrored on the host (`nvllm_core::host::Slots`), which knows them exactly: every step advances them by
//! what it was given. Only the sampled token, and what counts it, are known to the device alone.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use nvllm_core::{CoreError, Limits, RequestLimits, SamplingParams, SlotReset, Step};

use crate::device::Device;
use crate::error::Result;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::memory::Buffer;
use crate::modules::{Function, Modules};

/// Most biased logits of one sequence, as `MAX_BIASES` in step.cuh.
pub(crate) const MAX_BIASES: usize = 512;
/// Most stop tokens of one sequence, as `MAX_STOPS` in step.cuh.
pub(crate) const MAX_STOPS: usize = 64;
/// The same, for those who take requests in.
pub(crate) const REQUEST_LIMITS: RequestLimits =
    RequestLimits { stop_tokens: MAX_STOPS, logit_biases: MAX_BIASES };

/// One sequence's state, as `struct Slot` in step.cuh.
#[derive(Clone, Copy, Debug, Default, Zeroable, Pod)]
#[repr(C)]
pub(crate) struct Slot {
    last_token: i32,
    output_len: i32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    choice: u32,
    seed: u64,
    min_tokens: u32,
    num_biases: u32,
    num_stops: u32,
    uses_counts: u32,
}
const _: () = assert!(size_of::<Slot>() == 64);

/// A slot's new state, as `struct Reset` in step.cuh.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C)]
pub(crate) struct Reset {
    slot: u32,
    padding: [u32; 3],
    state: Slot,
}
const _: () = assert!(size_of::<Reset>() == 80);

impl Reset {
    pub(crate) fn new(reset: &SlotReset) -> Self {
        let SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            choice,
            min_tokens,
            ..
        } = *reset.sampling;
        let last = reset.output.last().or(reset.prompt.last()).copied().unwrap_or_default();
        let state = Slot {
            last_token: last.0 as i32,
            output_len: reset.output.len() as i32,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            choice,
            seed,
            min_tokens,
            num_biases: reset.sampling.logit_bias.len() as u32,
            num_stops: reset.sampling.stop_tokens.len() as u32,
            uses_counts: u32::from(reset.sampling.needs_counts()),
        };
        Self { slot: reset.slot.0, padding: [0; 3], state }
    }
}

/// Refuses what the device's lists do not hold. Ranges have been checked.
pub(crate) fn check(step: &Step, vocab_size: usize, context: usize) -> nvllm_core::Result<()> {
    for reset in &step.resets {
        REQUEST_LIMITS.check(&reset.sampling)?;
        let mut tokens = reset.prompt.iter().chain(reset.output.iter());
        if let Some(token) = tokens.find(|token| token.index() >= vocab_size) {
            let problem =
                format!("resets slot {} with token {token}; the vocabulary has {vocab_size}", reset.slot);
            return Err(CoreError::step(step.id, problem));
        }
        let len = reset.prompt.len() + reset.output.len();
        if reset.sampling.needs_counts() && len > context {
            let problem =
                format!("resets slot {} with {len} tokens; the model was loaded for {context}", reset.slot);
            return Err(CoreError::step(step.id, problem));
        }
    }
    Ok(())
}

/// The buffers, and the kernel that counts a prompt.
pub(crate) struct DeviceSlots {
    device: Arc<Device>,
    pub states: Buffer,
    pub biases: Buffer,
    pub stops: Buffer,
    /// `[slots, vocab]`: bit 31: in the prompt; below: how often in the output.
    pub seen: Buffer,
    /// Tokens that a sequence brings.
    tokens: Buffer,
    count: Function,
    vocab_size: usize,
}

impl DeviceSlots {
    /// Bytes that the buffers take.
    pub(crate) fn bytes_for(limits: &Limits, vocab_size: usize) -> usize {
        let slot = size_of::<Slot>() + MAX_BIASES * 8 + MAX_STOPS * 4 + vocab_size * 4;
        limits.seqs * slot + limits.context * 4
    }

    pub(crate) fn new(
        device: &Arc<Device>,
        modules: &Modules,
        limits: &Limits,
        vocab_size: usize,
    ) -> Result<Self> {
        Ok(Self {
            device: Arc::clone(device),
            states: Buffer::zeroed(device, limits.seqs * size_of::<Slot>())?,
            biases: Buffer::zeroed(device, limits.seqs * MAX_BIASES * 8)?,
            stops: Buffer::zeroed(device, limits.seqs * MAX_STOPS * 4)?,
            seen: Buffer::zeroed(device, limits.seqs * vocab_size * 4)?,
            tokens: Buffer::new(device, limits.context * 4)?,
            count: modules.function("sample_count")?,
            vocab_size,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.states.len() + self.biases.len() + self.stops.len() + self.seen.len() + self.tokens.len()
    }

    /// Uploads the variable part of a reset: biases, stop tokens, penalty counts.
    ///
    /// Waits for its copies, and so for all steps in flight: every admission with one of them stalls the pipeline.
    pub(crate) fn bring(&self, reset: &SlotReset) -> Result<()> {
        let (slot, params) = (reset.slot.index(), &reset.sampling);
        let bias = |&(token, value): &(nvllm_core::TokenId, f32)| [token.0, value.to_bits()];
        let biases: Vec<[u32; 2]> = params.logit_bias.iter().map(bias).collect();
        self.biases.write_some(slot * MAX_BIASES * 8, bytemuck::cast_slice(&biases))?;
        // Nothing else reads them (row.cuh), and most requests have some.
        if params.min_tokens > 0 {
            self.stops.write_some(slot * MAX_STOPS * 4, bytemuck::cast_slice(&params.stop_tokens))?;
        }
        if !params.needs_counts() {
            return Ok(());
        }
        let row = slot * self.vocab_size * 4;
        self.seen.clear(row, self.vocab_size * 4)?;
        for (tokens, in_prompt) in [(&reset.prompt, 1), (&reset.output, 0)] {
            if tokens.is_empty() {
                continue;
            }
            self.tokens.write(0, bytemuck::cast_slice(tokens))?;
            let args =
                Args::new().ptr(self.tokens.at(0)).int(tokens.len()).ptr(self.seen.at(row)).int(in_prompt);
            let blocks = Dim::Fixed(tokens.len().div_ceil(256));
            let none = Extents { tokens: 0, outputs: 0, seqs: 0, prefill: false, chunks: false };
            Launch::new(self.count, blocks, 256, args).run(&self.device, none)?;
        }
        Ok(())
    }
}
