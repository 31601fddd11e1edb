//! Where each part of a step's inputs lies in device memory.

use super::{DeviceReset, DeviceRow, WordCopy};
use crate::{KvGeometry, Limits, RequestLimits, RowsOf};

/// Words at the head: the counts of tokens, output rows, sequences and resets, then unused ones.
const COUNT_WORDS: usize = 16;

/// Bytes to which parts are aligned.
const ALIGN: usize = 256;

/// Byte offsets, the same for all steps of a loaded model. Elements are 32-bit words unless said
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepLayout {
    /// `[tokens]`: a token id, or -1 - slot for the last token sampled in a slot.
    pub source: usize,
    /// `[tokens]`: position ids.
    pub positions: usize,
    /// `[tokens]`: index of the row's sequence.
    pub row_seq: usize,
    /// `[tokens]`: KV index of the row.
    pub row_kv: usize,
    /// `[seqs + 1]`: row of each sequence's first new token, then the number of all rows.
    pub seq_start: usize,
    /// `[seqs]`: new tokens of each sequence.
    pub seq_rows: usize,
    /// `[seqs]`: KV index of each sequence's first new token.
    pub seq_kv_start: usize,
    /// `[step_outputs]` of [`DeviceRow`].
    pub outputs: usize,
    /// `[seqs]` of [`DeviceReset`].
    pub resets: usize,
    /// By KV group `[tokens]`: where each row's key and value go, as block * block_len + offset; -1
    /// for a row of padding.
    pub row_place: Vec<usize>,
    /// By KV group `[seqs, max_blocks]`: block tables. Entries past a sequence's last block are
    /// whatever they were.
    pub tables: Vec<usize>,
    /// Entries of one sequence's block table.
    pub max_blocks: usize,
    /// By slot `[max_biases]` of a token and an f32: biased logits. They stay from a reset to the
    /// next.
    pub biases: usize,
    /// Entries of one slot's biases.
    pub max_biases: usize,
    /// By slot `[max_stops]`: stop tokens, if the sequence has a least number of tokens. They stay
    /// like the biases.
    pub stops: usize,
    /// Entries of one slot's stop tokens.
    pub max_stops: usize,
    /// Bytes of all parts.
    pub len: usize,
    /// Bytes of the largest packed step.
    pub packed_len: usize,
    /// Tokens to count that a packed step has room for.
    pub counted_len: usize,
    /// KV positions in one block.
    pub block_len: usize,
}

impl StepLayout {
    /// The layout for a model loaded under `limits`; `lists` says how long the lists of one
    /// sequence may be.
    pub fn new(limits: &Limits, kv: &[KvGeometry], lists: RequestLimits) -> Self {
        // A layout that no memory holds is as long as the address space: the plan then says that it
        // does not fit.
        let bytes = |extents: &[usize]| extents.iter().copied().fold(4_usize, usize::saturating_mul);
        let mut len = COUNT_WORDS * 4;
        let mut used = len;
        let mut part = |bytes: usize| {
            let at = len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
            len = at.saturating_add(bytes);
            used = used.saturating_add(bytes);
            at
        };
        let RequestLimits { stop_tokens: max_stops, logit_biases: max_biases } = lists;
        let (tokens, seqs) = (limits.step_tokens, limits.seqs);
        let max_blocks = limits.context.div_ceil(limits.block_len);
        let mut layout = Self {
            source: part(bytes(&[tokens])),
            positions: part(bytes(&[tokens])),
            row_seq: part(bytes(&[tokens])),
            row_kv: part(bytes(&[tokens])),
            seq_start: part(bytes(&[seqs.saturating_add(1)])),
            seq_rows: part(bytes(&[seqs])),
            seq_kv_start: part(bytes(&[seqs])),
            outputs: part(limits.step_outputs.saturating_mul(size_of::<DeviceRow>())),
            resets: part(seqs.saturating_mul(size_of::<DeviceReset>())),
            row_place: kv.iter().map(|_| part(bytes(&[tokens]))).collect(),
            tables: kv.iter().map(|_| part(bytes(&[seqs, max_blocks]))).collect(),
            max_blocks,
            biases: part(bytes(&[seqs, 2, max_biases])),
            max_biases,
            stops: part(bytes(&[seqs, max_stops])),
            max_stops,
            len: 0,
            packed_len: 0,
            // One sequence with all its tokens, or more with fewer.
            counted_len: limits.context,
            block_len: limits.block_len,
        };
        // Ten parts, one more and a table a sequence for each group, two lists a reset.
        let copies = (2 + kv.len()).saturating_mul(seqs).saturating_add(10 + kv.len());
        let copies = copies.saturating_mul(size_of::<WordCopy>()).saturating_add(size_of::<WordCopy>());
        (layout.len, layout.packed_len) = (len, used);
        for more in [copies, bytes(&[layout.counted_len])] {
            layout.packed_len = layout.packed_len.saturating_add(more);
        }
        layout
    }

    /// Offset of a count.
    pub const fn count(of: RowsOf) -> usize {
        match of {
            RowsOf::Tokens => 0,
            RowsOf::Outputs => 4,
            RowsOf::Seqs => 8,
        }
    }
}
