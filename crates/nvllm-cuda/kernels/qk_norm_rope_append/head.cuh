// One head of a row in the hands of 16 lanes: its RMS norm, its rotation, and its append to the
// pages.
//
// Order id: norm.half_warp: lane i of 16 adds the squares of columns D/32 i.. and D/2 + D/32 i..,
// in turns, then lanes meet by exchanges at distance 8, 4, 2, 1. A head's result depends on that
// head alone.
#pragma once

#include "prelude.cuh"
#include "kv_quant.cuh"
#include "kv_kind.cuh"

template <int D> struct HeadNumbers;

// What one lane of 16 holds of a head: columns col.. in `a` and D/2 + col.. in `b`, where col =
// D/32 times the lane.
template <int D> struct HeadPart {
  static constexpr int PAIRS = D / 32, WORDS = D / 64;
  u32 a[WORDS], b[WORDS];
  HeadPart() = default;
  DEVICE_MEMBER explicit HeadPart(const HeadNumbers<D>& x);
  // Reads it from a row's head at `from`.
  DEVICE_MEMBER void load(const elem* from, int col) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) { a[i] = load_l2_u32(from + col + 2 * i); b[i] = load_l2_u32(from + D / 2 + col + 2 * i); }
  }
  // Writes it to global memory.
  DEVICE_MEMBER void store(elem* to, int col) const {
#pragma unroll
    for (int i = 0; i < WORDS; i++) { *(u32*)(to + col + 2 * i) = a[i]; *(u32*)(to + D / 2 + col + 2 * i) = b[i]; }
  }
};

// The same in fp32.
template <int D> struct HeadNumbers {
  static constexpr int PAIRS = D / 32;
  float a[PAIRS], b[PAIRS];
  DEVICE_MEMBER explicit HeadNumbers(const HeadPart<D>& part) {
#pragma unroll
    for (int i = 0; i < PAIRS / 2; i++) {
      a[2 * i] = low(part.a[i]); a[2 * i + 1] = high(part.a[i]);
      b[2 * i] = low(part.b[i]); b[2 * i + 1] = high(part.b[i]);
    }
  }
};
template <int D> DEVICE_MEMBER HeadPart<D>::HeadPart(const HeadNumbers<D>& x) {
#pragma unroll
  for (int i = 0; i < WORDS; i++) { a[i] = pack2(x.a[2 * i], x.a[2 * i + 1]); b[i] = pack2(x.b[2 * i], x.b[2 * i + 1]); }
}

// cos and sin of the lane's pairs at one position.
template <int D> struct Turn {
  float at[D / 16];
  DEVICE_MEMBER void load(const float* rotation, int position, int col) {
    const float* from = rotation + ((u64)position * (D / 2) + col) * 2;
#pragma unroll
    for (int i = 0; i < D / 64; i++) *(float4*)(at + 4 * i) = *(const float4*)(from + 4 * i);
  }
};

// y = x / sqrt(mean(x^2) + eps) * norm where `normed`, then rotated; fp32. Called by whole warps.
template <int D>
DEVICE void norm_and_turn(HeadNumbers<D>& numbers, bool normed, const HeadPart<D>& norm, const Turn<D>& turn, float eps) {
  constexpr int PAIRS = HeadPart<D>::PAIRS;
  float(&x)[PAIRS] = numbers.a, (&y)[PAIRS] = numbers.b, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) sum = __fmaf_rn(y[i], y[i], __fmaf_rn(x[i], x[i], sum));
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
  if (normed) {
    const HeadNumbers<D> scale(norm);
    const float factor = __frsqrt_rn(__fmaf_rn(sum, 1.0f / D, eps));
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      x[i] = __fmul_rn(__fmul_rn(x[i], factor), scale.a[i]);
      y[i] = __fmul_rn(__fmul_rn(y[i], factor), scale.b[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    const float cosine = turn.at[2 * i], sine = turn.at[2 * i + 1];
    const float p = __fmaf_rn(-y[i], sine, __fmul_rn(x[i], cosine)), q = __fmaf_rn(x[i], sine, __fmul_rn(y[i], cosine));
    x[i] = p;
    y[i] = q;
  }
}

// A lane's codes, D/32 of each half of a head, to global memory; called by the 16 lanes of a head.
template <int D> DEVICE void store_codes(u8* to, int col, const u8 (&a)[D / 32], const u8 (&b)[D / 32]) {
#pragma unroll
  for (int i = 0; i < D / 32; i += 2) {
    *(u16*)(to + col + i) = a[i] | a[i + 1] << 8;
    *(u16*)(to + D / 2 + col + i) = b[i] | b[i + 1] << 8;
  }
}

// A key or value to row `row` of the pages. Called by whole warps, `writes` or not.
template <int D, KvKind KV>
DEVICE void append(const HeadNumbers<D>& x, void* pages, float* scales, u64 row, int col, bool writes) {
  constexpr int PAIRS = HeadPart<D>::PAIRS;
  if constexpr (KV == KV_ELEMS) {
    if (writes) HeadPart<D>(x).store((elem*)pages + row * D, col);
  } else {
    u8 a[PAIRS], b[PAIRS];
    if constexpr (KV == KV_FP8) {
#pragma unroll
      for (int i = 0; i < PAIRS; i++) { a[i] = e4m3_code(x.a[i]); b[i] = e4m3_code(x.b[i]); }
    } else {
      u32 most = 0;
#pragma unroll
      for (int i = 0; i < PAIRS; i++) most = max(most, max(magnitude(x.a[i]), magnitude(x.b[i])));
#pragma unroll
      for (int d = 8; d > 0; d >>= 1) most = max(most, __shfl_xor_sync(~0u, most, d));
      const float scale = int8_scale(most);
#pragma unroll
      for (int i = 0; i < PAIRS; i++) { a[i] = int8_code(x.a[i], scale); b[i] = int8_code(x.b[i], scale); }
      if (writes && (threadIdx.x & 15) == 0) scales[row] = scale;
    }
    if (writes) store_codes<D>((u8*)pages + row * D, col, a, b);
  }
}
