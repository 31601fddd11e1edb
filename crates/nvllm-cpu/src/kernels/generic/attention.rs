//! Attention of a tile of query rows over one chunk of keys, and the merge of chunks.
//!
//! **The order.** A score is one chain of fused multiply-adds over the head dimension, ascending (keys lie along the lanes, so a
//! chunk of keys is transposed once for all query rows of the tile). A chunk holds the keys of 64 consecutive absolute positions:
//! its maximum, the sum of its exponentials (two chains per lane, folded by halves) and its weighted sum of values (one chain per
//! element, ascending keys) depend on nothing but the query and those keys. Chunks are merged in ascending order (online softmax:
//! Milakov and Gimelshein, 2018; Dao et al., 2022). A masked key takes part in nothing: its memory may hold anything.

use super::with_elem;
use crate::kernels::Elem;
use crate::kernels::simd::{Simd, Stored, exp, load_part, store_part};

/// Keys in a chunk.
pub(crate) const CHUNK: usize = 64;
/// Query rows in a register tile.
const TILE: usize = 6;

/// One tile of query rows against one chunk, and where its result goes.
pub(crate) struct Chunk<'a> {
    /// `rows x head_dim` f32.
    pub(crate) q: *const f32,
    pub(crate) rows: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// Rows of `head_dim` elements: one per key from the chunk's first position, 1 to 64 of them.
    pub(crate) keys: &'a [*const u8],
    /// As `keys`.
    pub(crate) values: &'a [*const u8],
    pub(crate) elem: Elem,
    /// Per query row the keys it sees: from .0 up to and without .1.
    pub(crate) spans: &'a [(u32, u32)],
    /// Scratch: `head_dim x 64`.
    pub(crate) kt: *mut f32,
    /// Scratch: `rows x 64`.
    pub(crate) p: *mut f32,
    /// The result, per row: maximum, sum, and `head_dim` weighted values.
    pub(crate) state: State,
}

/// Softmax state of some query rows.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(crate) max: *mut f32,
    pub(crate) sum: *mut f32,
    /// `rows x head_dim`.
    pub(crate) acc: *mut f32,
}

impl State {
    /// The state of no keys.
    pub(crate) unsafe fn clear(&self, rows: usize, head_dim: usize) {
        for r in 0..rows {
            *self.max.add(r) = f32::NEG_INFINITY;
            *self.sum.add(r) = 0.0;
        }
        std::ptr::write_bytes(self.acc, 0, rows * head_dim);
    }

    /// The state of the rows from `row` on.
    pub(crate) unsafe fn at_row(&self, row: usize, head_dim: usize) -> Self {
        Self { max: self.max.add(row), sum: self.sum.add(row), acc: self.acc.add(row * head_dim) }
    }
}

#[inline(always)]
pub(crate) unsafe fn chunk<S: Simd>(a: &Chunk<'_>) {
    with_elem!(a.elem, E => {
        transpose_keys::<S, E>(a);
        let mut r = 0;
        while r + TILE <= a.rows {
            scores::<S, TILE>(a, r);
            r += TILE;
        }
        while r < a.rows {
            scores::<S, 1>(a, r);
            r += 1;
        }
        a.state.clear(a.rows, a.head_dim);
        for r in 0..a.rows {
            softmax::<S>(a, r);
        }
        let mut r = 0;
        while r + TILE <= a.rows {
            weigh_tile::<S, E, TILE>(a, r);
            r += TILE;
        }
        while r + 2 <= a.rows {
            weigh_tile::<S, E, 2>(a, r);
            r += 2;
        }
        while r < a.rows {
            weigh_tile::<S, E, 1>(a, r);
            r += 1;
        }
    });
}

/// Writes keys as columns. The last group of eight repeats the last key: those lanes are masked later.
#[inline(always)]
unsafe fn transpose_keys<S: Simd, E: Stored>(a: &Chunk<'_>) {
    let last = a.keys.len() - 1;
    for j in (0..a.keys.len().next_multiple_of(S::LANES)).step_by(8) {
        for d in (0..a.head_dim).step_by(8) {
            let mut src = [a.keys[last]; 8];
            for (i, p) in src.iter_mut().enumerate() {
                *p = a.keys[last.min(j + i)].add(d * E::BYTES);
            }
            S::transpose8::<E>(src, a.kt.add(d * CHUNK + j), CHUNK);
        }
    }
}

/// Scores of R query rows with all keys of the chunk, in `a.p`.
#[inline(always)]
unsafe fn scores<S: Simd, const R: usize>(a: &Chunk<'_>, row: usize) {
    let q = a.q.add(row * a.head_dim);
    let p = a.p.add(row * CHUNK);
    let n = a.keys.len();
    let scale = S::splat(a.scale);
    let mut j = 0;
    while j + S::LANES < n {
        let mut acc = [[S::splat(0.0); 2]; R];
        for d in 0..a.head_dim {
            let k = a.kt.add(d * CHUNK + j);
            let (k0, k1) = (S::load(k), S::load(k.add(S::LANES)));
            for r in 0..R {
                let qv = S::splat(*q.add(r * a.head_dim + d));
                acc[r][0] = S::fma(qv, k0, acc[r][0]);
                acc[r][1] = S::fma(qv, k1, acc[r][1]);
            }
        }
        for r in 0..R {
            S::store(p.add(r * CHUNK + j), S::mul(acc[r][0], scale));
            S::store(p.add(r * CHUNK + j + S::LANES), S::mul(acc[r][1], scale));
        }
        j += 2 * S::LANES;
    }
    if j < n {
        let mut acc = [S::splat(0.0); R];
        for d in 0..a.head_dim {
            let k = S::load(a.kt.add(d * CHUNK + j));
            for r in 0..R {
                acc[r] = S::fma(S::splat(*q.add(r * a.head_dim + d)), k, acc[r]);
            }
        }
        for r in 0..R {
            S::store(p.add(r * CHUNK + j), S::mul(acc[r], scale));
        }
    }
}

/// Masks one row of scores, finds its maximum, replaces it by exponentials and sums them.
#[inline(always)]
unsafe fn softmax<S: Simd>(a: &Chunk<'_>, row: usize) {
    let (lo, hi) = (a.spans[row].0 as usize, a.spans[row].1 as usize);
    if lo >= hi {
        return;
    }
    let p = a.p.add(row * CHUNK);
    for j in (0..lo).chain(hi..CHUNK) {
        *p.add(j) = f32::NEG_INFINITY;
    }
    let mut max = f32::NEG_INFINITY;
    for j in lo..hi {
        let s = *p.add(j);
        max = if max > s { max } else { s };
    }
    let shift = S::splat(max);
    let mut sums = [S::splat(0.0); 8];
    let vectors = CHUNK / S::LANES;
    for i in 0..vectors {
        let at = p.add(i * S::LANES);
        let e = exp::<S>(S::sub(S::load(at), shift));
        S::store(at, e);
        let chain = i % (vectors / 2);
        sums[chain] = S::add(sums[chain], e);
    }
    let mut half = vectors / 4;
    while half > 0 {
        for i in 0..half {
            sums[i] = S::add(sums[i], sums[i + half]);
        }
        half /= 2;
    }
    *a.state.max.add(row) = max;
    *a.state.sum.add(row) = S::fold(sums[0]);
}

/// Adds the weighted values of R rows: keys that all of them see in one tile, those before and after row by row.
#[inline(always)]
unsafe fn weigh_tile<S: Simd, E: Stored, const R: usize>(a: &Chunk<'_>, row: usize) {
    let spans = &a.spans[row..row + R];
    let (mut lo, mut hi) = (0, CHUNK as u32);
    for s in spans {
        lo = lo.max(s.0);
        hi = hi.min(s.1);
    }
    if R == 1 || lo >= hi {
        for r in 0..R {
            weigh::<S, E, 1>(a, row + r, spans[r].0, spans[r].1);
        }
        return;
    }
    for r in 0..R {
        weigh::<S, E, 1>(a, row + r, spans[r].0, lo);
    }
    weigh::<S, E, R>(a, row, lo, hi);
    for r in 0..R {
        weigh::<S, E, 1>(a, row + r, hi, spans[r].1);
    }
}

/// Continues the chains of R rows over keys `lo..hi`.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Stored, const R: usize>(a: &Chunk<'_>, row: usize, lo: u32, hi: u32) {
    if lo >= hi {
        return;
    }
    let p = a.p.add(row * CHUNK);
    let out = a.state.acc.add(row * a.head_dim);
    let values = &a.values[lo as usize..hi as usize];
    let mut d = 0;
    while d + 2 * S::LANES <= a.head_dim {
        let mut acc = [[S::splat(0.0); 2]; R];
        for r in 0..R {
            acc[r][0] = S::load(out.add(r * a.head_dim + d));
            acc[r][1] = S::load(out.add(r * a.head_dim + d + S::LANES));
        }
        for (j, v) in values.iter().enumerate() {
            let (v0, v1) =
                (E::load::<S>(v.add(d * E::BYTES)), E::load::<S>(v.add((d + S::LANES) * E::BYTES)));
            for r in 0..R {
                let weight = S::splat(*p.add(r * CHUNK + lo as usize + j));
                acc[r][0] = S::fma(weight, v0, acc[r][0]);
                acc[r][1] = S::fma(weight, v1, acc[r][1]);
            }
        }
        for r in 0..R {
            S::store(out.add(r * a.head_dim + d), acc[r][0]);
            S::store(out.add(r * a.head_dim + d + S::LANES), acc[r][1]);
        }
        d += 2 * S::LANES;
    }
    while d < a.head_dim {
        let n = S::LANES.min(a.head_dim - d);
        for r in 0..R {
            let at = out.add(r * a.head_dim + d).cast::<u8>();
            let mut acc = load_part_or_all::<S, crate::kernels::simd::F32>(at, n);
            for (j, v) in values.iter().enumerate() {
                let weight = S::splat(*p.add(r * CHUNK + lo as usize + j));
                acc = S::fma(weight, load_part_or_all::<S, E>(v.add(d * E::BYTES), n), acc);
            }
            if n == S::LANES {
                S::store(at.cast(), acc);
            } else {
                store_part::<S, crate::kernels::simd::F32>(at, acc, n);
            }
        }
        d += n;
    }
}

#[inline(always)]
unsafe fn load_part_or_all<S: Simd, E: Stored>(p: *const u8, n: usize) -> S::V {
    if n == S::LANES { E::load::<S>(p) } else { load_part::<S, E>(p, n) }
}

/// Merges the chunk state `b` into the running state `a`. A row without keys changes nothing.
#[inline(always)]
pub(crate) unsafe fn merge<S: Simd>(a: State, b: State, rows: usize, head_dim: usize) {
    for r in 0..rows {
        let (max_a, max_b) = (*a.max.add(r), *b.max.add(r));
        if max_b == f32::NEG_INFINITY {
            continue;
        }
        let max = if max_a > max_b { max_a } else { max_b };
        let factor_a = exp::<S>(S::splat(max_a - max));
        let factor_b = exp::<S>(S::splat(max_b - max));
        let sum = S::fma(S::splat(*a.sum.add(r)), factor_a, S::mul(S::splat(*b.sum.add(r)), factor_b));
        let mut lanes = [0.0f32; 16];
        S::store(lanes.as_mut_ptr(), sum);
        *a.max.add(r) = max;
        *a.sum.add(r) = lanes[0];
        let (into, from) = (a.acc.add(r * head_dim), b.acc.add(r * head_dim));
        for d in (0..head_dim).step_by(S::LANES) {
            let n = S::LANES.min(head_dim - d);
            let x = load_part_or_all::<S, crate::kernels::simd::F32>(into.add(d).cast(), n);
            let y = load_part_or_all::<S, crate::kernels::simd::F32>(from.add(d).cast(), n);
            let v = S::fma(x, factor_a, S::mul(y, factor_b));
            if n == S::LANES {
                S::store(into.add(d), v);
            } else {
                store_part::<S, crate::kernels::simd::F32>(into.add(d).cast(), v, n);
            }
        }
    }
}

/// Writes `acc / sum` of one row.
#[inline(always)]
pub(crate) unsafe fn finish<S: Simd>(acc: *const f32, sum: f32, head_dim: usize, out: *mut u8, elem: Elem) {
    with_elem!(elem, E => {
        let inverse = S::splat(1.0 / sum);
        for d in (0..head_dim).step_by(S::LANES) {
            let n = S::LANES.min(head_dim - d);
            let x = load_part_or_all::<S, crate::kernels::simd::F32>(acc.add(d).cast(), n);
            let v = S::mul(x, inverse);
            if n == S::LANES {
                E::store::<S>(out.add(d * E::BYTES), v);
            } else {
                store_part::<S, E>(out.add(d * E::BYTES), v, n);
            }
        }
    });
}
