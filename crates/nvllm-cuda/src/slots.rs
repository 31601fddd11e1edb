//! What the device keeps of each sequence beside the KV cache: its last token and how it is
//! sampled.
//!
//! Lengths and positions are mirrored on the host (`nvllm_core::host::Slots`), which knows them
//! exactly: every step advances them by what it was given. Only the sampled token, and what counts
//! it, are known to the device alone.

use std::sync::Arc;

use nvllm_core::device::{CountedTokens, DeviceSlot};
use nvllm_core::{Limits, RequestLimits, SamplingParams, SlotId, SlotReset, Step};

use crate::device::Device;
use crate::error::Result;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::memory::{Address, Buffer};
use crate::modules::{Function, Modules};

pub(crate) use crate::kernels::common::step::{MAX_BIASES, MAX_STOPS};

/// Most biased logits and stop tokens of one sequence, for those who take requests in.
pub(crate) const REQUEST_LIMITS: RequestLimits =
    RequestLimits { stop_tokens: MAX_STOPS, logit_biases: MAX_BIASES };

/// Bytes of one slot's bits.
const fn touched_bytes(vocab_size: usize) -> usize {
    vocab_size.div_ceil(32) * 4
}

/// Whether a sequence's logits are changed whatever its tokens are.
fn changes_some(params: &SamplingParams) -> bool {
    !params.logit_bias.is_empty() || params.min_tokens > 0 && !params.stop_tokens.is_empty()
}

/// The buffers, and the kernels that fill them.
pub(crate) struct DeviceSlots {
    device: Arc<Device>,
    pub states: Buffer,
    /// `[slots, vocab]`: bit 31: in the prompt; below: how often in the output.
    pub seen: Buffer,
    /// `[slots, ceil(vocab / 32)]`: a bit for each token that is seen, biased or suppressed.
    pub touched: Buffer,
    count: Function,
    mark: Function,
    vocab_size: usize,
}

impl DeviceSlots {
    /// Bytes that the buffers take.
    pub(crate) fn bytes_for(limits: &Limits, vocab_size: usize) -> usize {
        limits.seqs.saturating_mul(size_of::<DeviceSlot>() + vocab_size * 4 + touched_bytes(vocab_size))
    }

    pub(crate) fn new(
        device: &Arc<Device>,
        modules: &Modules,
        limits: &Limits,
        vocab_size: usize,
    ) -> Result<Self> {
        Ok(Self {
            device: Arc::clone(device),
            states: Buffer::zeroed(device, limits.seqs * size_of::<DeviceSlot>())?,
            seen: Buffer::zeroed(device, limits.seqs * vocab_size * 4)?,
            touched: Buffer::zeroed(device, limits.seqs * touched_bytes(vocab_size))?,
            count: modules.function("sample_count")?,
            mark: modules.function("sample_mark")?,
            vocab_size,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.states.len() + self.seen.len() + self.touched.len()
    }

    /// Counts the tokens of a step's resets, in stream order, and marks those that are biased or
    /// suppressed, whose lists lie where `lists_of` says. Tokens lie in the step's packed bytes, at
    /// `packed`; those that had no room there are uploaded here, and waited for: resets with more
    /// tokens in one step than one sequence has are rare.
    pub(crate) fn count(
        &self,
        step: &Step,
        lists_of: impl Fn(SlotId) -> [Address; 2],
        lists: &[CountedTokens],
        packed: Address,
    ) -> Result<()> {
        for reset in &step.resets {
            let (counts, marks) = (reset.sampling.needs_counts(), changes_some(&reset.sampling));
            if counts {
                self.seen.clear(self.row(reset.slot), self.vocab_size * 4)?;
            }
            if counts || marks {
                let bytes = touched_bytes(self.vocab_size);
                self.touched.clear(reset.slot.index() * bytes, bytes)?;
            }
            if marks {
                self.mark_lists(reset, lists_of(reset.slot))?;
            }
        }
        for list in lists {
            if let Some(at) = list.at {
                self.count_list(list, packed + at as Address)?;
                continue;
            }
            let reset = step.resets.iter().find(|reset| reset.slot == list.slot);
            let tokens = reset.map(|reset| if list.in_prompt { &reset.prompt } else { &reset.output });
            let tokens = tokens.map_or(&[][..], |tokens| tokens);
            // Freeing it waits for the kernel.
            let buffer = Buffer::of(&self.device, bytemuck::cast_slice(tokens))?;
            self.count_list(list, buffer.at(0))?;
        }
        Ok(())
    }

    fn row(&self, slot: SlotId) -> usize {
        slot.index() * self.vocab_size * 4
    }

    fn touched_row(&self, slot: SlotId) -> Address {
        self.touched.at(slot.index() * touched_bytes(self.vocab_size))
    }

    /// Marks what a sequence biases and suppresses.
    fn mark_lists(&self, reset: &SlotReset, [biases, stops]: [Address; 2]) -> Result<()> {
        let num_biases = reset.sampling.logit_bias.len();
        let num_stops = if reset.sampling.min_tokens > 0 { reset.sampling.stop_tokens.len() } else { 0 };
        let args = Args::new()
            .ptr(biases)
            .int(num_biases)
            .ptr(stops)
            .int(num_stops)
            .ptr(self.touched_row(reset.slot));
        let blocks = Dim::Fixed((num_biases + num_stops).div_ceil(self.mark.threads as usize));
        Launch::new(&self.mark, blocks, args).run(&self.device, Extents::NONE)
    }

    fn count_list(&self, list: &CountedTokens, tokens: Address) -> Result<()> {
        let row = self.seen.at(self.row(list.slot));
        let args = Args::new().ptr(tokens).int(list.num).ptr(row).ptr(self.touched_row(list.slot));
        let args = args.int(usize::from(list.in_prompt));
        let blocks = Dim::Fixed(list.num.div_ceil(self.count.threads as usize));
        Launch::new(&self.count, blocks, args).run(&self.device, Extents::NONE)
    }
}
