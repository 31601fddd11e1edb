//! How fast this process can read memory: the limit that a decode step is held against.

use crate::{Kernels, Pool};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Bytes that a thread takes at a time: a multiple of the page size.
const CHUNK: usize = 256 * 1024;

/// Reads all of `bytes` once with every thread of the pool (a vector sum) and returns the seconds
/// it took.
pub fn read_once(pool: &Pool, kernels: &Kernels, bytes: &[u8]) -> f64 {
    let sink = AtomicU32::new(0);
    let start = Instant::now();
    pool.for_chunks(bytes.len(), CHUNK, |_, range| {
        let part = &bytes[range];
        // SAFETY: the part holds this many f32; loads are unaligned, any bits are an f32.
        let sum = unsafe { (kernels.rows.sum)(part.as_ptr().cast(), part.len() / 4) };
        sink.fetch_xor(sum.to_bits(), Ordering::Relaxed);
    });
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(sink.into_inner());
    seconds
}

/// The median rate, in bytes per second, of `passes` reads of a fresh buffer of `bytes` bytes, by
/// every thread of the pool. Give several times the last-level cache. Allocates and fills the
/// buffer first.
pub fn measure_read_bandwidth(pool: &Pool, kernels: &Kernels, bytes: usize, passes: usize) -> f64 {
    let buffer = vec![0x3fu8; bytes];
    let mut seconds: Vec<f64> = (0..passes.max(1)).map(|_| read_once(pool, kernels, &buffer)).collect();
    seconds.sort_by(f64::total_cmp);
    bytes as f64 / seconds[seconds.len() / 2]
}
