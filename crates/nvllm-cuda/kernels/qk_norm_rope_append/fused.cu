// RMS norm of query and key heads, rotary embedding, and the append of keys and values to their pages, in one pass over merged rows.
//
// Formula, a head of D columns at a time: y = x / sqrt(mean(x^2) + eps) * w (left out where w is null), then for i < D/2
//   (y_i, y_{i+D/2}) -> (y_i cos - y_{i+D/2} sin, y_{i+D/2} cos + y_i sin); values are copied. fp32 throughout, one rounding at the end.
// Layout: qkv [rows, (num_heads + 2 kv_heads) * D]: queries, keys, values; q_norm, k_norm [D] or both null; positions i32 [rows];
//   rotation f32 [positions, D/2, 2]: cos and sin of every position; q_out [rows, num_heads, D]; pages of K and V of one layer, each
//   [num_blocks, kv_heads, block_len, D]; slots i32 [rows]: block * block_len + offset of the row's KV index, negative for none (a
//   padding row: nothing is appended). 16-bit elements. D 64 or 128.
// Launch: qk_norm_rope_append_d64 / _d128: block (256), no dynamic shared memory, grid (ceil(rows * ceil(heads / span) / 16)) where
//   heads = num_heads + 2 kv_heads: 16 lanes take `span` (1 to 4) heads of one row. span 1 for few rows, 4 for many.
// Bytes: (2 num_heads + 4 kv_heads) * D * 2 a row and 4 D of rotation. Bound: memory bandwidth; for few rows the latency of a launch.
// Order id: norm.half_warp: lane i of 16 adds the squares of columns D/32 i.. and D/2 + D/32 i.., in turns, then lanes meet by
//   exchanges at distance 8, 4, 2, 1. A row's result depends on that row alone.
#include "../prelude.cuh"

template <int D>
DEVICE void qk_norm_rope_append(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm, const int* positions,
                                const float* __restrict__ rotation, const int* slots, elem* q_out, elem* k_pages, elem* v_pages,
                                int rows, int num_heads, int kv_heads, int block_len, float eps, int span) {
  constexpr int PAIRS = D / 32, HALF = D / 2, WORDS = PAIRS / 2;   // (i, i + D/2) pairs a lane
  const int heads = num_heads + 2 * kv_heads, spans = (heads + span - 1) / span;
  const int unit = blockIdx.x * 16 + (threadIdx.x >> 4), row = unit / spans, head0 = unit % spans * span, col = (threadIdx.x & 15) * PAIRS;
  const bool works = row < rows;
  let_next_start();
  wait_for_inputs();
  u32 a[4][WORDS], b[4][WORDS];
  float turn[2 * PAIRS];
  int slot = -1;
  if (works) {
    const elem* from = qkv + ((u64)row * heads + head0) * D + col;
#pragma unroll
    for (int h = 0; h < 4; h++)
      if (h < span && head0 + h < heads) {
#pragma unroll
        for (int i = 0; i < WORDS; i++) { a[h][i] = load_l2_u32(from + h * D + 2 * i); b[h][i] = load_l2_u32(from + h * D + HALF + 2 * i); }
      }
    slot = load_l2_i32(slots + row);
    const float* angles = rotation + ((u64)load_l2_i32(positions + row) * HALF + col) * 2;
#pragma unroll
    for (int i = 0; i < PAIRS / 2; i++) *(float4*)(turn + 4 * i) = *(const float4*)(angles + 4 * i);
  }
#pragma unroll
  for (int h = 0; h < 4; h++) {
    const int head = head0 + h;
    if (h >= span) break;
    float x[PAIRS], y[PAIRS], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      x[2 * i] = low(a[h][i]); x[2 * i + 1] = high(a[h][i]);
      y[2 * i] = low(b[h][i]); y[2 * i + 1] = high(b[h][i]);
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) sum = __fmaf_rn(y[i], y[i], __fmaf_rn(x[i], x[i], sum));
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
    if (!works || head >= heads) continue;
    elem* to;
    if (head < num_heads) {
      to = q_out + ((u64)row * num_heads + head) * D + col;
    } else {
      if (slot < 0) continue;
      to = (head < num_heads + kv_heads ? k_pages : v_pages) +
           (((u64)(slot / block_len) * kv_heads + (head - num_heads) % kv_heads) * block_len + slot % block_len) * D + col;
    }
    if (head < num_heads + kv_heads) {
      const elem* norm = head < num_heads ? q_norm : k_norm;
      if (norm) {
        const float factor = __frsqrt_rn(__fmaf_rn(sum, 1.0f / D, eps));
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
          x[i] = __fmul_rn(__fmul_rn(x[i], factor), elem_to_f32(norm[col + i]));
          y[i] = __fmul_rn(__fmul_rn(y[i], factor), elem_to_f32(norm[col + i + HALF]));
        }
      }
#pragma unroll
      for (int i = 0; i < PAIRS; i++) {
        const float cosine = turn[2 * i], sine = turn[2 * i + 1];
        const float p = __fmaf_rn(-y[i], sine, __fmul_rn(x[i], cosine)), q = __fmaf_rn(x[i], sine, __fmul_rn(y[i], cosine));
        x[i] = p;
        y[i] = q;
      }
    }
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      *(u32*)(to + 2 * i) = pack2(x[2 * i], x[2 * i + 1]);
      *(u32*)(to + HALF + 2 * i) = pack2(y[2 * i], y[2 * i + 1]);
    }
  }
}

#define QK_NORM_ROPE_APPEND(d)                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      qk_norm_rope_append_d##d(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm,             \
                               const int* positions, const float* __restrict__ rotation, const int* slots, elem* q_out,       \
                               elem* k_pages, elem* v_pages, int rows, int num_heads, int kv_heads, int block_len, float eps, int span) { \
    qk_norm_rope_append<d>(qkv, q_norm, k_norm, positions, rotation, slots, q_out, k_pages, v_pages, rows, num_heads,         \
                           kv_heads, block_len, eps, span);                                                                        \
  }
QK_NORM_ROPE_APPEND(64)
QK_NORM_ROPE_APPEND(128)
