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
// Launch: qk_norm_rope_append_d64 / _d128, _fp8_.., _int8_..: no dynamic shared memory, grid
//   (ceil(rows * ceil(heads / span) / UNITS)) where heads = num_heads + 2 kv_heads: 16 lanes take
//   `span` (1 to 4) heads of one row. span 1 for few rows, 4 for many.
// Bytes: (2 num_heads + 4 kv_heads) * D * 2 a row and 4 D of rotation. Bound: memory bandwidth; for
//   few rows the latency of a launch.
// Order id: norm.half_warp (head.cuh).
#include "head.cuh"

constexpr int UNITS = 256 / 16;                                // of a block

template <int D, KvKind KV>
DEVICE void qk_norm_rope_append(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm, const int* positions,
                                const float* __restrict__ rotation, const int* slots, elem* q_out, void* k_pages, void* v_pages,
                                int rows, int num_heads, int kv_heads, int block_len, float eps, int span, float* k_scales,
                                float* v_scales) {
  const int heads = num_heads + 2 * kv_heads, spans = (heads + span - 1) / span;
  const int unit = blockIdx.x * UNITS + (threadIdx.x >> 4), row = unit / spans, head0 = unit % spans * span;
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
    HeadPart<D> norm = {};
    if (q_norm) norm.load(head < num_heads ? q_norm : k_norm, col);
    norm_and_turn<D>(turned, q_norm != nullptr, norm, turn, eps);
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
