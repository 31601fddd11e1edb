// RMS norm of query and key heads, rotary embedding, and the append of keys and values to their
// pages, in one pass over merged rows.
//
// Formula, a head of D columns at a time: y = x / sqrt(mean(x^2) + eps) * w (left out where w is
//   null), then for i < D/2 (y_i, y_{i+D/2}) -> (y_i cos - y_{i+D/2} sin, y_{i+D/2} cos + y_i sin);
//   values are copied. fp32 throughout, one rounding at the end.
// Layout: qkv [rows, (num_heads + 2 kv_heads) * D]: queries, keys, values; q_norm, k_norm [D] or
//   both null; positions i32 [rows], or null:
//   row i is at i; rotation f32 [positions, D/2, 2]: cos and sin of every position; q_out [rows,
//   num_heads, D]; pages of K and V of one layer, each [num_blocks, kv_heads, block_len, D]; slots
//   i32 [rows]: block * block_len + offset of the row's KV index, negative for none (a padding row:
//   nothing is appended). 16-bit elements. D 64 or 128.
// Launch: qk_norm_rope_append_d64 / _d128: block (256), no dynamic shared memory, grid (ceil(rows *
//   ceil(heads / span) / 16)) where heads = num_heads + 2 kv_heads: 16 lanes take `span` (1 to 4)
//   heads of one row. span 1 for few rows, 4 for many.
// Bytes: (2 num_heads + 4 kv_heads) * D * 2 a row and 4 D of rotation. Bound: memory bandwidth; for
//   few rows the latency of a launch.
// Order id: norm.half_warp: lane i of 16 adds the squares of columns D/32 i.. and D/2 + D/32 i..,
//   in turns, then lanes meet by exchanges at distance 8, 4, 2, 1. A head's result depends on that
//   head alone.
#include "prelude.cuh"

// What one lane of 16 holds of a head: columns col.. in `a` and D/2 + col.. in `b`, where col =
// D/32 times the lane.
template <int D> struct HeadPart {
  static constexpr int PAIRS = D / 32, WORDS = D / 64;
  u32 a[WORDS], b[WORDS];
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

// cos and sin of the lane's pairs at one position.
template <int D> struct Turn {
  float at[D / 16];
  DEVICE_MEMBER void load(const float* rotation, int position, int col) {
    const float* from = rotation + ((u64)position * (D / 2) + col) * 2;
#pragma unroll
    for (int i = 0; i < D / 64; i++) *(float4*)(at + 4 * i) = *(const float4*)(from + 4 * i);
  }
};

// y = x / sqrt(mean(x^2) + eps) * norm (left out where norm is null), then rotated; fp32 within,
// rounded once. Called by whole warps.
template <int D> DEVICE void norm_and_turn(HeadPart<D>& part, const elem* norm, const Turn<D>& turn, int col, float eps) {
  constexpr int PAIRS = HeadPart<D>::PAIRS, WORDS = HeadPart<D>::WORDS;
  float x[PAIRS], y[PAIRS], sum = 0.0f;
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    x[2 * i] = low(part.a[i]); x[2 * i + 1] = high(part.a[i]);
    y[2 * i] = low(part.b[i]); y[2 * i + 1] = high(part.b[i]);
  }
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
#pragma unroll
  for (int i = 0; i < WORDS; i++) { part.a[i] = pack2(x[2 * i], x[2 * i + 1]); part.b[i] = pack2(y[2 * i], y[2 * i + 1]); }
}

template <int D>
DEVICE void qk_norm_rope_append(const elem* qkv, const elem* __restrict__ q_norm, const elem* __restrict__ k_norm, const int* positions,
                                const float* __restrict__ rotation, const int* slots, elem* q_out, elem* k_pages, elem* v_pages,
                                int rows, int num_heads, int kv_heads, int block_len, float eps, int span) {
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
    HeadPart<D> turned = part[h];
    norm_and_turn<D>(turned, head < num_heads ? q_norm : k_norm, turn, col, eps);
    if (!works || head >= heads) continue;
    if (head < num_heads) {
      turned.store(q_out + ((u64)row * num_heads + head) * D, col);
    } else if (slot >= 0) {
      const u64 at = (((u64)(slot / block_len) * kv_heads + (head - num_heads) % kv_heads) * block_len + slot % block_len) * D;
      if (head < num_heads + kv_heads) turned.store(k_pages + at, col);
      else part[h].store(v_pages + at, col);
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
