//! Work lists of linear layers: which rows are packed, and which weight rows meet them.

use nvllm_cpu_kernels::{MAX_ROWS, Out, PANEL};

use super::weights::Place;

/// A packed group to be written: which rows of x, and which of `m` packed rows they become.
pub(super) struct Pack {
    pub(super) rows: [*const u8; MAX_ROWS],
    pub(super) num_rows: usize,
    pub(super) first: usize,
    pub(super) m: usize,
    pub(super) dst: *mut u8,
}

/// Weight rows that lie together, against one piece.
pub(super) struct Span {
    /// Number of its first chunk.
    pub(super) first: usize,
    pub(super) chunk: usize,
    pub(super) w: Place,
    pub(super) n: usize,
    pub(super) col: usize,
    pub(super) x: *const u8,
    pub(super) m: usize,
    pub(super) out: Out,
}

/// Work lists, kept between calls so that serving allocates nothing.
#[derive(Default)]
pub(crate) struct LinearLists {
    pub(super) packs: Vec<Pack>,
    pub(super) spans: Vec<Span>,
}

// SAFETY: addresses that are only followed inside the call that filled the lists.
unsafe impl Send for LinearLists {}
// SAFETY: as above; threads read the lists and write disjoint outputs.
unsafe impl Sync for LinearLists {}

/// At most about `most` of `n` weight rows: so many that every thread has as many to take.
pub(crate) fn rows_at_a_time(n: usize, most: usize, num_threads: usize) -> usize {
    let chunks = n.div_ceil(most.max(PANEL)).next_multiple_of(num_threads);
    n.div_ceil(chunks.max(1)).next_multiple_of(PANEL).max(PANEL)
}
