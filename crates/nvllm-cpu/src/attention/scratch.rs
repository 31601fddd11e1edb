//! What attention keeps between calls.

use crate::scratch::Buffer;

/// A tile, or some chunks of one.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) seq: usize,
    pub(super) head: usize,
    /// First token of the tile within the new tokens, and how many.
    pub(super) token: usize,
    pub(super) num_tokens: usize,
    /// Chunks of keys: from `lo` up to and without `hi`.
    pub(super) lo: usize,
    pub(super) hi: usize,
    /// Where the tile's chunk states begin, in states of one row.
    pub(super) state: usize,
}

/// Work lists and chunk states, kept between calls.
#[derive(Default)]
pub(crate) struct AttentionScratch {
    pub(super) items: Vec<Item>,
    pub(super) parts: Vec<(Item, usize, usize)>,
    pub(super) states: Buffer,
}

impl AttentionScratch {
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }
}
