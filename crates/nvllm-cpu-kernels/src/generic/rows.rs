//! Element-wise and per-row kernels: f32 arithmetic between loads and stores of any element type.

use super::with_elem;
use crate::elem::Elem;
use crate::simd::{Simd, Stored, exp, load_part, store_part};

/// Two inputs, one output, `n` elements each; inputs of one type.
pub struct Binary {
    pub a: *const u8,
    pub b: *const u8,
    pub elem: Elem,
    pub out: *mut u8,
    pub out_elem: Elem,
    pub n: usize,
}

/// RMS norm of `groups` consecutive groups of `n` elements, all with the same weight of `n`
/// elements.
pub struct RmsNorm {
    pub x: *const u8,
    pub elem: Elem,
    pub weight: *const u8,
    pub weight_elem: Elem,
    pub out: *mut u8,
    pub out_elem: Elem,
    pub n: usize,
    pub groups: usize,
    pub eps: f32,
}

/// Rotation of `heads` consecutive heads of `head_dim` elements: element i < half pairs with i +
/// half; the rest is copied.
pub struct Rope {
    pub x: *const u8,
    pub elem: Elem,
    pub out: *mut u8,
    pub out_elem: Elem,
    pub cos: *const f32,
    pub sin: *const f32,
    pub half: usize,
    pub head_dim: usize,
    pub heads: usize,
}

/// `out[i] = sum over j of weights[j] * rows[j][i]`, j ascending, fused.
pub struct WeightedSum<'a> {
    pub rows: &'a [*const u8],
    pub weights: &'a [f32],
    pub elem: Elem,
    pub out: *mut u8,
    pub out_elem: Elem,
    pub n: usize,
}

/// Loads up to `LANES` elements from index `i` of `n`, with zeros after the end.
#[inline(always)]
unsafe fn load_at<S: Simd, E: Stored>(p: *const u8, i: usize, n: usize) -> S::V {
    let at = p.add(i * E::BYTES);
    if i + S::LANES <= n { E::load::<S>(at) } else { load_part::<S, E>(at, n - i) }
}

/// Stores the lanes that lie before `n`.
#[inline(always)]
unsafe fn store_at<S: Simd, E: Stored>(p: *mut u8, v: S::V, i: usize, n: usize) {
    let at = p.add(i * E::BYTES);
    if i + S::LANES <= n {
        E::store::<S>(at, v);
    } else {
        store_part::<S, E>(at, v, n - i);
    }
}

#[inline(always)]
pub(crate) unsafe fn convert<S: Simd>(
    src: *const u8,
    src_elem: Elem,
    dst: *mut u8,
    dst_elem: Elem,
    n: usize,
) {
    with_elem!(src_elem, A => with_elem!(dst_elem, B => {
        for i in (0..n).step_by(S::LANES) {
            store_at::<S, B>(dst, load_at::<S, A>(src, i, n), i, n);
        }
    }));
}

#[inline(always)]
pub(crate) unsafe fn add<S: Simd>(a: &Binary) {
    with_elem!(a.elem, A => with_elem!(a.out_elem, B => {
        for i in (0..a.n).step_by(S::LANES) {
            let sum = S::add(load_at::<S, A>(a.a, i, a.n), load_at::<S, A>(a.b, i, a.n));
            store_at::<S, B>(a.out, sum, i, a.n);
        }
    }));
}

/// `a / (1 + e^-a) * b`.
#[inline(always)]
pub(crate) unsafe fn silu_mul<S: Simd>(a: &Binary) {
    with_elem!(a.elem, A => with_elem!(a.out_elem, B => {
        for i in (0..a.n).step_by(S::LANES) {
            let gate = load_at::<S, A>(a.a, i, a.n);
            let up = load_at::<S, A>(a.b, i, a.n);
            let e = exp::<S>(S::sub(S::splat(0.0), gate));
            let silu = S::div(gate, S::add(S::splat(1.0), e));
            store_at::<S, B>(a.out, S::mul(silu, up), i, a.n);
        }
    }));
}

/// Sum of squares: 32 chains, folded by halves.
#[inline(always)]
unsafe fn sum_squares<S: Simd, E: Stored>(x: *const u8, n: usize) -> f32 {
    let phases = 32 / S::LANES;
    let mut acc = [S::splat(0.0); 8];
    for i in (0..n.next_multiple_of(32)).step_by(32) {
        for p in 0..phases {
            let at = i + p * S::LANES;
            let v = if at < n { load_at::<S, E>(x, at, n) } else { S::splat(0.0) };
            acc[p] = S::fma(v, v, acc[p]);
        }
    }
    let mut half = phases / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = S::add(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    S::fold(acc[0])
}

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019), one rounding at the end.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(a: &RmsNorm) {
    with_elem!(a.elem, A => with_elem!(a.weight_elem, W => with_elem!(a.out_elem, B => {
        for g in 0..a.groups {
            let x = a.x.add(g * a.n * A::BYTES);
            let out = a.out.add(g * a.n * B::BYTES);
            let mean = sum_squares::<S, A>(x, a.n) / a.n as f32;
            let scale = S::splat(1.0 / (mean + a.eps).sqrt());
            for i in (0..a.n).step_by(S::LANES) {
                let normed = S::mul(load_at::<S, A>(x, i, a.n), scale);
                store_at::<S, B>(out, S::mul(normed, load_at::<S, W>(a.weight, i, a.n)), i, a.n);
            }
        }
    })));
}

/// Rotary embedding, half-split pairs (Su et al., 2021, in the layout of GPT-NeoX and Llama
/// checkpoints).
#[inline(always)]
pub(crate) unsafe fn rope<S: Simd>(a: &Rope) {
    with_elem!(a.elem, A => with_elem!(a.out_elem, B => {
        let (half, rest) = (a.half, a.head_dim - 2 * a.half);
        for h in 0..a.heads {
            let x = a.x.add(h * a.head_dim * A::BYTES);
            let out = a.out.add(h * a.head_dim * B::BYTES);
            for i in (0..half).step_by(S::LANES) {
                let lo = load_at::<S, A>(x, i, half);
                let hi = load_at::<S, A>(x.add(half * A::BYTES), i, half);
                let cos = load_at::<S, crate::simd::F32>(a.cos.cast(), i, half);
                let sin = load_at::<S, crate::simd::F32>(a.sin.cast(), i, half);
                let new_lo = S::sub(S::mul(lo, cos), S::mul(hi, sin));
                let new_hi = S::add(S::mul(hi, cos), S::mul(lo, sin));
                store_at::<S, B>(out, new_lo, i, half);
                store_at::<S, B>(out.add(half * B::BYTES), new_hi, i, half);
            }
            for i in (0..rest).step_by(S::LANES) {
                let v = load_at::<S, A>(x.add(2 * half * A::BYTES), i, rest);
                store_at::<S, B>(out.add(2 * half * B::BYTES), v, i, rest);
            }
        }
    }));
}

#[inline(always)]
pub(crate) unsafe fn weighted_sum<S: Simd>(a: &WeightedSum<'_>) {
    with_elem!(a.elem, A => with_elem!(a.out_elem, B => {
        for i in (0..a.n).step_by(S::LANES) {
            let mut acc = S::splat(0.0);
            for (row, weight) in a.rows.iter().zip(a.weights) {
                acc = S::fma(load_at::<S, A>(*row, i, a.n), S::splat(*weight), acc);
            }
            store_at::<S, B>(a.out, acc, i, a.n);
        }
    }));
}

/// Sums `n` f32, as little work per byte as reading allows: four streams, each a quarter of the
/// elements, two registers each. (One stream alone keeps fewer cache misses in flight.)
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd>(p: *const f32, n: usize) -> f32 {
    let mut acc = [[S::splat(0.0); 2]; 4];
    let unit = 2 * S::LANES;
    let quarter = n / (4 * unit) * unit;
    for i in (0..quarter).step_by(unit) {
        for (q, acc) in acc.iter_mut().enumerate() {
            let at = p.add(q * quarter + i);
            acc[0] = S::add(acc[0], S::load(at));
            acc[1] = S::add(acc[1], S::load(at.add(S::LANES)));
        }
    }
    let mut total = 0.0;
    for v in acc.as_flattened() {
        total += S::fold(*v);
    }
    for i in 4 * quarter..n {
        total += p.add(i).read_unaligned();
    }
    total
}
