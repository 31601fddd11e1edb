// Keys and values stored as 8-bit codes (nvllm-core's kv_format.rs), as the tensor-core kernels of
// attention read them: widened to bf16, in which codes are exact. An int8 row has a scale, which
// multiplies scores and weights.
//
// A word of 4 codes becomes two pairs, codes 0, 2 and 1, 3. Of keys a pair is two columns of the
// product's 16: columns 4q, 4q + 2 take the places 2q, 2q + 1, and 4q + 1, 4q + 3 the places 2q +
// 8, 2q + 9, in queries too. Of values it is two positions, and a word's two pairs are the even
// and the odd column.
#pragma once

#include "prelude.cuh"
#include "attention_order.cuh"
#include "codes.cuh"

enum KvKind { KV_ELEMS, KV_FP8, KV_INT8 };
template <KvKind KV> constexpr int KV_BYTES = KV == KV_ELEMS ? 2 : 1;
// Bytes of a tile's scales: of 64 keys, then of 64 values.
template <KvKind KV> constexpr int SCALE_BYTES = KV == KV_INT8 ? 2 * TILE * 4 : 0;

// Byte offset of 16-byte piece `piece` of row `row` in a tile of rows of D codes.
template <int D> DEVICE u32 codes_at(int row, int piece) {
  return D == 128 ? row * 128 + ((piece ^ (row & 7)) << 4) : row * 64 + ((piece ^ (row >> 1 & 3)) << 4);
}

// The pairs of a word; `nans` collects in the top bit of its bytes whether one was FP8's NaN, which
// becomes 480.
template <KvKind KV> DEVICE void widen(u32 w, u32 (&p)[2], u32& nans) {
  pairs8<KV == KV_INT8 ? I8 : E4M3>(w, p);
  if (KV == KV_FP8) nans |= (w & 0x7f7f7f7fu) + 0x01010101u;
}
DEVICE bool has_nan(u32 nans) { return nans & 0x80808080u; }
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

// A lane's operand A of 16 columns of queries, rows `row` and `row` + 8 of a tile at `qs`.
template <int D> DEVICE void load_query(u32 (&a)[4], u32 qs, int row, int columns) {
  const int q = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 x, y;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y)
                 : "r"(qs + tile_at<D>(row + 8 * half, 2 * columns + (q >> 1)) + (q & 1) * 8) : "memory");
    a[half] = __byte_perm(x, y, 0x5410);
    a[2 + half] = __byte_perm(x, y, 0x7632);
  }
}

// Two scales of neighbouring positions.
DEVICE float2 load_scales(u32 at) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
  return v;
}

// Brings the sums of NT tiles of 8 columns of values into the order of columns, and says which two
// columns, of those from 0 on, are a lane's of tile i.
template <KvKind KV, int NT> DEVICE void order_columns(float (&o)[NT][4]) {
  if constexpr (KV != KV_ELEMS)
#pragma unroll
    for (int i = 0; i < NT; i += 2)
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const float odd = o[i + 1][e];
        o[i + 1][e] = o[i][e + 1];
        o[i][e + 1] = odd;
      }
}
template <KvKind KV> DEVICE int column_of(int i) {
  const int q = threadIdx.x & 3;
  return KV == KV_ELEMS ? 8 * i + 2 * q : i / 2 * 16 + 4 * q + (i & 1) * 2;
}
