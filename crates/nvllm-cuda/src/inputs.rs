//! What a step brings to the device: one buffer, one layout for all steps, filled by one copy (and one more for each further KV group).
//!
//! The mirror of `kernels/common/step.cuh`. A kernel takes its extents from the counts, or runs the rows of padding up to the bucket as
//! well: those name token 0, position 0 and no place in the KV cache, and belong to sequences without rows.

use bytemuck::{Pod, Zeroable};
use nvllm_core::host::{Batch, BatchSeq};
use nvllm_core::{KvGeometry, Limits, RowsOf, Source, Step};

use crate::launch::Extents;
use crate::memory::{Address, Buffer};
use crate::slots::Reset;

/// Bits of [`Output::wants`].
pub(crate) const WANTS_SAMPLE: u32 = 1;
pub(crate) const WANTS_LOGPROB: u32 = 2;

/// One output row, as kernels read it.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C)]
pub(crate) struct Output {
    pub row: i32,
    pub slot: i32,
    pub wants: u32,
    pub next_index: u32,
    pub target: i32,
    pub num_top: u32,
    pub padding: [u32; 2],
}
const _: () = assert!(size_of::<Output>() == 32);

/// Words at the head: the counts, in the order of `enum Count`.
const COUNT_WORDS: usize = 16;

/// Where each part begins, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub source: usize,
    pub positions: usize,
    pub row_seq: usize,
    pub row_kv: usize,
    /// Row of each sequence's first new token, and the number of all rows.
    pub seq_start: usize,
    /// New tokens of each sequence.
    pub seq_rows: usize,
    /// KV index of each sequence's first new token.
    pub seq_kv_start: usize,
    pub outputs: usize,
    pub resets: usize,
    /// By KV group: where each row's key and value go, as block * block_len + offset; -1 for a row of padding.
    pub row_place: Vec<usize>,
    /// By KV group.
    pub tables: Vec<usize>,
    /// Entries of one sequence's block table.
    pub max_blocks: usize,
    pub len: usize,
}

impl Layout {
    pub(crate) fn new(limits: &Limits, kv: &[KvGeometry]) -> Self {
        let mut len = COUNT_WORDS * 4;
        // A layout that no memory holds is as long as the address space: the plan then says that it does not fit.
        let mut part = |bytes: usize| {
            let at = len;
            len = len.saturating_add(bytes).checked_next_multiple_of(256).unwrap_or(usize::MAX);
            at
        };
        let max_blocks = limits.context.div_ceil(limits.block_len);
        let table = limits.seqs.saturating_mul(max_blocks).saturating_mul(4);
        let tokens = limits.step_tokens * 4;
        Self {
            source: part(tokens),
            positions: part(tokens),
            row_seq: part(tokens),
            row_kv: part(tokens),
            seq_start: part((limits.seqs + 1) * 4),
            seq_rows: part(limits.seqs * 4),
            seq_kv_start: part(limits.seqs * 4),
            outputs: part(limits.step_outputs * size_of::<Output>()),
            resets: part(limits.seqs * size_of::<Reset>()),
            row_place: kv.iter().map(|_| part(tokens)).collect(),
            tables: kv.iter().map(|_| part(table)).collect(),
            max_blocks,
            len,
        }
    }

    /// Offset of a count.
    pub(crate) const fn count(of: RowsOf) -> usize {
        match of {
            RowsOf::Tokens => 0,
            RowsOf::Outputs => 4,
            RowsOf::Seqs => 8,
        }
    }

    /// Lays a step out in `bytes`, padded to `extents`, and returns the ranges that the device needs of it.
    pub(crate) fn fill(
        &self,
        bytes: &mut [u8],
        step: &Step,
        batch: &Batch,
        resets: &[Reset],
        (extents, block_len): (Extents, usize),
    ) -> Vec<std::ops::Range<usize>> {
        let token_pad = std::iter::repeat_n(0, extents.tokens - batch.tokens.len());
        let seq_pad = std::iter::repeat_n(0, extents.seqs - batch.seqs.len());
        let counts = [batch.tokens.len(), batch.outputs.len(), batch.seqs.len(), resets.len()];
        put(bytes, 0, counts.map(|n| n as i32));
        let tokens = step.seqs.iter().flat_map(|seq| {
            seq.tokens.iter().map(|token| match token {
                Source::Host(token) => token.0 as i32,
                Source::Slot => -1 - seq.slot.0 as i32,
            })
        });
        put(bytes, self.source, tokens.chain(token_pad.clone()));
        put(bytes, self.positions, batch.positions.iter().map(|&p| p as i32).chain(token_pad.clone()));
        let rows =
            || batch.seqs.iter().enumerate().flat_map(|(i, s)| (0..s.num_rows).map(move |row| (i, s, row)));
        put(bytes, self.row_seq, rows().map(|(i, _, _)| i as i32).chain(token_pad.clone()));
        put(
            bytes,
            self.row_kv,
            rows().map(|(_, seq, row)| (seq.kv_start + row) as i32).chain(token_pad.clone()),
        );
        let end = std::iter::repeat_n(batch.tokens.len(), 1 + seq_pad.len());
        put(bytes, self.seq_start, batch.seqs.iter().map(|s| s.first_row).chain(end).map(|row| row as i32));
        put(bytes, self.seq_rows, batch.seqs.iter().map(|s| s.num_rows as i32).chain(seq_pad.clone()));
        put(bytes, self.seq_kv_start, batch.seqs.iter().map(|s| s.kv_start as i32).chain(seq_pad));
        for (group, &at) in self.row_place.iter().enumerate() {
            let place = |(_, seq, row): (usize, &BatchSeq, usize)| {
                let (block, offset) = seq.locate(group, seq.kv_start + row, block_len);
                (block.index() * block_len + offset) as i32
            };
            put(bytes, at, rows().map(place).chain(token_pad.clone().map(|_| -1)));
        }
        put(
            bytes,
            self.outputs,
            batch.outputs.iter().map(|output| {
                let want = &output.want;
                let scored = want.target.is_some() || want.sample && want.top_logprobs.is_some();
                Output {
                    row: output.row as i32,
                    slot: batch.seqs[output.seq].slot.0 as i32,
                    wants: u32::from(want.sample) * WANTS_SAMPLE + u32::from(scored) * WANTS_LOGPROB,
                    next_index: output.next_index,
                    target: want.target.map_or(-1, |token| token.0 as i32),
                    num_top: u32::from(want.top_logprobs.unwrap_or(0)),
                    padding: [0; 2],
                }
            }),
        );
        put(bytes, self.resets, resets.iter().copied());
        let mut ranges = Vec::new();
        for (group, &at) in self.tables.iter().enumerate() {
            for (i, seq) in batch.seqs.iter().enumerate() {
                let used = (seq.kv_start + seq.num_rows).div_ceil(block_len);
                let table = seq.block_tables[group][..used].iter().map(|block| block.0 as i32);
                put(bytes, at + i * self.max_blocks * 4, table);
            }
            ranges.push(at..at + batch.seqs.len() * self.max_blocks * 4);
        }
        // The first group's tables follow the rest.
        match ranges.first_mut() {
            Some(first) => first.start = 0,
            None => ranges.push(0..self.len),
        }
        ranges
    }
}

/// Writes `items` one after another from byte `at` on.
fn put<T: Pod>(bytes: &mut [u8], at: usize, items: impl IntoIterator<Item = T>) {
    let mut at = at;
    for item in items {
        bytes[at..at + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&item));
        at += size_of::<T>();
    }
}

/// The buffer on the device.
pub(crate) struct Inputs {
    pub layout: Layout,
    pub buffer: Buffer,
    /// Tokens of all rows, those from slots resolved.
    pub tokens: Buffer,
}

impl Inputs {
    pub(crate) fn at(&self, offset: usize) -> Address {
        self.buffer.at(offset)
    }

    pub(crate) fn count(&self, of: RowsOf) -> Address {
        self.buffer.at(Layout::count(of))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len() + self.tokens.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nvllm_core::host::Slots;
    use nvllm_core::{
        Activations, BlockId, DType, Numerics, OutputRow, SeqStep, SlotId, SlotReset, StepId, TokenId,
    };

    use super::*;

    fn words(bytes: &[u8], at: usize, num: usize) -> Vec<i32> {
        bytes[at..at + 4 * num].chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn limits() -> Limits {
        Limits {
            step_tokens: 8,
            step_outputs: 4,
            seqs: 4,
            context: 10,
            block_len: 4,
            kv_bytes: 1 << 20,
            kv_dtype: DType::F32,
            activations: Activations::F32,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
        }
    }

    /// Two tokens of one sequence after five, and one token of another that only its slot knows.
    #[test]
    fn a_step_is_laid_out_and_padded() {
        let limits = limits();
        let geometry = KvGeometry {
            num_layers: 1,
            num_heads: 1,
            head_dim: 8,
            block_len: 4,
            num_blocks: 9,
            dtype: DType::F32,
        };
        let seq = |slot, tokens: Vec<Source<TokenId>>, start: u32, table: [u32; 2]| SeqStep {
            slot: SlotId(slot),
            positions: (0..tokens.len() as u32).map(|i| Source::Host(100 + i)).collect(),
            outputs: vec![OutputRow::sample(tokens.len() as u32 - 1)],
            tokens,
            kv_start: Source::Host(start),
            block_tables: vec![table.map(BlockId).into()],
        };
        let reset = |slot| SlotReset {
            slot: SlotId(slot),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let host = |token| Source::Host(TokenId(token));
        let step = Step {
            id: StepId(0),
            resets: vec![reset(3), reset(1)],
            seqs: vec![seq(3, vec![host(7), host(9)], 5, [2, 6]), seq(1, vec![Source::Slot], 3, [8, 1])],
            ..Step::default()
        };
        let mut slots = Slots::new(4);
        slots.reset(&step, 50).unwrap();
        let batch = Batch::new(&step, &slots, &limits, &[geometry], 50).unwrap();
        let layout = Layout::new(&limits, &[geometry]);
        let mut bytes = vec![0xff; layout.len];
        let extents = Extents { tokens: 4, outputs: 4, seqs: 3, prefill: true, chunks: true };
        let resets: Vec<_> = step.resets.iter().map(Reset::new).collect();
        let ranges = layout.fill(&mut bytes, &step, &batch, &resets, (extents, 4));
        assert_eq!(words(&bytes, 0, 4), [3, 2, 2, 2]);
        assert_eq!(words(&bytes, layout.source, 4), [7, 9, -2, 0]);
        assert_eq!(words(&bytes, layout.positions, 4), [100, 101, 100, 0]);
        assert_eq!(words(&bytes, layout.row_seq, 4), [0, 0, 1, 0]);
        assert_eq!(words(&bytes, layout.row_kv, 4), [5, 6, 3, 0]);
        assert_eq!(words(&bytes, layout.row_place[0], 4), [25, 26, 35, -1]);
        assert_eq!(words(&bytes, layout.seq_start, 4), [0, 2, 3, 3]);
        assert_eq!(words(&bytes, layout.seq_rows, 3), [2, 1, 0]);
        assert_eq!(words(&bytes, layout.seq_kv_start, 3), [5, 3, 0]);
        assert_eq!(words(&bytes, layout.outputs, 4), [1, 3, 1, 7]);
        assert_eq!(words(&bytes, layout.outputs + 32, 4), [2, 1, 1, 4]);
        let tables = layout.tables[0];
        assert_eq!((words(&bytes, tables, 2), words(&bytes, tables + 12, 1)), (vec![2, 6], vec![8]));
        assert_eq!((ranges.len(), ranges[0].clone()), (1, 0..tables + 2 * 3 * 4));
    }
}
