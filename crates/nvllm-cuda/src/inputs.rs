//! What a step brings to the device: one buffer, one layout for all steps, filled by one copy (and one more for each further KV group).
//!
//! The mirror of `kernels/common/step.cuh`. Rows of padding up to the bucket name token 0, sequence 0 and KV index 0 and are read by
//! nothing: kernels take their extents from the counts.

use bytemuck::{Pod, Zeroable};
use nvllm_core::host::Batch;
use nvllm_core::{KvGeometry, Limits, RowsOf, Source, Step};

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
    pub seq_start: usize,
    pub seq_len: usize,
    pub outputs: usize,
    pub resets: usize,
    /// By KV group.
    pub tables: Vec<usize>,
    /// Entries of one sequence's block table.
    pub max_blocks: usize,
    pub len: usize,
}

impl Layout {
    pub(crate) fn new(limits: &Limits, kv: &[KvGeometry]) -> Self {
        let mut len = COUNT_WORDS * 4;
        let mut part = |bytes: usize| {
            let at = len;
            len = (len + bytes).next_multiple_of(256);
            at
        };
        let max_blocks = limits.context.div_ceil(limits.block_len);
        let tokens = limits.step_tokens * 4;
        Self {
            source: part(tokens),
            positions: part(tokens),
            row_seq: part(tokens),
            row_kv: part(tokens),
            seq_start: part((limits.seqs + 1) * 4),
            seq_len: part(limits.seqs * 4),
            outputs: part(limits.step_outputs * size_of::<Output>()),
            resets: part(limits.seqs * size_of::<Reset>()),
            tables: kv.iter().map(|_| part(limits.seqs * max_blocks * 4)).collect(),
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

    /// Lays a step out in `bytes` and returns the ranges that the device needs of it.
    pub(crate) fn fill(
        &self,
        bytes: &mut [u8],
        step: &Step,
        batch: &Batch,
        resets: &[Reset],
        block_len: usize,
    ) -> Vec<std::ops::Range<usize>> {
        let counts = [batch.tokens.len(), batch.outputs.len(), batch.seqs.len(), resets.len()];
        put(bytes, 0, counts.map(|n| n as i32));
        let tokens = step.seqs.iter().flat_map(|seq| {
            seq.tokens.iter().map(|token| match token {
                Source::Host(token) => token.0 as i32,
                Source::Slot => -1 - seq.slot.0 as i32,
            })
        });
        put(bytes, self.source, tokens);
        put(bytes, self.positions, batch.positions.iter().map(|&p| p as i32));
        let rows = || batch.seqs.iter().enumerate().flat_map(|(i, s)| (0..s.num_rows).map(move |row| (i, s, row)));
        put(bytes, self.row_seq, rows().map(|(i, _, _)| i as i32));
        put(bytes, self.row_kv, rows().map(|(_, seq, row)| (seq.kv_start + row) as i32));
        let starts = batch.seqs.iter().map(|s| s.first_row).chain([batch.tokens.len()]);
        put(bytes, self.seq_start, starts.map(|row| row as i32));
        put(bytes, self.seq_len, batch.seqs.iter().map(|s| (s.kv_start + s.num_rows) as i32));
        put(bytes, self.outputs, batch.outputs.iter().map(|output| {
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
        }));
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
