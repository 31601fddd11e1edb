//! How fast this process can multiply matrices with the crate's own kernel: the limit that a
//! prefill is held against.

use std::sync::Arc;
use std::time::Instant;

use crate::{ActMode, Cpu, Elem, Kernels, Pool, Rows, RowsMut, Segment, Weights};

/// Rows of activations, weight rows, columns: a layer's projection in a small model, over as many
/// rows as are packed at once.
const SHAPE: (usize, usize, usize) = (480, 2048, 1024);

/// The median rate, in multiplications and additions a second, of `passes` products `[480, 1024] x
/// [2048, 1024]^T` of weights of type `elem` by every thread of the pool. 0 if the kernels do not
/// run this combination.
pub fn measure_matmul_rate(
    pool: &Arc<Pool>,
    kernels: &'static Kernels,
    elem: Elem,
    mode: ActMode,
    passes: usize,
) -> f64 {
    let (m, n, k) = SHAPE;
    let act = if mode == ActMode::Bf16 { Elem::Bf16 } else { Elem::F32 };
    // 0x3c3c is a small positive number in bf16 and f16, and in f32 when repeated.
    let (weights, x) = (vec![0x3c_u8; n * k * elem.size()], vec![0x3c_u8; m * k * act.size()]);
    let mut out = vec![0_u8; m * n * Elem::F32.size()];
    let mut cpu = Cpu::new(Arc::clone(pool), kernels);
    let mut seconds = Vec::with_capacity(passes + 1);
    for _ in 0..=passes.max(1) {
        let start = Instant::now();
        let rows = (Rows::new(&x, act, m, k), RowsMut::new(&mut out, Elem::F32, m, n));
        let (Ok(x), Ok(out)) = rows else { return 0.0 };
        let segments = [Segment::Dense(&weights, elem)];
        if cpu.linear(x, Weights { segments: &segments, k }, None, mode, out).is_err() {
            return 0.0;
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    // The first pass grows the scratch.
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    (2 * m * n * k) as f64 / seconds[seconds.len() / 2]
}
