// Keys and values stored as 8-bit codes (nvllm-core's kv_format.rs), as the tensor-core kernels of
// attention read them: widened to 16 bits, in which codes are exact. Keys become f16, and so do
// queries; values become bf16, because weights need its range. An int8 row has a scale, which
// multiplies scores and weights.
//
// A word of 4 codes becomes two pairs. Of keys these are columns 0, 1 and 2, 3: columns 4q .. 4q +
// 3 take the places 2q, 2q + 1, 2q + 8, 2q + 9 of the product's 16, in queries too. Of values they
// are codes 0, 2 and 1, 3: of two positions the even and the odd column.
#pragma once

#include "prelude.cuh"
#include "attention_order.cuh"
#include "codes.cuh"
#include "kv_kind.cuh"

template <KvKind KV> constexpr int KV_BYTES = KV == KV_ELEMS ? 2 : 1;
// Bytes of a row's scale; those of a tile lie behind it: of 64 keys, then of 64 values.
template <KvKind KV> constexpr int SCALE_BYTES = KV == KV_INT8 ? 4 : 0;

// Byte offset of 16-byte piece `piece` of row `row` in a tile of rows of D codes.
template <int D> DEVICE u32 codes_at(int row, int piece) {
  return D == 128 ? row * 128 + ((piece ^ (row & 7)) << 4) : row * 64 + ((piece ^ (row >> 1 & 3)) << 4);
}

// mma of prelude.cuh, its operands f16 where keys are codes.
template <KvKind KV> DEVICE void mma_keys(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (KV == KV_ELEMS) mma(d, a[0], a[1], a[2], a[3], b0, b1);
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE u32 pack_f16(float lo, float hi) { u32 v; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo)); return v; }

// Two FP8 codes, of the low bytes of `w`, in f16.
DEVICE u32 e4m3_to_f16(u32 w) {
  u32 v;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(v) : "h"((u16)w));
#else
  const u32 wide = __byte_perm(w, 0, 0x1404);                  // the exponent is 8 too small
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(v) : "r"(take(wide, 0x80008000u, wide >> 1 & 0x3f803f80u)), "r"(0x5c005c00u));
  if ((w & 0x7f) == 0x7f) v = v & 0xffff0000u | 0x7e00u;
  if ((w & 0x7f00) == 0x7f00) v = v & 0xffffu | 0x7e000000u;
#endif
  return v;
}
// Two int8 codes plus 128, bytes of `w` that `which` names, in f16: with the byte 0x64 above one it
// is 1,024 more.
DEVICE u32 i8_to_f16(u32 w, u32 which) {
  u32 v;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(v) : "r"(__byte_perm(w, 0x64646464u, which)), "r"(0xe480e480u));
  return v;
}
template <KvKind KV> DEVICE void key_pairs(u32 w, u32 (&p)[2]) {
  if constexpr (KV == KV_FP8) { p[0] = e4m3_to_f16(w); p[1] = e4m3_to_f16(w >> 16); }
  else { w ^= 0x80808080u; p[0] = i8_to_f16(w, 0x4140); p[1] = i8_to_f16(w, 0x4342); }
}
template <KvKind KV> DEVICE void value_pairs(u32 w, u32 (&p)[2]) {
  if constexpr (KV == KV_FP8) {
    // Through f32, whose upper half is bf16.
    u32 f[4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 pair = e4m3_to_f16(w >> 16 * i);
      asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=r"(f[2 * i]), "=r"(f[2 * i + 1]) : "r"(pair));
    }
    p[0] = __byte_perm(f[0], f[2], 0x7632);
    p[1] = __byte_perm(f[1], f[3], 0x7632);
  } else {
    pairs8<I8>(w, p);
  }
}

// Queries of a 16-row tile at `qs` as f16: a lane's operands A for all D columns of rows `row` and
// `row` + 8. `factor` brings a row's scores back: a power of two, 1 but for what is beyond f16.
template <int D> DEVICE void load_queries(u32 (&a)[D / 16][4], float (&factor)[2], u32 qs, int row) {
  const int q = threadIdx.x & 3;
  u32 large = 0;
#pragma unroll
  for (int i = 0; i < D / 16; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 at = qs + tile_at<D>(row + 8 * half, 2 * i + (q >> 1)) + (q & 1) * 8;
      asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(a[i][half]), "=r"(a[i][2 + half]) : "r"(at) : "memory");
      large |= (a[i][half] & 0x7fff7fffu) + 0x39003900u | (a[i][2 + half] & 0x7fff7fffu) + 0x39003900u;   // carries from 2^15 on
    }
  factor[0] = factor[1] = 1.0f;
  if (__any_sync(~0u, large & 0x80008000u)) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = 0.0f;
#pragma unroll
      for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = half; e < 4; e += 2) most = fmaxf(most, fmaxf(fabsf(low(a[i][e])), fabsf(high(a[i][e]))));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const int above = (int)(__float_as_uint(most) >> 23) - 127 - 14;
      if (above <= 0) continue;
      const float inverse = __int_as_float((127 - above) << 23);
      factor[half] = __int_as_float((127 + above) << 23);
#pragma unroll
      for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = half; e < 4; e += 2) a[i][e] = pack2(__fmul_rn(low(a[i][e]), inverse), __fmul_rn(high(a[i][e]), inverse));
    }
  }
#pragma unroll
  for (int i = 0; i < D / 16; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) a[i][e] = pack_f16(low(a[i][e]), high(a[i][e]));
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
