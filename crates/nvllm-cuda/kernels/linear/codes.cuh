// Codes as pairs of bf16, exact: what the tensor-core kernels over coded weights multiply.
//
// mma.sync gives a lane columns 2q, 2q + 1, 2q + 8 and 2q + 9 of 16, ldmatrix gives it one word of a
// row: 4 codes of 8 bits or 8 of 4 bits. Sums do not ask which column is which, so a lane takes the
// codes as they lie and x is stored in that order (`arrange`).
#pragma once

#include "prelude.cuh"

enum Code { I8, E4M3, U4, LUT4, NF4 };
template <Code CODE> constexpr int BITS = CODE == I8 || CODE == E4M3 ? 8 : 4;

DEVICE u32 fma2(u32 a, u32 b, u32 c) { u32 d; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }

// Bytes 0 and 2 of `w`, two's complement. 0x43 makes a 7-bit number n of bf16's mantissa 128 + n,
// and the sign bit makes 128 into 256.
DEVICE u32 pair_i8(u32 w) { return fma2((w & 0x00800080u) | 0x43004300u, 0xbf80bf80u, (w & 0x007f007fu) | 0x43004300u); }
// Bytes 1 and 3: the exponent is 120 too small where E4M3's bits lie in bf16's.
DEVICE u32 pair_e4m3(u32 w) { return fma2((w & 0x80008000u) | (w >> 4 & 0x07f007f0u), 0x7b807b80u, 0x80008000u); }
// The low nibbles of bytes 0 and 2, less `center` (minus 128 or 136, twice).
DEVICE u32 pair_u4(u32 w, u32 center) { return fma2((w & 0x000f000fu) | 0x43004300u, 0x3f803f80u, center); }

// The columns that a lane has of a word for one mma: two pairs. 8 bits: bytes 0, 2 and 1, 3.
template <Code CODE> DEVICE void pairs8(u32 w, u32 (&p)[2]) {
  if constexpr (CODE == I8) { p[0] = pair_i8(w); p[1] = pair_i8(w >> 8); }
  else { p[0] = pair_e4m3(w << 8); p[1] = pair_e4m3(w); }
}
// 4 bits: four pairs for two mma: codes 0, 4 and 1, 5; 2, 6 and 3, 7.
DEVICE void pairs_u4(u32 w, u32 center, u32 (&p)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) p[i] = pair_u4(w >> 4 * i, center);
}
// The same by a table of 16 entries a lane, `table` its first: bf16 values in the low halves, what
// these lack in the high ones (`rest`).
DEVICE void pairs_table(u32 w, u32 table, u32 (&p)[4], u32 (&rest)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 e[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int at = 4 * i + 16 * j;                           // an entry every 128 bytes
      const u32 offset = (at >= 7 ? w >> (at >= 7 ? at - 7 : 0) : w << (at >= 7 ? 0 : 7 - at)) & 0x780u;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(e[j]) : "r"(table + offset));
    }
    p[i] = __byte_perm(e[0], e[1], 0x5410);
    rest[i] = __byte_perm(e[0], e[1], 0x7632);
  }
}
// The table in shared memory, 2,048 bytes: entry [code][lane], so that lanes meet no bank conflict.
DEVICE void fill_table(u32* table, const float* values) {
  for (int i = threadIdx.x; i < 512; i += blockDim.x) {
    const float value = values[i >> 5];
    const elem near = elem_from_f32(value);
    table[i] = (u32)elem_from_f32(__fsub_rn(value, elem_to_f32(near))) << 16 | near;
  }
}

// Stores columns 8 c.. of x, c < 16, in the 256 bytes of a token's 128 columns: a lane's B operands
// of two mma, 32 columns, in 16 bytes at piece 4 * (column / 32) + q. `flip` spreads tokens over
// the banks.
template <Code CODE> DEVICE void arrange(u32 to, int c, u32 flip, uint4 v) {
  const u32 unit = c >> 2 << 2;
  if constexpr (BITS<CODE> == 4) {
    store_shared_16(to + (((unit | (c & 3)) ^ flip) << 4),
                    make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
                               __byte_perm(v.y, v.w, 0x7632)));
  } else {
    const u32 q = (c & 1) * 2, half = (c & 2) * 4;
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};" :: "r"(to + (((unit | q) ^ flip) << 4) + half),
                 "r"(__byte_perm(v.x, v.y, 0x5410)), "r"(__byte_perm(v.x, v.y, 0x7632)) : "memory");
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};" :: "r"(to + (((unit | (q + 1)) ^ flip) << 4) + half),
                 "r"(__byte_perm(v.z, v.w, 0x5410)), "r"(__byte_perm(v.z, v.w, 0x7632)) : "memory");
  }
}
