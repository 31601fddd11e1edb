//! The inputs of a step: packed bytes in host memory, from which a kernel copies them to the fixed
//! places where the others read.
//!
//! Kernels take their extents from the counts, or run the rows of padding up to the bucket as well.

use std::sync::Arc;

use nvllm_core::device::{PackedStep, StepLayout, WordCopy};
use nvllm_core::{KvGeometry, Limits, RowsOf, SlotId};

use crate::device::Device;
use crate::error::Result;
use crate::kernels::step::begin::STAGED_BYTES;
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
    begin: Function,
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
            begin: modules.function("step_begin")?,
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

    /// Copies a step's parts from `packed`, which holds its packed bytes, to their places, in
    /// stream order; takes its slots anew in `states`, and notes that its results go to `results`.
    pub(crate) fn begin(
        &self,
        device: &Device,
        step: &PackedStep,
        packed: Address,
        states: &Buffer,
        results: Address,
    ) -> Result<()> {
        let args = Args::new()
            .ptr(packed)
            .int(read_len(step) / 4)
            .int(step.copies_at / 4)
            .int(step.num_copies)
            .int(step.source_at / 4)
            .int(step.resets_at / 4)
            .ptr(self.buffer.at(0))
            .ptr(states.at(0))
            .ptr(self.tokens.at(0))
            .ptr(results);
        Launch::new(&self.begin, Dim::Fixed(begin_blocks(step)), args).run(device, Extents::NONE)
    }
}

/// Bytes of a packed step that [`Inputs::begin`] reads: without tokens to count.
const fn read_len(step: &PackedStep) -> usize {
    step.copies_at + step.num_copies * size_of::<WordCopy>()
}

/// Blocks of its kernel: one for what that block can hold, else one a copy and one more.
const fn begin_blocks(step: &PackedStep) -> usize {
    if read_len(step) <= STAGED_BYTES { 1 } else { step.num_copies + 1 }
}

#[cfg(test)]
pub(crate) mod tests {
    use nvllm_core::host::{Batch, Slots};
    use nvllm_core::{
        Activations, BlockId, KvFormat, OutputRow, SamplingParams, SeqStep, SlotReset, Source, Step, TokenId,
    };

    use super::*;
    use crate::kernels::common::step::{NUM_OUTPUTS, NUM_RESETS, NUM_SEQS, NUM_TOKENS, RESULTS};

    pub(crate) const GEOMETRY: KvGeometry = KvGeometry {
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
        let (layout, step, bytes) = packed(1);
        let copies = step.copies(bytemuck::cast_slice(&bytes)).to_vec();
        (layout, copies)
    }

    /// A step of so many tokens of one sequence, new in its slot.
    fn packed(num_tokens: usize) -> (StepLayout, PackedStep, Vec<u128>) {
        let limits = Limits { kv_bytes: 1 << 20, ..Limits::new(Activations::Bf16, 2, 4096) };
        let step = Step {
            resets: vec![SlotReset {
                slot: SlotId(1),
                prompt: [TokenId(5)].into(),
                output: [].into(),
                sampling: SamplingParams::default().into(),
            }],
            seqs: vec![SeqStep {
                slot: SlotId(1),
                tokens: vec![Source::Host(TokenId(5)); num_tokens].into(),
                positions: (0..num_tokens as u32).map(Source::Host).collect(),
                kv_start: Source::Host(0),
                block_tables: [vec![BlockId(3); num_tokens.div_ceil(16)].into()].into(),
                outputs: [OutputRow::sample(0)].into(),
            }],
            ..Step::default()
        };
        let mut slots = Slots::new(limits.seqs);
        slots.reset(&step, 50).unwrap();
        let batch = Batch::new(&step, &slots, &limits, &[GEOMETRY], 50).unwrap();
        let layout = layout(&limits, &[GEOMETRY]);
        let mut bytes = vec![0_u128; layout.packed_len.div_ceil(16)];
        let made = layout.pack(bytemuck::cast_slice_mut(&mut bytes), &step, &batch, [num_tokens, 1]);
        (layout, made, bytes)
    }

    /// One block holds what a step of decoding reads, and no more than it can.
    #[test]
    fn one_block_begins_a_step_that_it_can_hold() {
        for num_tokens in [1, 1000, 4000] {
            let (_, step, _) = packed(num_tokens);
            let blocks = begin_blocks(&step);
            assert_eq!(blocks == 1, read_len(&step) <= STAGED_BYTES, "{num_tokens}");
            assert!(read_len(&step) <= step.len && read_len(&step).is_multiple_of(16));
            assert!(blocks == 1 || blocks > step.num_copies);
        }
        assert_eq!([1, 4000].map(|num_tokens| begin_blocks(&packed(num_tokens).1) == 1), [true, false]);
    }

    /// The kernel that copies a step's inputs notes there, beside its copies, where results go.
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
        assert_eq!((head.to, head.from, head.num_words as usize), (0, 0, NUM_RESETS + 1));
    }
}
