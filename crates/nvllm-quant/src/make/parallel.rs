//! Rows on all processors.

use std::num::NonZero;
use std::thread::{available_parallelism, scope};

/// Work on so many elements takes longer than a thread takes to start.
const WORTH_A_THREAD: usize = 1 << 16;

/// Runs `work` on each row, of `cols` columns (the last may have fewer), with its number; `cost` is
/// about how many operations one takes.
pub(super) fn rows<T: Send>(all: &mut [T], cols: usize, cost: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let cols = cols.max(1);
    let num = all.len().div_ceil(cols);
    let threads =
        (num.saturating_mul(cost) / WORTH_A_THREAD).clamp(1, available_parallelism().map_or(1, NonZero::get));
    // In turns, since rows of a triangle differ in their work.
    let mut shares: Vec<Vec<(usize, &mut [T])>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, row) in all.chunks_mut(cols).enumerate() {
        shares[at % threads].push((at, row));
    }
    scope(|scope| {
        let work = &work;
        for share in shares {
            let run = move || share.into_iter().for_each(|(at, row)| work(at, row));
            if threads == 1 { run() } else { drop(scope.spawn(run)) }
        }
    });
}
