//! What kernels/decode_pass/ limits a pass to.

use crate::kernels::decode_pass::decode_pass::shared_bytes;
use crate::kernels::decode_pass::weight_ring::{MOST_PAIRS, VALUE_PAIRS};
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::modules::SharedKernel;

pub(super) use crate::kernels::decode_pass::decode_pass::STATIC_SHARED;
/// Bytes of what lives from launch to launch, and of a counter.
pub(super) use crate::kernels::decode_pass::pass_state::STATE_BYTES;
/// Tensor maps of a weight.
pub(super) use crate::kernels::decode_pass::weight_ring::MAPS;

/// The kernel for heads of `d` columns and norms of `runs` runs of 8 columns a thread.
pub(super) fn kernel(d: usize, runs: usize) -> String {
    format!("decode_pass_d{d}_norm{runs}")
}

/// The kernels, with shared memory for a row of `cols` columns and all but the list of weights.
pub(in crate::lower) fn shared_kernels(cols: usize) -> Vec<SharedKernel> {
    let shapes = [64, 128].into_iter().flat_map(|d| [(d, 1), (d, 4)]);
    shapes
        .map(|(d, runs)| SharedKernel::new(kernel(d, runs), shared_bytes(MOST_PAIRS, 2 * cols, 0)))
        .collect()
}

/// Shared memory of a block: pairs of stages of the ring, and bytes of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub pairs: usize,
    pub bytes: usize,
}

impl Shared {
    /// As many pairs as have room in `room` bytes beside rows of `row_bytes` and the list of
    /// weights; None if values would leave none to a block that attends.
    pub(super) fn new(room: usize, row_bytes: usize, num_weights: usize) -> Option<Self> {
        let bytes = |pairs| shared_bytes(pairs, row_bytes, num_weights);
        let fits = |&pairs: &usize| bytes(pairs) + STATIC_SHARED <= room;
        let pairs = (VALUE_PAIRS + 1..=MOST_PAIRS).rev().find(fits)?;
        Some(Self { pairs, bytes: bytes(pairs) })
    }
}

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = norm_cols(4);
