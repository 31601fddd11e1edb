//! Integer products on x86-64: pairs of 16 bits with AVX2, fours of bytes with AVX512-VNNI.

use super::avx2::Avx2;
use super::avx512::Avx512;
use crate::generic::int8::Int8;
use crate::generic::out::PANEL;
use crate::table::int8_table;
#[allow(clippy::wildcard_imports, reason = "intrinsics are many and carry their own prefix")]
use std::arch::x86_64::*;

/// `vpmaddwd` of widened bytes: exact, where `vpmaddubsw` would saturate.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

/// `vpdpbusd`: activations are bytes without sign, 128 too large.
#[derive(Clone, Copy)]
pub(crate) struct Vnni;

/// The sums of the lanes of four vectors.
#[inline(always)]
unsafe fn fold4(v: [__m256i; PANEL]) -> [i32; PANEL] {
    let (ab, cd) = (_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let all = _mm256_hadd_epi32(ab, cd);
    let sums = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    let mut out = [0; PANEL];
    _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
    out
}

impl Int8 for Pairs {
    type S = Avx2;
    type V = __m256i;
    type W = __m256i;
    const STEP: usize = 16;
    type X = i16;
    type XV = __m256i;
    const BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        _mm256_setzero_si256()
    }
    #[inline(always)]
    unsafe fn load_w(p: *const i8) -> __m256i {
        _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_x(p: *const i16) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn mac(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(x, w))
    }
    #[inline(always)]
    unsafe fn fold4(v: [__m256i; PANEL]) -> [i32; PANEL] {
        fold4(v)
    }
    #[inline(always)]
    unsafe fn pack(code: i32) -> i16 {
        code as i16
    }
}

impl Int8 for Vnni {
    type S = Avx512;
    type V = __m512i;
    type W = __m512i;
    const STEP: usize = 64;
    type X = u8;
    type XV = __m512i;
    const BIAS: i32 = 128;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn load_w(p: *const i8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn load_x(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn mac(acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, x, w)
    }
    #[inline(always)]
    unsafe fn fold4(v: [__m512i; PANEL]) -> [i32; PANEL] {
        let halves = |v| _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
        fold4([halves(v[0]), halves(v[1]), halves(v[2]), halves(v[3])])
    }
    #[inline(always)]
    unsafe fn pack(code: i32) -> u8 {
        (code + 128) as u8
    }
}

int8_table! {
    #[target_feature(enable = "avx2,fma,f16c")]
    PAIRS: Pairs, rows: 2
}

int8_table! {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    VNNI: Vnni, rows: 6
}
