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

    /// Copies a step's parts from `packed` to their places, in stream order, and notes that its
    /// results go to `results`.
    pub(crate) fn spread(
        &self,
        device: &Device,
        step: &PackedStep,
        packed: &Buffer,
        results: Address,
    ) -> Result<()> {
        let args =
            Args::new().ptr(packed.at(0)).ptr(packed.at(step.copies_at)).ptr(self.buffer.at(0)).ptr(results);
        Launch::new(&self.spread, Dim::Fixed(step.num_copies), args).run(device, Extents::NONE)
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::device::WordCopy;
    use nvllm_core::host::{Batch, Slots};
    use nvllm_core::{
        Activations, BlockId, KvFormat, OutputRow, SamplingParams, SeqStep, SlotReset, Source, Step, TokenId,
    };

    use super::*;
    use crate::kernels::common::step::{NUM_OUTPUTS, NUM_RESETS, NUM_SEQS, NUM_TOKENS, RESULTS};

    const GEOMETRY: KvGeometry = KvGeometry {
        num_layers: 1,
        num_heads: 1,
        head_dim: 8,
        block_len: 16,
        num_blocks: 9,
        format: KvFormat::Bf16,
        window: None,
    };

    /// The copies of a step of one sequence, new in its slot.
    fn copies() -> (StepLayout, Vec<WordCopy>) {
        let limits = Limits { kv_bytes: 1 << 20, ..Limits::new(Activations::Bf16, 2, 64) };
        let step = Step {
            resets: vec![SlotReset {
                slot: SlotId(1),
                prompt: [TokenId(5)].into(),
                output: [].into(),
                sampling: SamplingParams::default().into(),
            }],
            seqs: vec![SeqStep {
                slot: SlotId(1),
                tokens: [Source::Host(TokenId(5))].into(),
                positions: [Source::Host(0)].into(),
                kv_start: Source::Host(0),
                block_tables: [[BlockId(3)].into()].into(),
                outputs: [OutputRow::sample(0)].into(),
            }],
            ..Step::default()
        };
        let mut slots = Slots::new(limits.seqs);
        slots.reset(&step, 50).unwrap();
        let batch = Batch::new(&step, &slots, &limits, &[GEOMETRY], 50).unwrap();
        let layout = layout(&limits, &[GEOMETRY]);
        let mut bytes = vec![0_u128; layout.packed_len.div_ceil(16)];
        let bytes = bytemuck::cast_slice_mut(&mut bytes);
        let copies = layout.pack(bytes, &step, &batch, [1, 1]).copies(bytes).to_vec();
        (layout, copies)
    }

    /// The kernel that spreads a step's inputs notes there, beside its copies, where results go.
    #[test]
    fn no_copy_goes_where_the_address_of_results_is_noted() {
        let (layout, copies) = copies();
        let address = RESULTS as u64..RESULTS as u64 + 2;
        for copy in &copies {
            let to = copy.to..copy.to + u64::from(copy.num_words);
            assert!(to.end <= address.start || address.end <= to.start, "{copy:?}");
        }
        assert!(RESULTS.is_multiple_of(2) && (RESULTS + 2) * 4 <= layout.source);
    }

    #[test]
    fn kernels_find_the_counts_where_a_step_has_them() {
        let found = [RowsOf::Tokens, RowsOf::Outputs, RowsOf::Seqs].map(StepLayout::count);
        assert_eq!(found, [NUM_TOKENS, NUM_OUTPUTS, NUM_SEQS].map(|word| word * 4));
        let head = copies().1[0];
        assert_eq!((head.to, head.num_words as usize), (0, NUM_RESETS + 1));
    }
}
