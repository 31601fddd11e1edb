//! AVX-512: F, BW and VL for f32 arithmetic; BF16 for dot products of bf16 pairs where activations
//! are bf16.

use super::avx2::Avx2;
use crate::generic::dot::{Blocking, Dot};
use crate::simd::{Bf16, MAX_LANES, Simd, Stored, UNITS};
use crate::table::kernel_table;
#[allow(clippy::wildcard_imports, reason = "intrinsics are many and carry their own prefix")]
use std::arch::x86_64::*;

/// Sixteen f32 in a `zmm` register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// The two halves of `v`, added.
#[inline(always)]
unsafe fn halves(v: __m512) -> __m256 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
    _mm256_add_ps(_mm512_castps512_ps256(v), high)
}

/// One column of a 4 x 4 tile, folded down to four lanes: quarter r of the result is row r's.
#[inline(always)]
unsafe fn column(v: [[__m512; 4]; 4], j: usize) -> __m512 {
    let (a, b, c, d) = (v[0][j], v[1][j], v[2][j], v[3][j]);
    let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        _mm512_storeu_ps(p, v);
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn get_f16(p: *const u8) -> f32 {
        Avx2::get_f16(p)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
    }
    /// As f16 whose exponent is 8 too small: a 4-bit one in a field of 5 bits.
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m512 {
        let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
        _mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16(0xbf80_u16.cast_signed())))
    }
    type Words = __m512i;
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512i {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn nibble(w: __m512i, half: usize) -> __m512 {
        let code =
            if half == 0 { _mm512_and_si512(w, _mm512_set1_epi32(15)) } else { _mm512_srli_epi32::<4>(w) };
        _mm512_cvtepi32_ps(code)
    }
    /// The permutation reads four bits. (A shift in place of the rotation would be moved in front
    /// of the widening, where it takes two instructions and a widening of its own.)
    #[inline(always)]
    unsafe fn look_up<const P: usize>(values: [__m512; P], w: __m512i, half: usize) -> __m512 {
        _mm512_permutexvar_ps(if half == 0 { w } else { _mm512_ror_epi32::<4>(w) }, values[0])
    }
    const LOOKS_UP: bool = true;
    /// In integers: `vcvtneps2bf16` would flush subnormals to zero and give other bits than the
    /// other paths.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u8, v: __m512) {
        let bits = _mm512_castps_si512(v);
        let lsb = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), lsb);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let r = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(r));
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn zero_below(x: __m512, limit: __m512, v: __m512) -> __m512 {
        let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit);
        _mm512_mask_blend_ps(below, v, _mm512_setzero_ps())
    }
    #[inline(always)]
    unsafe fn fold(v: __m512) -> f32 {
        Avx2::fold(halves(v))
    }
    #[inline(always)]
    unsafe fn fold16(v: [[__m512; 4]; 4]) -> [f32; 16] {
        let c = [column(v, 0), column(v, 1), column(v, 2), column(v, 3)];
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(c[0], c[1]), _mm512_unpackhi_ps(c[0], c[1]));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c[2], c[3]), _mm512_unpackhi_ps(c[2], c[3]));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        let mut out = [0.0; 16];
        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(low, high));
        out
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        Avx2::prefetch(p);
    }
    type Units = __m512;
    #[inline(always)]
    unsafe fn load_units(p: *const u8) -> __m512 {
        _mm512_loadu_ps(p.cast())
    }
    /// Row i and row i + 8 share a register.
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [__m512; UNITS] {
        let mut r = [_mm512_setzero_ps(); 8];
        for i in 0..8 {
            let low = _mm512_castpd256_pd512(_mm256_loadu_pd(rows[i].add(at).cast()));
            let high = _mm256_loadu_pd(rows[i + 8].add(at).cast());
            r[i] = _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, high));
        }
        transpose(r)
    }
    #[inline(always)]
    unsafe fn unit_f32(u: __m512) -> __m512 {
        u
    }
    #[inline(always)]
    unsafe fn unit_bf16(u: __m512, part: usize) -> __m512 {
        let u = _mm512_castps_si512(u);
        if part == 0 {
            return _mm512_castsi512_ps(_mm512_slli_epi32::<16>(u));
        }
        _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
    }
    #[inline(always)]
    unsafe fn unit_i8(u: __m512, part: usize) -> __m512 {
        let u = _mm512_castps_si512(u);
        let high = match part {
            0 => _mm512_slli_epi32::<24>(u),
            1 => _mm512_slli_epi32::<16>(u),
            2 => _mm512_slli_epi32::<8>(u),
            _ => u,
        };
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(high))
    }
    /// The byte goes to the upper half of 16 bits, then as `load_e4m3`.
    #[inline(always)]
    unsafe fn unit_e4m3(u: __m512, part: usize) -> __m512 {
        let u = _mm512_castps_si512(u);
        let byte = match part {
            0 => _mm512_slli_epi32::<8>(u),
            1 => u,
            2 => _mm512_srli_epi32::<8>(u),
            _ => _mm512_srli_epi32::<16>(u),
        };
        let wide = _mm512_and_si512(_mm512_srai_epi16::<1>(byte), _mm512_set1_epi32(0xbf80));
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(wide))
    }
    #[inline(always)]
    unsafe fn zip(even: __m512, odd: __m512) -> [__m512; 2] {
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        [_mm512_permutex2var_ps(even, low, odd), _mm512_permutex2var_ps(even, high, odd)]
    }
    #[inline(always)]
    unsafe fn unzip(low: __m512, high: __m512) -> [__m512; 2] {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        [_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)]
    }
}

/// Transposes eight rows of eight 32-bit units in each half.
#[inline(always)]
unsafe fn transpose(r: [__m512; 8]) -> [__m512; 8] {
    let (t0, t1) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    let (t2, t3) = (_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
    let (t4, t5) = (_mm512_unpacklo_ps(r[4], r[5]), _mm512_unpackhi_ps(r[4], r[5]));
    let (t6, t7) = (_mm512_unpacklo_ps(r[6], r[7]), _mm512_unpackhi_ps(r[6], r[7]));
    let (u0, u1) = (_mm512_shuffle_ps::<0x44>(t0, t2), _mm512_shuffle_ps::<0xee>(t0, t2));
    let (u2, u3) = (_mm512_shuffle_ps::<0x44>(t1, t3), _mm512_shuffle_ps::<0xee>(t1, t3));
    let (u4, u5) = (_mm512_shuffle_ps::<0x44>(t4, t6), _mm512_shuffle_ps::<0xee>(t4, t6));
    let (u6, u7) = (_mm512_shuffle_ps::<0x44>(t5, t7), _mm512_shuffle_ps::<0xee>(t5, t7));
    [
        quarters::<0>(u0, u4),
        quarters::<0>(u1, u5),
        quarters::<0>(u2, u6),
        quarters::<0>(u3, u7),
        quarters::<1>(u0, u4),
        quarters::<1>(u1, u5),
        quarters::<1>(u2, u6),
        quarters::<1>(u3, u7),
    ]
}

/// In each half the lower (0) or upper (1) quarter of `a`, then that of `b`.
#[inline(always)]
unsafe fn quarters<const UPPER: i64>(a: __m512, b: __m512) -> __m512 {
    let at = 2 * UPPER;
    let index = _mm512_setr_epi64(at, at + 1, at + 8, at + 9, at + 4, at + 5, at + 12, at + 13);
    _mm512_castpd_ps(_mm512_permutex2var_pd(_mm512_castps_pd(a), index, _mm512_castps_pd(b)))
}

/// `vdpbf16ps`: a lane adds the products of a pair of bf16, with its own rounding and with
/// subnormals taken as zero.
///
/// Its order differs from `FmaDot`'s, so it has its own order id; it is used only where activations
/// are bf16.
#[derive(Clone, Copy)]
pub(crate) struct PairDot;

impl Dot for PairDot {
    type S = Avx512;
    type X = u16;
    type XV = __m512bh;
    const STEP: usize = 32;
    const BLOCKING: Blocking = Blocking::WIDE;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> __m512bh {
        std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: __m512bh) {
        _mm512_storeu_si512(p.cast(), std::mem::transmute::<__m512bh, __m512i>(v));
    }
    /// The table offers this kernel for bf16 weights only, whose bytes need no change.
    #[inline(always)]
    unsafe fn load_w<E: Stored>(p: *const u8) -> __m512bh {
        debug_assert!(E::BYTES == Bf16::BYTES);
        Self::load(p.cast())
    }
    #[inline(always)]
    unsafe fn convert_x<E: Stored>(src: *const u8, dst: *mut u16) {
        Bf16::store::<Avx512>(dst.cast(), E::load::<Avx512>(src));
        Bf16::store::<Avx512>(dst.add(16).cast(), E::load::<Avx512>(src.add(16 * E::BYTES)));
    }
    #[inline(always)]
    unsafe fn mac(acc: __m512, x: __m512bh, w: __m512bh) -> __m512 {
        _mm512_dpbf16_ps(acc, x, w)
    }
}

kernel_table! {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    Avx512, phases: 1, rows: 6, 8
}

/// The linear kernels of machines that also have AVX512-BF16.
pub(crate) mod pairs {
    use super::PairDot;
    use crate::table::dot_table;

    dot_table! {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
        PAIRS: PairDot, order: Bf16Pairs32, phases: 2, rows: 6, 6
    }
}
