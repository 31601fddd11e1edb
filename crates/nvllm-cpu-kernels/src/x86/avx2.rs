//! AVX2 with FMA and F16C: every x86 server and desktop core since 2013 (Intel) and 2017 (AMD).

use crate::simd::{MAX_LANES, Simd, UNITS};
use crate::table::kernel_table;
#[allow(clippy::wildcard_imports, reason = "intrinsics are many and carry their own prefix")]
use std::arch::x86_64::*;

/// Eight f32 in a `ymm` register.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Rounds eight f32 to bf16, in the low halves of eight 32-bit lanes.
#[inline(always)]
unsafe fn round_bf16(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let lsb = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), lsb);
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
}

/// The two halves of `v`, added.
#[inline(always)]
unsafe fn quarter(v: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        _mm256_storeu_ps(p, v);
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn get_f16(p: *const u8) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p.cast::<u16>().read_unaligned().into())))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
    }
    /// As f16 whose exponent is 8 too small: a 4-bit one in a field of 5 bits.
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m256 {
        let wide = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(_mm_loadl_epi64(p.cast())));
        _mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16(0xbf80_u16.cast_signed())))
    }
    type Words = __m256i;
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m256i {
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
    }
    #[inline(always)]
    unsafe fn nibble(w: __m256i, half: usize) -> __m256 {
        let code =
            if half == 0 { _mm256_and_si256(w, _mm256_set1_epi32(15)) } else { _mm256_srli_epi32::<4>(w) };
        _mm256_cvtepi32_ps(code)
    }
    /// The permutation reads three bits; the fourth, moved to the sign, chooses the vector.
    #[inline(always)]
    unsafe fn look_up<const P: usize>(values: [__m256; P], w: __m256i, half: usize) -> __m256 {
        let w = if half == 0 { w } else { _mm256_srli_epi32::<4>(w) };
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(w));
        let (low, high) =
            (_mm256_permutevar8x32_ps(values[0], w), _mm256_permutevar8x32_ps(values[P - 1], w));
        _mm256_blendv_ps(low, high, upper)
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u8, v: __m256) {
        let r = round_bf16(v);
        let packed = _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256::<1>(r));
        _mm_storeu_si128(p.cast(), packed);
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn round(v: __m256) -> __m256 {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn zero_below(x: __m256, limit: __m256, v: __m256) -> __m256 {
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), v)
    }
    #[inline(always)]
    unsafe fn fold(v: __m256) -> f32 {
        let q = quarter(v);
        let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
        _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
    }
    #[inline(always)]
    unsafe fn fold16(v: [[__m256; 4]; 4]) -> [f32; 16] {
        let mut out = [0.0; 16];
        for row in 0..4 {
            let q = [quarter(v[row][0]), quarter(v[row][1]), quarter(v[row][2]), quarter(v[row][3])];
            let ab = _mm_add_ps(_mm_unpacklo_ps(q[0], q[1]), _mm_unpackhi_ps(q[0], q[1]));
            let cd = _mm_add_ps(_mm_unpacklo_ps(q[2], q[3]), _mm_unpackhi_ps(q[2], q[3]));
            let sum = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
            _mm_storeu_ps(out.as_mut_ptr().add(4 * row), sum);
        }
        out
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    type Units = __m256;
    #[inline(always)]
    unsafe fn load_units(p: *const u8) -> __m256 {
        _mm256_loadu_ps(p.cast())
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [__m256; UNITS] {
        let mut r = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            r[i] = _mm256_loadu_ps(rows[i].add(at).cast());
        }
        transpose(r)
    }
    #[inline(always)]
    unsafe fn unit_f32(u: __m256) -> __m256 {
        u
    }
    #[inline(always)]
    unsafe fn unit_bf16(u: __m256, part: usize) -> __m256 {
        if part == 0 {
            return _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(u)));
        }
        _mm256_and_ps(u, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32.cast_signed())))
    }
    #[inline(always)]
    unsafe fn unit_i8(u: __m256, part: usize) -> __m256 {
        let u = _mm256_castps_si256(u);
        let high = match part {
            0 => _mm256_slli_epi32::<24>(u),
            1 => _mm256_slli_epi32::<16>(u),
            2 => _mm256_slli_epi32::<8>(u),
            _ => u,
        };
        _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(high))
    }
    /// The byte goes to the upper half of 16 bits, then as `load_e4m3`.
    #[inline(always)]
    unsafe fn unit_e4m3(u: __m256, part: usize) -> __m256 {
        let u = _mm256_castps_si256(u);
        let byte = match part {
            0 => _mm256_slli_epi32::<8>(u),
            1 => u,
            2 => _mm256_srli_epi32::<8>(u),
            _ => _mm256_srli_epi32::<16>(u),
        };
        let wide = _mm256_and_si256(_mm256_srai_epi16::<1>(byte), _mm256_set1_epi32(0xbf80));
        let halves = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
        _mm256_cvtph_ps(halves)
    }
    #[inline(always)]
    unsafe fn zip(even: __m256, odd: __m256) -> [__m256; 2] {
        let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
        [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
    }
    #[inline(always)]
    unsafe fn unzip(low: __m256, high: __m256) -> [__m256; 2] {
        let a = _mm256_permute2f128_ps::<0x20>(low, high);
        let b = _mm256_permute2f128_ps::<0x31>(low, high);
        [_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b)]
    }
}

/// Transposes eight rows of eight 32-bit units.
#[inline(always)]
unsafe fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let (t0, t1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
    let (t2, t3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
    let (t4, t5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
    let (t6, t7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
    let (u0, u1) = (_mm256_shuffle_ps::<0x44>(t0, t2), _mm256_shuffle_ps::<0xee>(t0, t2));
    let (u2, u3) = (_mm256_shuffle_ps::<0x44>(t1, t3), _mm256_shuffle_ps::<0xee>(t1, t3));
    let (u4, u5) = (_mm256_shuffle_ps::<0x44>(t4, t6), _mm256_shuffle_ps::<0xee>(t4, t6));
    let (u6, u7) = (_mm256_shuffle_ps::<0x44>(t5, t7), _mm256_shuffle_ps::<0xee>(t5, t7));
    [
        _mm256_permute2f128_ps::<0x20>(u0, u4),
        _mm256_permute2f128_ps::<0x20>(u1, u5),
        _mm256_permute2f128_ps::<0x20>(u2, u6),
        _mm256_permute2f128_ps::<0x20>(u3, u7),
        _mm256_permute2f128_ps::<0x31>(u0, u4),
        _mm256_permute2f128_ps::<0x31>(u1, u5),
        _mm256_permute2f128_ps::<0x31>(u2, u6),
        _mm256_permute2f128_ps::<0x31>(u3, u7),
    ]
}

kernel_table! {
    #[target_feature(enable = "avx2,fma,f16c")]
    Avx2, phases: 2, rows: 3, 3
}
