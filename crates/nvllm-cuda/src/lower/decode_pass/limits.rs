//! What kernels/decode_pass/ limits a pass to.

use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::modules::SharedKernel;

/// Shared memory for rows of x, and in all but for the list of weights.
pub(super) use crate::kernels::decode_pass::decode_pass::{SIDE_BYTES, STATIC_SHARED, WEIGHTS_AT as SHARED};
/// Bytes of what lives from launch to launch, and of a counter.
pub(super) use crate::kernels::decode_pass::pass_state::STATE_BYTES;
/// Rows at most that the kernel has room for.
pub(super) use crate::kernels::decode_pass::phase::MOST_ROWS;

/// Rows at most for which it is faster than its kernels one by one (bench/records/decode-step).
pub(super) const FASTER_ROWS: usize = 1;

/// The kernel for heads of `d` columns and norms of `runs` runs of 8 columns a thread.
pub(super) fn kernel(d: usize, runs: usize) -> String {
    format!("decode_pass_d{d}_norm{runs}")
}

/// The kernels, with shared memory for all but the list of weights.
pub(in crate::lower) fn shared_kernels() -> Vec<SharedKernel> {
    let shapes = [64, 128].into_iter().flat_map(|d| [(d, 1), (d, 4)]);
    shapes.map(|(d, runs)| SharedKernel::new(kernel(d, runs), SHARED)).collect()
}

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = norm_cols(4);
