// Chunks of a sequence's KV folded into its rows (attention_order.cuh).
#pragma once

#include "prelude.cuh"
#include "attention_order.cuh"

// Where row `r` of an entry's packed rows (token by token, the group's heads side by side) lies in
// q and out.
// `token` is r / group.
template <int D> DEVICE u64 out_at(const WorkItem& item, int head, int r, int token, int group, int num_heads) {
  return ((u64)(item.first_row + token) * num_heads + head * group + r - token * group) * D;
}

// The rows of sequence `seq` and KV head `head` where its KV is cut into several chunks: their sums
// folded in ascending order. `store(at, pair)` writes two elements of out. So many threads call it,
// the first of a block.
template <int D, typename Store>
DEVICE void fold_chunks(const float* partial, const float* partial_ml, int part_rows, const WorkItem* items, const int* first_entry,
                        int seq, int head, int num_heads, int kv_heads, float scale, int threads, Store store) {
  constexpr int BATCH = 16;                                    // chunks asked for at once
  const int group = num_heads / kv_heads;
  const float c = __fmul_rn(scale, 1.4426950408889634f);
  const int entry = load_l2_i32(first_entry + seq);
  if (entry < 0) return;
  const uint4 x = load_l2(items + entry), y = load_l2((const char*)(items + entry) + 16);
  const WorkItem item = {(int)x.x, (int)x.y, (int)x.z, (int)x.w, (int)y.x, (int)y.y, (int)y.z, (int)y.w};
  if (item.num_chunks == 1) return;
  for (int i = threadIdx.x; i < item.num_rows * group * (D / 2); i += threads) {
    const int row = i / (D / 2), col = i % (D / 2) * 2;
    float m = NEG_INF, l = 0.0f, a0 = 0.0f, a1 = 0.0f;
    for (int chunk = 0; chunk < item.num_chunks; chunk += BATCH) {
      float2 ml[BATCH], part[BATCH];
#pragma unroll
      for (int j = 0; j < BATCH; j++) {
        ml[j] = make_float2(NEG_INF, 0.0f);                    // changes nothing
        part[j] = make_float2(0.0f, 0.0f);
        if (chunk + j < item.num_chunks) {
          const u64 at = ((u64)(entry + chunk + j) * kv_heads + head) * part_rows + row;
          ml[j] = load_l2_f32x2(partial_ml + at * 2);
          part[j] = load_l2_f32x2(partial + at * D + col);
        }
      }
#pragma unroll
      for (int j = 0; j < BATCH; j++) {
        const float top = fmaxf(m, ml[j].x), scaled = scaled_max(top, c);
        const float a = rescale(m, c, scaled), b = rescale(ml[j].x, c, scaled);
        m = top;
        l = fold(l, a, ml[j].y, b);
        a0 = fold(a0, a, part[j].x, b);
        a1 = fold(a1, a, part[j].y, b);
      }
    }
    const float inverse = __frcp_rn(l);
    store(out_at<D>(item, head, row, row / group, group, num_heads) + col, pack2(__fmul_rn(a0, inverse), __fmul_rn(a1, inverse)));
  }
}
