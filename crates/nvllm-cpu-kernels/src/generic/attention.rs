//! Attention of a tile of query rows over one chunk of keys, and the merge of chunks.
//!
//! **The order.** A score is one chain of fused multiply-adds over the head dimension, ascending
//! (keys lie along the lanes, so a chunk of keys is transposed once for all query rows of the
//! tile). A chunk holds the keys of 64 consecutive absolute positions: its maximum, the sum of its
//! exponentials (two chains per lane, folded by halves) and its weighted sum of values (one chain
//! per element, ascending keys) depend on nothing but the query and those keys. Chunks are merged
//! in ascending order (online softmax: Milakov and Gimelshein, 2018; Dao et al., 2022). A masked
//! key takes part in nothing: its memory may hold anything.
//!
//! **Codes.** Where pages hold bytes ([`Page::SCALED`]), the chain of a score runs over the bytes'
//! numbers. Its sum is multiplied by the key's factor, then by the scale. An exponential is
//! summed, then multiplied by the value's factor, and that product is the weight of the bytes'
//! numbers in the weighted sum.

use super::pages::{Page, columns, with_page};
use super::with_elem;
use crate::elem::{Elem, PageElem};
use crate::simd::{F32, MAX_LANES, Simd, Stored, UNITS, UNITS_BYTES, exp, load_part, store_part};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Keys in a chunk.
pub const CHUNK: usize = 64;

/// One tile of query rows against one chunk, and where its result goes.
pub struct Chunk<'a> {
    /// `rows x head_dim` f32.
    pub q: *const f32,
    pub rows: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// Rows of `head_dim` elements: one per key from the chunk's first position, 1 to 64 of them.
    pub keys: &'a [*const u8],
    /// As `keys`.
    pub values: &'a [*const u8],
    /// The scale of each key's row; of any value where rows have none.
    pub key_scales: &'a [f32],
    /// The scale of each value's row, likewise.
    pub value_scales: &'a [f32],
    /// Keys of the chunk that comes next, to be fetched meanwhile; may be empty.
    pub next: &'a [*const u8],
    pub elem: PageElem,
    /// Per query row the keys it sees: from .0 up to and without .1.
    pub spans: &'a [(u32, u32)],
    /// Scratch: `head_dim x 64`.
    pub kt: *mut f32,
    /// Scratch: `rows x 64`.
    pub p: *mut f32,
    /// The result, per row: maximum, sum, and `head_dim` weighted values.
    pub state: State,
}

/// Softmax state of some query rows.
#[derive(Clone, Copy)]
pub struct State {
    pub max: *mut f32,
    pub sum: *mut f32,
    /// `rows x head_dim`.
    pub acc: *mut f32,
}

impl State {
    /// The state of no keys.
    pub unsafe fn clear(&self, rows: usize, head_dim: usize) {
        for r in 0..rows {
            *self.max.add(r) = f32::NEG_INFINITY;
            *self.sum.add(r) = 0.0;
        }
        std::ptr::write_bytes(self.acc, 0, rows * head_dim);
    }

    /// The state of the rows from `row` on.
    #[must_use]
    pub unsafe fn at_row(&self, row: usize, head_dim: usize) -> Self {
        Self { max: self.max.add(row), sum: self.sum.add(row), acc: self.acc.add(row * head_dim) }
    }
}

/// What the rows of a chunk are multiplied by, where [`Page::SCALED`].
struct Factors {
    keys: [f32; CHUNK],
    values: [f32; CHUNK],
}

impl Factors {
    #[inline(always)]
    unsafe fn new<E: Page>(a: &Chunk<'_>) -> Self {
        let mut factors = Self { keys: [0.0; CHUNK], values: [0.0; CHUNK] };
        if E::SCALED {
            for i in 0..a.keys.len() {
                factors.keys[i] = E::factor(a.keys[i], a.head_dim, a.key_scales[i]);
                factors.values[i] = E::factor(a.values[i], a.head_dim, a.value_scales[i]);
            }
        }
        factors
    }
}

/// Query rows for which keys are not transposed in memory: that pays from five on.
const FEW: usize = 4;

#[inline(always)]
pub(crate) unsafe fn chunk<S: Simd>(a: &Chunk<'_>) {
    with_page!(a.elem, E => {
        let factors = Factors::new::<E>(a);
        // As many chains in flight as registers hold.
        match a.rows {
            1 if S::LANES == 16 => few_scores::<S, E, 1, 4>(a, &factors),
            1 => few_scores::<S, E, 1, 8>(a, &factors),
            2 => few_scores::<S, E, 2, 4>(a, &factors),
            3 => few_scores::<S, E, 3, 2>(a, &factors),
            4 => few_scores::<S, E, 4, 2>(a, &factors),
            _ => transpose_keys::<S, E>(a),
        }
        a.state.clear(a.rows, a.head_dim);
        let mut row = 0;
        while row < a.rows {
            // Likewise: rows times vectors, of which a chunk has four of the widest.
            row += match a.rows - row {
                1 if S::LANES == 16 => tile::<S, E, 1, 4>(a, row, &factors),
                1 => tile::<S, E, 1, 8>(a, row, &factors),
                2 | 4 => tile::<S, E, 2, 4>(a, row, &factors),
                3 | 5 => tile::<S, E, 3, 4>(a, row, &factors),
                _ if S::LANES == 16 => tile::<S, E, 6, 4>(a, row, &factors),
                _ => tile::<S, E, 6, 2>(a, row, &factors),
            };
        }
    });
}

/// R query rows, V vectors of keys or of values at a time; returns R.
#[inline(always)]
unsafe fn tile<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    row: usize,
    factors: &Factors,
) -> usize {
    let n = if a.rows > FEW { a.keys.len().div_ceil(S::LANES) } else { 0 };
    let mut j = 0;
    while j + V <= n {
        scores::<S, E, R, V>(a, row, j * S::LANES, factors);
        j += V;
    }
    while j < n {
        scores::<S, E, R, 1>(a, row, j * S::LANES, factors);
        j += 1;
    }
    for r in row..row + R {
        softmax::<S>(a, r);
        if E::SCALED {
            scale_weights::<S>(a, r, factors);
        }
    }
    let (mut lo, mut hi) = (0, CHUNK as u32);
    for s in &a.spans[row..row + R] {
        lo = lo.max(s.0);
        hi = hi.min(s.1);
    }
    // Keys that all rows see in one tile, those before and after row by row.
    if R > 1 && lo < hi {
        for (r, s) in a.spans[row..row + R].iter().enumerate() {
            weigh::<S, E, 1, 8>(a, row + r, s.0, lo);
        }
        weigh::<S, E, R, V>(a, row, lo, hi);
        for (r, s) in a.spans[row..row + R].iter().enumerate() {
            weigh::<S, E, 1, 8>(a, row + r, hi, s.1);
        }
    } else {
        for (r, s) in a.spans[row..row + R].iter().enumerate() {
            weigh::<S, E, 1, 8>(a, row + r, s.0, s.1);
        }
    }
    R
}

/// Asks for the values of the keys from `key` on, one vector of them, at byte `at` of each row.
/// Pages are short runs of memory: the machine's own prefetch starts anew in each.
#[inline(always)]
unsafe fn prefetch_values<S: Simd>(a: &Chunk<'_>, key: usize, at: usize) {
    if at.is_multiple_of(LINE) {
        for value in a.values.iter().skip(key).take(S::LANES) {
            S::prefetch(value.wrapping_add(at));
        }
    }
}

/// The rows of one vector of keys from `key` on. Behind the last key they repeat it: those lanes
/// are masked later.
#[inline(always)]
unsafe fn key_rows<S: Simd>(a: &Chunk<'_>, key: usize) -> [*const u8; MAX_LANES] {
    let last = a.keys.len() - 1;
    let mut rows = [a.keys[last]; MAX_LANES];
    for i in 0..S::LANES {
        rows[i] = a.keys[last.min(key + i)];
    }
    rows
}

/// Writes keys as columns.
#[inline(always)]
unsafe fn transpose_keys<S: Simd, E: Page>(a: &Chunk<'_>) {
    let row_bytes = a.head_dim * E::SIZE;
    for key in (0..a.keys.len()).step_by(S::LANES) {
        let rows = key_rows::<S>(a, key);
        for at in (0..row_bytes).step_by(UNITS_BYTES) {
            prefetch_values::<S>(a, key, at);
            let units = columns::<S>(&rows, at, row_bytes);
            let mut dst = a.kt.add(at / E::SIZE * CHUNK + key);
            for u in 0..UNITS.min((row_bytes - at) / 4) {
                for part in 0..E::PARTS {
                    S::store(dst, E::part::<S>(units[u], part));
                    dst = dst.add(CHUNK);
                }
            }
        }
    }
}

/// Scores of all R query rows, where these are too few to transpose keys for: the same chains, on
/// columns that stay in registers.
#[inline(always)]
unsafe fn few_scores<S: Simd, E: Page, const R: usize, const V: usize>(a: &Chunk<'_>, factors: &Factors) {
    let n = a.keys.len().div_ceil(S::LANES);
    let mut j = 0;
    while j + V <= n {
        few_columns::<S, E, R, V>(a, j * S::LANES, factors);
        j += V;
    }
    while j < n {
        few_columns::<S, E, R, 1>(a, j * S::LANES, factors);
        j += 1;
    }
}

/// [`few_scores`] for V vectors of keys from `key` on.
#[inline(always)]
unsafe fn few_columns<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    key: usize,
    factors: &Factors,
) {
    let row_bytes = a.head_dim * E::SIZE;
    let mut rows = [[a.keys[0]; MAX_LANES]; V];
    for v in 0..V {
        rows[v] = key_rows::<S>(a, key + v * S::LANES);
    }
    let mut acc = [[S::splat(0.0); V]; R];
    for at in (0..row_bytes).step_by(UNITS_BYTES) {
        let q = a.q.add(at / E::SIZE);
        for v in 0..V {
            prefetch_values::<S>(a, key + v * S::LANES, at);
            // Apart, so that the loop over whole columns has a known length.
            if at + UNITS_BYTES <= row_bytes {
                let units = S::columns(&rows[v], at);
                multiply::<S, E, R, V>(q, a.head_dim, &units, UNITS, &mut acc, v);
            } else {
                let units = columns::<S>(&rows[v], at, row_bytes);
                multiply::<S, E, R, V>(q, a.head_dim, &units, (row_bytes - at) / 4, &mut acc, v);
            }
        }
    }
    write_scores::<S, E, R, V>(a, 0, key, &acc, factors);
}

/// Continues the chains of R rows with vector v of keys over `num` units.
#[inline(always)]
unsafe fn multiply<S: Simd, E: Page, const R: usize, const V: usize>(
    q: *const f32,
    head_dim: usize,
    units: &[S::Units; UNITS],
    num: usize,
    acc: &mut [[S::V; V]; R],
    v: usize,
) {
    for u in 0..num {
        for part in 0..E::PARTS {
            let k = E::part::<S>(units[u], part);
            for r in 0..R {
                let qv = S::splat(*q.add(r * head_dim + u * E::PARTS + part));
                acc[r][v] = S::fma(qv, k, acc[r][v]);
            }
        }
    }
}

/// Scores of R query rows with V vectors of keys from `key` on, in `a.p`.
#[inline(always)]
unsafe fn scores<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    row: usize,
    key: usize,
    factors: &Factors,
) {
    let q = a.q.add(row * a.head_dim);
    let mut acc = [[S::splat(0.0); V]; R];
    for d in 0..a.head_dim {
        let mut k = [S::splat(0.0); V];
        for v in 0..V {
            k[v] = S::load(a.kt.add(d * CHUNK + key + v * S::LANES));
        }
        for r in 0..R {
            let qv = S::splat(*q.add(r * a.head_dim + d));
            for v in 0..V {
                acc[r][v] = S::fma(qv, k[v], acc[r][v]);
            }
        }
    }
    write_scores::<S, E, R, V>(a, row, key, &acc, factors);
}

/// Multiplies sums of products by the keys' factors and the scale, and writes them to `a.p`.
#[inline(always)]
unsafe fn write_scores<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    row: usize,
    key: usize,
    sums: &[[S::V; V]; R],
    factors: &Factors,
) {
    let p = a.p.add(row * CHUNK + key);
    let scale = S::splat(a.scale);
    for v in 0..V {
        for r in 0..R {
            let mut sum = sums[r][v];
            if E::SCALED {
                sum = S::mul(sum, S::load(factors.keys.as_ptr().add(key + v * S::LANES)));
            }
            S::store(p.add(r * CHUNK + v * S::LANES), S::mul(sum, scale));
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
    let mut maxima = S::load(p);
    for i in 1..CHUNK / S::LANES {
        maxima = S::max(maxima, S::load(p.add(i * S::LANES)));
    }
    let mut lanes = [0.0f32; 16];
    S::store(lanes.as_mut_ptr(), maxima);
    let mut max = f32::NEG_INFINITY;
    for lane in &lanes[..S::LANES] {
        max = if max > *lane { max } else { *lane };
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

/// Multiplies the exponentials of a row, which have been summed, by the values' factors.
#[inline(always)]
unsafe fn scale_weights<S: Simd>(a: &Chunk<'_>, row: usize, factors: &Factors) {
    for j in (0..CHUNK).step_by(S::LANES) {
        let p = a.p.add(row * CHUNK + j);
        S::store(p, S::mul(S::load(p), S::load(factors.values.as_ptr().add(j))));
    }
}

/// Continues the chains of R rows over keys `lo..hi`.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    row: usize,
    lo: u32,
    hi: u32,
) {
    if lo >= hi {
        return;
    }
    let (lo, hi) = (lo as usize, hi as usize);
    let mut d = 0;
    while d + V * S::LANES <= a.head_dim {
        weigh_vectors::<S, E, R, V>(a, row, lo, hi, d);
        d += V * S::LANES;
    }
    while d + S::LANES <= a.head_dim {
        weigh_vectors::<S, E, R, 1>(a, row, lo, hi, d);
        d += S::LANES;
    }
    if d < a.head_dim {
        let n = a.head_dim - d;
        for r in row..row + R {
            let at = a.state.acc.add(r * a.head_dim + d).cast::<u8>();
            let mut acc = load_part::<S, F32>(at, n);
            for (j, v) in a.values[lo..hi].iter().enumerate() {
                let weight = S::splat(*a.p.add(r * CHUNK + lo + j));
                acc = S::fma(weight, E::load_part::<S>(v.add(d * E::SIZE), n), acc);
            }
            store_part::<S, F32>(at, acc, n);
        }
    }
}

/// [`weigh`] for V vectors of elements from `d` on.
#[inline(always)]
unsafe fn weigh_vectors<S: Simd, E: Page, const R: usize, const V: usize>(
    a: &Chunk<'_>,
    row: usize,
    lo: usize,
    hi: usize,
    d: usize,
) {
    let out = a.state.acc.add(row * a.head_dim + d);
    // Elements at even and at odd places apart, where that is how they are loaded.
    let paired = E::PAIRED && V.is_multiple_of(2);
    let mut acc = [[S::splat(0.0); V]; R];
    for r in 0..R {
        for v in 0..V {
            acc[r][v] = S::load(out.add(r * a.head_dim + v * S::LANES));
        }
        for v in (0..if paired { V } else { 0 }).step_by(2) {
            [acc[r][v], acc[r][v + 1]] = S::unzip(acc[r][v], acc[r][v + 1]);
        }
    }
    let mut p = a.p.add(row * CHUNK + lo);
    // The first tile asks for the next chunk's keys, one part of each row at a time.
    let next = if row == 0 { a.next } else { &[] };
    for (j, value) in a.values[lo..hi].iter().enumerate() {
        if let Some(key) = next.get(lo + j) {
            for line in (0..V * S::LANES * E::SIZE).step_by(LINE) {
                S::prefetch(key.wrapping_add(d * E::SIZE + line));
            }
        }
        let mut x = [S::splat(0.0); V];
        if paired {
            for v in (0..V).step_by(2) {
                [x[v], x[v + 1]] = E::load_pair::<S>(value.add((d + v * S::LANES) * E::SIZE));
            }
        } else {
            for v in 0..V {
                x[v] = E::load::<S>(value.add((d + v * S::LANES) * E::SIZE));
            }
        }
        for r in 0..R {
            let weight = S::splat(*p.add(r * CHUNK));
            for v in 0..V {
                acc[r][v] = S::fma(weight, x[v], acc[r][v]);
            }
        }
        p = p.add(1);
    }
    for r in 0..R {
        for v in (0..if paired { V } else { 0 }).step_by(2) {
            [acc[r][v], acc[r][v + 1]] = S::zip(acc[r][v], acc[r][v + 1]);
        }
        for v in 0..V {
            S::store(out.add(r * a.head_dim + v * S::LANES), acc[r][v]);
        }
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
            let x = load_part_or_all::<S, F32>(into.add(d).cast(), n);
            let y = load_part_or_all::<S, F32>(from.add(d).cast(), n);
            let v = S::fma(x, factor_a, S::mul(y, factor_b));
            if n == S::LANES {
                S::store(into.add(d), v);
            } else {
                store_part::<S, F32>(into.add(d).cast(), v, n);
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
            let x = load_part_or_all::<S, F32>(acc.add(d).cast(), n);
            let v = S::mul(x, inverse);
            if n == S::LANES {
                E::store::<S>(out.add(d * E::BYTES), v);
            } else {
                store_part::<S, E>(out.add(d * E::BYTES), v, n);
            }
        }
    });
}
