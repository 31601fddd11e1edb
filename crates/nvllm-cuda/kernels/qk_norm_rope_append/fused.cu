// RMS norm of query and key heads, rotary embedding, and the append of keys and values to their pages, in one pass over merged rows.
//
// Formula, a head of D columns at a time: y = x / sqrt(mean(x^2) + eps) * w (left out where w is null), then for i < D/2
//   (y_i, y_{i+D/2}) -> (y_i cos - y_{i+D/2} sin, y_{i+D/2} cos + y_i sin); values are copied. fp32 throughout, one rounding at the end.
// Layout: qkv [rows, (num_heads + 2 kv_heads) * D]: queries, keys, values; q_norm, k_norm [D] or both null; positions i32 [rows];
//   rotation f32 [positions, D/2, 2]: cos and sin of every position; q_out [rows, num_heads, D]; pages of K and V of one layer, each
//   [num_blocks, kv_heads, block_len, D]; slots i32 [rows]: block * block_len + offset of the row's KV index, negative for none (a
//   padding row: nothing is appended). 16-bit elements. D 64 or 128.
// Launch: qk_norm_rope_append_d64 / _d128: block (256), grid (ceil(rows * (num_heads + 2 kv_heads) / 8)), one warp a head; no dynamic
//   shared memory.
// Bytes: (2 num_heads + 4 kv_heads) * D * 2 a row and 4 D of rotation. Bound: memory bandwidth; for few rows the latency of a launch.
// Order id: norm.warp: lane i adds squares of columns 2i, 2i + 1, 2i + D/2, 2i + 1 + D/2 (D = 64: i, i + 32), then lanes meet by
//   exchanges at distance 16, 8, 4, 2, 1. A row's result depends on that row alone.
#include "../prelude.cuh"

template <int D>
DEVICE void qk_norm_rope_append(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm, const int* positions,
                                const float* __restrict__ rotation, const int* slots, elem* q_out, elem* k_pages, elem* v_pages,
                                int rows, int num_heads, int kv_heads, int block_len, float eps) {
  constexpr int PAIRS = D / 64, HALF = D / 2;                  // (i, i + D/2) pairs a lane
  const int lane = threadIdx.x & 31, unit = blockIdx.x * 8 + (threadIdx.x >> 5), heads = num_heads + 2 * kv_heads;
  let_next_start();
  wait_for_inputs();
  const int row = unit / heads, head = unit % heads;
  if (row >= rows) return;
  const int slot = load_l2_i32(slots + row), col = lane * PAIRS;
  const elem* from = qkv + ((u64)row * heads + head) * D + col;
  elem* to;
  if (head < num_heads) {
    to = q_out + ((u64)row * num_heads + head) * D + col;
  } else {
    if (slot < 0) return;
    const int kv_head = (head - num_heads) % kv_heads;
    to = (head < num_heads + kv_heads ? k_pages : v_pages) +
         (((u64)(slot / block_len) * kv_heads + kv_head) * block_len + slot % block_len) * D + col;
  }
  float a[PAIRS], b[PAIRS];
  if constexpr (PAIRS == 2) {
    const u32 x = load_l2_u32(from), y = load_l2_u32(from + HALF);
    a[0] = low(x); a[1] = high(x); b[0] = low(y); b[1] = high(y);
  } else {
    a[0] = elem_to_f32(load_l2_elem(from)); b[0] = elem_to_f32(load_l2_elem(from + HALF));
  }
  if (head < num_heads + kv_heads) {
    const float* turn = rotation + ((u64)load_l2_i32(positions + row) * HALF + col) * 2;
    const elem* norm = head < num_heads ? q_norm : k_norm;
    if (norm) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < PAIRS; i++) sum = __fmaf_rn(b[i], b[i], __fmaf_rn(a[i], a[i], sum));
#pragma unroll
      for (int d = 16; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
      const float factor = __frsqrt_rn(__fmaf_rn(sum, 1.0f / D, eps));
#pragma unroll
      for (int i = 0; i < PAIRS; i++) {
        a[i] = __fmul_rn(__fmul_rn(a[i], factor), elem_to_f32(norm[col + i]));
        b[i] = __fmul_rn(__fmul_rn(b[i], factor), elem_to_f32(norm[col + i + HALF]));
      }
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      const float cosine = turn[2 * i], sine = turn[2 * i + 1];
      const float x = __fmaf_rn(-b[i], sine, __fmul_rn(a[i], cosine)), y = __fmaf_rn(a[i], sine, __fmul_rn(b[i], cosine));
      a[i] = x;
      b[i] = y;
    }
  }
  if constexpr (PAIRS == 2) {
    *(u32*)to = pack2(a[0], a[1]);
    *(u32*)(to + HALF) = pack2(b[0], b[1]);
  } else {
    to[0] = elem_from_f32(a[0]);
    to[HALF] = elem_from_f32(b[0]);
  }
}

#define QK_NORM_ROPE_APPEND(d)                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      qk_norm_rope_append_d##d(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm,             \
                               const int* positions, const float* __restrict__ rotation, const int* slots, elem* q_out,       \
                               elem* k_pages, elem* v_pages, int rows, int num_heads, int kv_heads, int block_len, float eps) { \
    qk_norm_rope_append<d>(qkv, q_norm, k_norm, positions, rotation, slots, q_out, k_pages, v_pages, rows, num_heads,         \
                           kv_heads, block_len, eps);                                                                          \
  }
QK_NORM_ROPE_APPEND(64)
QK_NORM_ROPE_APPEND(128)
