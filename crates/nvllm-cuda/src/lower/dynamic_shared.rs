//! What kernels take of shared memory at their launch, for those who list it.

use super::{attention, decode_pass, linear};

/// Columns of the layers that kernels are listed for; kernels for wider rows are for the second.
pub const LISTED_COLS: [usize; 2] = [1024, 1280];

/// The kernels with dynamic shared memory, and their bytes on Hopper: of linear layers with
/// [`LISTED_COLS`] columns, of a coded one in the public format that takes most, and of a decode
/// pass over rows of the first of these, without its list of weights.
pub fn dynamic_shared() -> Vec<(String, u32)> {
    let linear = LISTED_COLS.into_iter().flat_map(linear::shared_kernels);
    let all =
        linear.chain(attention::shared_kernels(false)).chain(decode_pass::shared_kernels(LISTED_COLS[0]));
    let mut found: Vec<(String, u32)> = Vec::new();
    for kernel in all {
        // What is there is for fewer columns, or takes more.
        if !found.iter().any(|(name, _)| *name == kernel.name) {
            found.push((kernel.name, kernel.shared));
        }
    }
    found
}
