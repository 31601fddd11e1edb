// RMS norm of query and key heads, rotary embedding, and the append of keys and values to their
// pages, in one pass over merged rows.
//
// Formula, a head of D columns at a time: y = x / sqrt(mean(x^2) + eps) * w (left out where w is
//   null), then for i < D/2 (y_i, y_{i+D/2}) -> (y_i cos - y_{i+D/2} sin, y_{i+D/2} cos + y_i sin);
//   values are copied. fp32 throughout, one rounding at the end: to 16 bits, or to the cache's
//   codes (kv_quant.cuh).
// Layout: qkv [rows, (num_heads + 2 kv_heads) * D]: queries, keys, values; q_norm, k_norm [D] or
//   both null; positions i32 [rows], or null:
//   row i is at i; rotation f32 [positions, D/2, 2]: cos and sin of every position; q_out [rows,
//   num_heads, D]; pages of K and V of one layer, each [num_blocks, kv_heads, block_len, D], for
//   int8 with scales f32 [num_blocks, kv_heads, block_len] of each; slots
//   i32 [rows]: block * block_len + offset of the row's KV index, negative for none (a padding row:
//   nothing is appended). 16-bit elements, pages of .._fp8_.. and .._int8_.. of codes. D 64 or 128.
// Launch: qk_norm_rope_append_d64 / _d128, _fp8_.., _int8_..: block (256), no dynamic
//   shared memory, grid (ceil(rows * ceil(heads / span) / 16)) where heads = num_heads + 2
//   kv_heads: 16 lanes take `span` (1 to 4) heads of one row. span 1 for few rows, 4 for many.
// Bytes: (2 num_heads + 4 kv_heads) * D * 2 a row and 4 D of rotation. Bound: memory bandwidth; for
//   few rows the latency of a launch.
// Order id: norm.half_warp: lane i of 16 adds the squares of columns D/32 i.. and D/2 + D/32 i..,
//   in turns, then lanes meet by exchanges at distance 8, 4, 2, 1. A head's result depends on that
//   head alone.
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

// y = x / sqrt(mean(x^2) + eps) * norm (left out where norm is null), then rotated; fp32. Called by
// whole warps.
template <int D>
DEVICE void norm_and_turn(HeadNumbers<D>& numbers, const elem* norm, const Turn<D>& turn, int col, float eps) {
  constexpr int PAIRS = HeadPart<D>::PAIRS;
  float(&x)[PAIRS] = numbers.a, (&y)[PAIRS] = numbers.b, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) sum = __fmaf_rn(y[i], y[i], __fmaf_rn(x[i], x[i], sum));
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
  if (norm) {
    const float factor = __frsqrt_rn(__fmaf_rn(sum, 1.0f / D, eps));
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      x[i] = __fmul_rn(__fmul_rn(x[i], factor), elem_to_f32(norm[col + i]));
      y[i] = __fmul_rn(__fmul_rn(y[i], factor), elem_to_f32(norm[col + i + D / 2]));
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

template <int D, KvKind KV>
DEVICE void qk_norm_rope_append(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm, const int* positions,
                                const float* __restrict__ rotation, const int* slots, elem* q_out, void* k_pages, void* v_pages,
                                int rows, int num_heads, int kv_heads, int block_len, float eps, int span, float* k_scales,
                                float* v_scales) {
  const int heads = num_heads + 2 * kv_heads, spans = (heads + span - 1) / span;
  const int unit = blockIdx.x * 16 + (threadIdx.x >> 4), row = unit / spans, head0 = unit % spans * span;
  const int col = (threadIdx.x & 15) * HeadPart<D>::PAIRS;
  const bool works = row < rows;
  let_next_start();
  wait_for_inputs();
  HeadPart<D> part[4] = {};
  Turn<D> turn = {};
  int slot = -1;
  if (works) {
#pragma unroll
    for (int h = 0; h < 4; h++)
      if (h < span && head0 + h < heads) part[h].load(qkv + ((u64)row * heads + head0 + h) * D, col);
    slot = load_l2_i32(slots + row);
    turn.load(rotation, positions ? load_l2_i32(positions + row) : row, col);
  }
#pragma unroll
  for (int h = 0; h < 4; h++) {
    const int head = head0 + h;
    if (h >= span) break;
    HeadNumbers<D> turned(part[h]);
    norm_and_turn<D>(turned, head < num_heads ? q_norm : k_norm, turn, col, eps);
    const bool inside = works && head < heads, is_query = head < num_heads, is_value = head >= num_heads + kv_heads;
    if (inside && is_query) HeadPart<D>(turned).store(q_out + ((u64)row * num_heads + head) * D, col);
    const u64 at = ((u64)(slot / block_len) * kv_heads + (head - num_heads) % kv_heads) * block_len + slot % block_len;
    append<D, KV>(is_value ? HeadNumbers<D>(part[h]) : turned, is_value ? v_pages : k_pages, is_value ? v_scales : k_scales, at, col,
                  inside && !is_query && slot >= 0);
  }
}

#define QK_NORM_ROPE_APPEND(d, name, kind)                                                                                    \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      qk_norm_rope_append##name##_d##d(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm,     \
                                       const int* positions, const float* __restrict__ rotation, const int* slots,            \
                                       elem* q_out, void* k_pages, void* v_pages, int rows, int num_heads, int kv_heads,      \
                                       int block_len, float eps, int span, float* k_scales, float* v_scales) {                \
    qk_norm_rope_append<d, kind>(qkv, q_norm, k_norm, positions, rotation, slots, q_out, k_pages, v_pages, rows, num_heads,   \
                                 kv_heads, block_len, eps, span, k_scales, v_scales);                                         \
  }
#define ALL(d)                                                                                                                \
  QK_NORM_ROPE_APPEND(d, , KV_ELEMS)                                                                                          \
  QK_NORM_ROPE_APPEND(d, _fp8, KV_FP8)                                                                                        \
  QK_NORM_ROPE_APPEND(d, _int8, KV_INT8)
ALL(64)
ALL(128)
