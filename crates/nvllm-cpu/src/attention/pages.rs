//! Where keys and values lie: the pages of a layer, and the blocks of a sequence.

use crate::error::ensure;
use crate::{PageElem, Result};

/// The shape of a paged KV cache of one layer: `[block][k, v][kv_head][block_len][head_dim]`,
/// dense, so that the keys of one head in one block are consecutive rows. Behind the rows of a
/// block lie their scales, if they have some, `[k, v][kv_head][block_len]` in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Blocks.
    pub num_blocks: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Positions in a block.
    pub block_len: usize,
    /// Elements of a key or value row: a multiple of 8.
    pub head_dim: usize,
    /// Element type.
    pub elem: PageElem,
}

impl KvLayout {
    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.num_blocks * self.block_bytes()
    }

    /// Rows of one block: keys and values of all heads.
    fn block_rows(&self) -> usize {
        2 * self.kv_heads * self.block_len
    }

    /// Bytes of one row without its scale.
    pub fn row_bytes(&self) -> usize {
        self.head_dim * self.elem.size()
    }

    /// Bytes of one block: keys and values of all heads, and their scales.
    pub fn block_bytes(&self) -> usize {
        self.block_rows() * (self.row_bytes() + self.elem.scale_size())
    }

    /// Number within a block of the row of position `at`; `value` false for the key.
    pub(super) fn row(&self, value: bool, head: usize, at: usize) -> usize {
        (usize::from(value) * self.kv_heads + head) * self.block_len + at
    }

    /// Byte offset of row `row` of `block`.
    pub(super) fn row_offset(&self, block: usize, row: usize) -> usize {
        block * self.block_bytes() + row * self.row_bytes()
    }

    /// Byte offset of the scale of row `row` of `block`.
    pub(super) fn scale_offset(&self, block: usize, row: usize) -> usize {
        self.row_offset(block, self.block_rows()) + row * self.elem.scale_size()
    }

    fn check(&self, bytes: usize) -> Result<()> {
        let sound = self.kv_heads > 0 && self.block_len > 0 && self.head_dim > 0;
        ensure!(
            sound && self.head_dim.is_multiple_of(8),
            "kv pages",
            "{self:?}; head_dim must be a multiple of 8"
        );
        ensure!(
            bytes == self.bytes(),
            "kv pages",
            "{bytes} bytes for {self:?}, which needs {}",
            self.bytes()
        );
        Ok(())
    }
}

/// The pages of one layer, to read.
#[derive(Clone, Copy, Debug)]
pub struct KvPages<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) layout: KvLayout,
}

impl<'a> KvPages<'a> {
    /// # Errors
    /// A length that the layout does not have, a `head_dim` that is no multiple of 8.
    pub fn new(bytes: &'a [u8], layout: KvLayout) -> Result<Self> {
        layout.check(bytes.len())?;
        Ok(Self { bytes, layout })
    }

    /// The scales of the rows of `block` from `first` on.
    pub(super) fn scales(&self, block: usize, first: usize, out: &mut [f32]) {
        let at = self.layout.scale_offset(block, first);
        for (scale, bytes) in out.iter_mut().zip(self.bytes[at..].chunks_exact(size_of::<f32>())) {
            *scale = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

/// The pages of one layer, to write.
#[derive(Debug)]
pub struct KvPagesMut<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) layout: KvLayout,
}

impl<'a> KvPagesMut<'a> {
    /// # Errors
    /// As [`KvPages::new`].
    pub fn new(bytes: &'a mut [u8], layout: KvLayout) -> Result<Self> {
        layout.check(bytes.len())?;
        Ok(Self { bytes, layout })
    }
}

/// The new tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct SequenceQueries<'a> {
    /// Row of its first new token.
    pub first_row: usize,
    /// New tokens: consecutive rows, at consecutive KV positions.
    pub num_new: usize,
    /// KV position of the first new token: how many positions came before.
    pub first_position: usize,
    /// Block of every `block_len` positions, through the last new token.
    pub blocks: &'a [u32],
}

impl SequenceQueries<'_> {
    pub(super) fn check(&self, op: &'static str, layout: &KvLayout, num_rows: usize) -> Result<()> {
        let end = self.first_position + self.num_new;
        ensure!(
            self.first_row + self.num_new <= num_rows
                && end <= self.blocks.len().saturating_mul(layout.block_len),
            op,
            "rows {}..{} of {num_rows}, positions to {end} in {} blocks of {}",
            self.first_row,
            self.first_row + self.num_new,
            self.blocks.len(),
            layout.block_len
        );
        let beyond = self.blocks.iter().find(|b| **b as usize >= layout.num_blocks);
        ensure!(beyond.is_none(), op, "block {beyond:?} of {}", layout.num_blocks);
        Ok(())
    }
}
