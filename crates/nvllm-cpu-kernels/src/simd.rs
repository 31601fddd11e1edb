//! The vector operations that every kernel is written in, and the element types it reads and
//! writes.
//!
//! Each architecture implements [`Simd`] once; the kernels in `generic/` are compiled for each of
//! them. All operations are exactly rounded (`fma` included), so a kernel that keeps to them gives
//! the same bits on every instruction set.

use half::{bf16, f16};

/// A vector of f32 lanes.
///
/// # Safety
/// Every method may be called only on a machine that has the implementing instruction set, and
/// pointers must be valid for `LANES` elements (no alignment is asked for beyond none).
pub(crate) trait Simd: Copy + 'static {
    /// The vector register.
    type V: Copy;
    /// f32 elements in one register: a power of two from 4 to 16.
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Widens `LANES` bf16.
    unsafe fn load_bf16(p: *const u8) -> Self::V;
    /// Widens `LANES` f16.
    unsafe fn load_f16(p: *const u8) -> Self::V;
    /// The f16 at `p`.
    unsafe fn get_f16(p: *const u8) -> f32;
    /// `LANES` signed bytes as numbers.
    unsafe fn load_i8(p: *const u8) -> Self::V;
    /// `LANES` FP8 E4M3 numbers that are not NaN, each times 2^-8.
    unsafe fn load_e4m3(p: *const u8) -> Self::V;
    /// `LANES` bytes, each in a lane of 32 bits.
    type Words: Copy;
    unsafe fn load_u8(p: *const u8) -> Self::Words;
    /// The lower (0) or upper (1) half of each byte as a number.
    unsafe fn nibble(w: Self::Words, half: usize) -> Self::V;
    /// The value of each such half among 16, which fill `16 / LANES` vectors.
    unsafe fn look_up<const P: usize>(values: [Self::V; P], w: Self::Words, half: usize) -> Self::V;
    /// Whether [`Simd::look_up`] takes no more than [`Simd::nibble`].
    const LOOKS_UP: bool = false;
    /// Rounds to nearest even; NaN stays NaN with its quiet bit set, as `half` does it.
    unsafe fn store_bf16(p: *mut u8, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a < b ? a : b`, so `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`, so `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(v: Self::V) -> Self::V;
    /// 2^n for integral `n` in -126..=127.
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// `x < limit ? 0 : v`.
    unsafe fn zero_below(x: Self::V, limit: Self::V, v: Self::V) -> Self::V;
    /// Sums the lanes by folding halves: lane i with lane i + n/2, until one is left.
    unsafe fn fold(v: Self::V) -> f32;
    /// [`Simd::fold`] of each of sixteen vectors: a 4 x 4 tile of outputs, row by row.
    unsafe fn fold16(v: [[Self::V; 4]; 4]) -> [f32; 16];
    /// Hints that the cache line at `p` will be read soon; any address is allowed.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    /// `LANES` units of 32 bits.
    type Units: Copy;
    unsafe fn load_units(p: *const u8) -> Self::Units;
    /// Reads [`UNITS`] units from byte `at` of each of the first `LANES` of `rows`: vector u of the
    /// result has unit u of every row.
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [Self::Units; UNITS];
    /// Each unit as the f32 that it is.
    unsafe fn unit_f32(u: Self::Units) -> Self::V;
    /// The lower (0) or upper (1) bf16 of each unit.
    unsafe fn unit_bf16(u: Self::Units, part: usize) -> Self::V;
    /// Byte `part` of each unit as a signed number.
    unsafe fn unit_i8(u: Self::Units, part: usize) -> Self::V;
    /// Byte `part` of each unit as [`Simd::load_e4m3`] has it.
    unsafe fn unit_e4m3(u: Self::Units, part: usize) -> Self::V;
    /// The lanes of `even` and `odd` in turn.
    unsafe fn zip(even: Self::V, odd: Self::V) -> [Self::V; 2];
    /// What [`Simd::zip`] has made, taken apart.
    unsafe fn unzip(low: Self::V, high: Self::V) -> [Self::V; 2];
}

/// The largest [`Simd::LANES`].
pub(crate) const MAX_LANES: usize = 16;
/// Units that [`Simd::columns`] reads of each row.
pub(crate) const UNITS: usize = 8;
/// Bytes of these.
pub(crate) const UNITS_BYTES: usize = 4 * UNITS;

/// An element type in memory, read and written through f32 vectors.
pub(crate) trait Stored: Copy + 'static {
    /// Bytes of one element.
    const BYTES: usize;
    /// Loads `S::LANES` elements at `p`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::V;
    /// Stores `S::LANES` elements at `p`.
    unsafe fn store<S: Simd>(p: *mut u8, v: S::V);
    /// Loads one element, with a conversion that `S` may have.
    #[inline(always)]
    unsafe fn one<S: Simd>(p: *const u8) -> f32 {
        Self::get(p)
    }
    /// Loads one element.
    unsafe fn get(p: *const u8) -> f32;
    /// Stores one element.
    unsafe fn put(p: *mut u8, x: f32);
}

/// f32 in memory.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// bf16 in memory.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
/// f16 in memory.
#[derive(Clone, Copy)]
pub(crate) struct F16;

impl Stored for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load(p.cast())
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u8, v: S::V) {
        S::store(p.cast(), v);
    }
    #[inline(always)]
    unsafe fn get(p: *const u8) -> f32 {
        p.cast::<f32>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn put(p: *mut u8, x: f32) {
        p.cast::<f32>().write_unaligned(x);
    }
}

impl Stored for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_bf16(p)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u8, v: S::V) {
        S::store_bf16(p, v);
    }
    #[inline(always)]
    unsafe fn get(p: *const u8) -> f32 {
        f32::from_bits((p.cast::<u16>().read_unaligned() as u32) << 16)
    }
    #[inline(always)]
    unsafe fn put(p: *mut u8, x: f32) {
        p.cast::<u16>().write_unaligned(bf16::from_f32(x).to_bits());
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_f16(p)
    }
    #[inline(always)]
    unsafe fn one<S: Simd>(p: *const u8) -> f32 {
        S::get_f16(p)
    }
    /// One element at a time: f16 is a weight format here, never the storage of activations.
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u8, v: S::V) {
        let mut lanes = [0.0f32; 16];
        S::store(lanes.as_mut_ptr(), v);
        for (i, x) in lanes.iter().take(S::LANES).enumerate() {
            Self::put(p.add(2 * i), *x);
        }
    }
    #[inline(always)]
    unsafe fn get(p: *const u8) -> f32 {
        f16::from_bits(p.cast::<u16>().read_unaligned()).to_f32()
    }
    #[inline(always)]
    unsafe fn put(p: *mut u8, x: f32) {
        p.cast::<u16>().write_unaligned(f16::from_f32(x).to_bits());
    }
}

/// Loads the `n < S::LANES` elements at `p` and zeros after them; reads nothing beyond them.
#[inline(always)]
pub(crate) unsafe fn load_part<S: Simd, E: Stored>(p: *const u8, n: usize) -> S::V {
    let mut buf = [0u8; 64];
    std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n * E::BYTES);
    E::load::<S>(buf.as_ptr())
}

/// Stores the first `n < S::LANES` elements of `v` at `p`; writes nothing beyond them.
#[inline(always)]
pub(crate) unsafe fn store_part<S: Simd, E: Stored>(p: *mut u8, v: S::V, n: usize) {
    let mut buf = [0u8; 64];
    E::store::<S>(buf.as_mut_ptr(), v);
    std::ptr::copy_nonoverlapping(buf.as_ptr(), p, n * E::BYTES);
}

/// e^x within 2 ulp for x in -87.3..=88.3; 0 below (so that a masked score of -inf weighs exactly
/// nothing), about 2.4e38 above. Cephes' `expf` reduction and polynomial (Moshier, public domain
/// mathematics), here with fused steps.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    let lo = S::splat(-87.3);
    // Operand order keeps NaN: min and max give their second operand.
    let c = S::max(lo, S::min(S::splat(88.3), x));
    let n = S::round(S::mul(c, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-0.693_359_4), c);
    let r = S::fma(n, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = S::fma(p, r, S::splat(coefficient));
    }
    let p = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
    S::zero_below(x, lo, S::mul(p, S::pow2(n)))
}
