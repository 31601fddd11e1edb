//! Products of 8-bit integers: weights with a scale a row, activations with a scale a token.
//!
//! Sums are exact in i32, so there is no order to speak of: `y = (sx * sw) * sum(x w)` has the same
//! bits from every instruction set, for every number of rows. `k` is at most [`MAX_K`].

use std::marker::PhantomData;

use super::out::{Out, PANEL};
use super::with_elem;
use crate::elem::Elem;
use crate::simd::{Simd, Stored, load_part};

/// Columns up to which no sum can leave i32: products are at most 255 * 128 in magnitude.
pub const MAX_K: usize = 65_000;
/// Packed rows are padded to so many elements.
pub(crate) const PAD: usize = 64;

/// One instruction set's integer products.
pub(crate) trait Int8: Copy {
    type S: Simd;
    /// i32 accumulators.
    type V: Copy;
    /// Weights of a step.
    type W: Copy;
    /// Weights in a step; divides [`PAD`].
    const STEP: usize;
    /// A packed activation: a byte that is 128 too large, or 16 bits.
    type X: Copy;
    /// Packed activations of a step.
    type XV: Copy;
    /// What packed activations are too large by.
    const BIAS: i32;

    unsafe fn zero() -> Self::V;
    unsafe fn load_w(p: *const i8) -> Self::W;
    unsafe fn load_x(p: *const Self::X) -> Self::XV;
    unsafe fn mac(acc: Self::V, x: Self::XV, w: Self::W) -> Self::V;
    /// The sums of the lanes of four accumulators.
    unsafe fn fold4(v: [Self::V; PANEL]) -> [i32; PANEL];
    /// A code of -128 to 127 as it is packed.
    unsafe fn pack(code: i32) -> Self::X;
}

/// Quantises one activation row: its codes, packed and padded with what stands for 0, and its
/// scale.
pub struct Quantize {
    pub src: *const u8,
    pub elem: Elem,
    pub k: usize,
    pub dst: *mut u8,
    pub scale: *mut f32,
}

/// Packed activation rows against weight rows in place.
pub struct Int8Dot {
    /// `m` rows, [`Int8Kernels::row_bytes`](crate::Int8Kernels::row_bytes) apart.
    pub x: *const u8,
    pub x_scales: *const f32,
    pub m: usize,
    /// `n` rows of `k` codes, `w_stride` apart, with a scale and the sum of its codes each.
    pub w: *const i8,
    pub w_stride: usize,
    pub w_scales: *const f32,
    pub w_sums: *const i32,
    pub k: usize,
    pub n: usize,
    pub col: usize,
    pub out: Out,
}

/// The scale is the largest magnitude over 127; a code is `x / scale`, rounded to the nearest, of
/// two the even one, within -128 to 127. All is 0 if the scale is.
#[inline(always)]
pub(crate) unsafe fn quantize<I: Int8>(a: &Quantize) {
    with_elem!(a.elem, E => {
        let lanes = <I::S as Simd>::LANES;
        let mut most = I::S::splat(0.0);
        let load = |at: usize| {
            let p = a.src.add(at * E::BYTES);
            if at + lanes <= a.k { E::load::<I::S>(p) } else { load_part::<I::S, E>(p, a.k - at) }
        };
        for at in (0..a.k).step_by(lanes) {
            let v = load(at);
            // The second operand where one is NaN: a row with NaN has NaN for its largest.
            most = I::S::max(most, I::S::max(v, I::S::sub(I::S::splat(0.0), v)));
        }
        let mut largest = [0.0_f32; 16];
        I::S::store(largest.as_mut_ptr(), most);
        let scale = largest[..lanes].iter().fold(0.0_f32, |a, &b| if b > a || b.is_nan() { b } else { a }) / 127.0;
        *a.scale = scale;
        let dst = a.dst.cast::<I::X>();
        let mut codes = [0.0_f32; 16];
        for at in (0..a.k.next_multiple_of(PAD)).step_by(lanes) {
            if at < a.k && scale != 0.0 {
                let v = I::S::round(I::S::div(load(at), I::S::splat(scale)));
                let v = I::S::max(I::S::splat(-128.0), I::S::min(I::S::splat(127.0), v));
                I::S::store(codes.as_mut_ptr(), v);
            } else {
                codes = [0.0; 16];
            }
            for i in 0..lanes {
                dst.add(at + i).write(I::pack(codes[i] as i32));
            }
        }
    });
}

/// Adds a step of R activation rows, `pitch` apart, with four of weights. An activation is loaded
/// once for all four.
#[inline(always)]
unsafe fn add_step<I: Int8, const R: usize>(
    acc: &mut [[I::V; PANEL]; R],
    x: *const I::X,
    pitch: usize,
    w: [I::W; PANEL],
) {
    for r in 0..R {
        let xv = I::load_x(x.add(r * pitch));
        for s in 0..PANEL {
            acc[r][s] = I::mac(acc[r][s], xv, w[s]);
        }
    }
}

/// R activation rows from `row` on against weight rows `cols[0] ..`, `cols[1] ..`, `n` each.
#[inline(always)]
unsafe fn tile<I: Int8, const R: usize>(a: &Int8Dot, row: usize, cols: [usize; PANEL], n: usize) {
    let pitch = a.k.next_multiple_of(PAD);
    let full = a.k / I::STEP * I::STEP;
    let x = a.x.cast::<I::X>().add(row * pitch);
    for j in 0..n {
        let w = cols.map(|col| a.w.wrapping_add((col + j) * a.w_stride));
        let mut acc = [[I::zero(); PANEL]; R];
        let mut at = 0;
        while at < full {
            let mut wv = [I::load_w(w[0].add(at)); PANEL];
            for s in 0..PANEL {
                let p = w[s].add(at);
                I::S::prefetch(p.wrapping_add(super::dot::AHEAD).cast());
                wv[s] = I::load_w(p);
            }
            add_step::<I, R>(&mut acc, x.add(at), pitch, wv);
            at += I::STEP;
        }
        if full < a.k {
            let mut rest = [[0_i8; PAD]; PANEL];
            let mut wv = [I::load_w(rest[0].as_ptr()); PANEL];
            for s in 0..PANEL {
                std::ptr::copy_nonoverlapping(w[s].add(full), rest[s].as_mut_ptr(), a.k - full);
                wv[s] = I::load_w(rest[s].as_ptr());
            }
            add_step::<I, R>(&mut acc, x.add(full), pitch, wv);
        }
        write_four::<I, R, 0>(a, acc, row, cols.map(|col| col + j));
        if R > 4 {
            write_four::<I, R, 4>(a, acc, row, cols.map(|col| col + j));
        }
    }
}

/// Scales and writes up to four rows of sums, from FIRST on. (Without a loop over them, as in
/// `dot.rs`.)
#[inline(always)]
unsafe fn write_four<I: Int8, const R: usize, const FIRST: usize>(
    a: &Int8Dot,
    acc: [[I::V; PANEL]; R],
    row: usize,
    cols: [usize; PANEL],
) {
    let mut sums = [0.0_f32; 4 * PANEL];
    for r in 0..4 {
        if FIRST + r < R {
            let folded = I::fold4(acc[FIRST + r]);
            let sx = *a.x_scales.add(row + FIRST + r);
            for s in 0..PANEL {
                let sum = if I::BIAS == 0 {
                    folded[s]
                } else {
                    folded[s].wrapping_sub(I::BIAS * *a.w_sums.add(cols[s]))
                };
                sums[r * PANEL + s] = sx * a.w_scales.add(cols[s]).read_unaligned() * sum as f32;
            }
        }
    }
    a.out.write::<I::S>(sums, row + FIRST, 4.min(R - FIRST), &cols.map(|col| a.col + col));
}

/// R activation rows: the weight rows in four streams where few rows read them from memory, as
/// neighbours where many rows read them from the cache. The last stream may begin early.
#[inline(always)]
unsafe fn rows<I: Int8, const R: usize>(a: &Int8Dot, row: usize) {
    if a.n < PANEL {
        for col in 0..a.n {
            // Four times the same: what is too much is written over itself.
            tile::<I, R>(a, row, [col; PANEL], 1);
        }
        return;
    }
    let n = a.n.div_ceil(PANEL);
    tile::<I, R>(a, row, std::array::from_fn(|s| (s * n).min(a.n - n)), n);
}

#[inline(always)]
pub(crate) unsafe fn dot<I: Int8, const MR: usize>(a: &Int8Dot) {
    for row in (0..a.m).step_by(MR) {
        match MR.min(a.m - row) {
            1 => rows::<I, 1>(a, row),
            2 => rows::<I, 2>(a, row),
            3 if MR > 2 => rows::<I, 3>(a, row),
            4 if MR > 2 => rows::<I, 4>(a, row),
            5 if MR > 2 => rows::<I, 5>(a, row),
            6 if MR > 2 => rows::<I, 6>(a, row),
            _ => unreachable!("a group has 1 to {MR} rows"),
        }
    }
}

/// Without vector instructions.
#[derive(Clone, Copy)]
pub(crate) struct Plain<S>(PhantomData<S>);

impl<S: Simd> Int8 for Plain<S> {
    type S = S;
    type V = [i32; 16];
    type W = [i8; 16];
    const STEP: usize = 16;
    type X = i16;
    type XV = [i16; 16];
    const BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn zero() -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn load_w(p: *const i8) -> [i8; 16] {
        p.cast::<[i8; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn load_x(p: *const i16) -> [i16; 16] {
        p.cast::<[i16; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn mac(acc: [i32; 16], x: [i16; 16], w: [i8; 16]) -> [i32; 16] {
        std::array::from_fn(|i| acc[i] + i32::from(x[i]) * i32::from(w[i]))
    }
    #[inline(always)]
    unsafe fn fold4(v: [[i32; 16]; PANEL]) -> [i32; PANEL] {
        v.map(|v| v.iter().sum())
    }
    #[inline(always)]
    unsafe fn pack(code: i32) -> i16 {
        code as i16
    }
}
