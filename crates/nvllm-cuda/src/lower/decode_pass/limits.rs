//! What kernels/decode_pass/ limits a pass to.

/// Rows at most: of those that the kernel has room for, and of those for which it is faster than
/// its kernels one by one (bench/records/decode-step).
pub(super) const MOST_ROWS: usize = 2;
pub(super) const FASTER_ROWS: usize = 1;

/// Shared memory for rows of x, and in all but for the list of weights, as decode_pass.cu has it.
pub(super) const SIDE_BYTES: usize = 65_536;
pub(super) const SHARED: usize = 206_848;

/// Static shared memory, and to spare.
pub(super) const STATIC_SHARED: usize = 2048;

/// Bytes of what lives from launch to launch, and of a counter: `PassState` and `Counter`.
pub(super) const STATE_BYTES: usize = 128;

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = 4096;
