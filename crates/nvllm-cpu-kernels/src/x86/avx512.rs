//! AVX-512: F, BW and VL for f32 arithmetic; BF16 for dot products of bf16 pairs where activations
//! are bf16.

use super::avx2::Avx2;
use crate::generic::dot::{Blocking, Dot};
use crate::kernel_table;
use crate::simd::{Bf16, Simd, Stored};
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
    #[inline(always)]
    unsafe fn transpose8<E: Stored>(src: [*const u8; 8], dst: *mut f32, ld: usize) {
        Avx2::transpose8::<E>(src, dst, ld);
    }
    #[inline(always)]
    unsafe fn transpose16_bf16(src: [*const u8; 8], dst: *mut f32, ld: usize) {
        Avx2::transpose16_bf16(src, dst, ld);
    }
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
    use crate::dot_table;

    dot_table! {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
        PAIRS: PairDot, order: Bf16Pairs32, phases: 2, rows: 6, 6
    }
}
