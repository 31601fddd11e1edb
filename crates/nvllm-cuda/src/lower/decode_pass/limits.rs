//! What kernels/decode_pass/ limits a pass to.

use crate::kernels::rms_norm::norm_order::norm_cols;

/// Shared memory for rows of x, and in all but for the list of weights.
pub(super) use crate::kernels::decode_pass::decode_pass::{SIDE_BYTES, STATIC_SHARED, WEIGHTS_AT as SHARED};
/// Bytes of what lives from launch to launch, and of a counter.
pub(super) use crate::kernels::decode_pass::pass_state::STATE_BYTES;
/// Rows at most that the kernel has room for.
pub(super) use crate::kernels::decode_pass::phase::MOST_ROWS;

/// Rows at most for which it is faster than its kernels one by one (bench/records/decode-step).
pub(super) const FASTER_ROWS: usize = 1;

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = norm_cols(4);
