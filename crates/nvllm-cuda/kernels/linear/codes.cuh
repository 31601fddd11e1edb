// Codes as pairs of bf16, exact: what the tensor-core kernels over coded weights multiply.
//
// mma.sync gives a lane columns 2q, 2q + 1, 2q + 8 and 2q + 9 of 16, ldmatrix gives it one word of
// a row: 4 codes of 8 bits or 8 of 4 bits, of neighbouring columns. Sums do not ask which column is
// which, so a lane takes those columns of x instead. In a word, codes lie so that masks give pairs
// of neighbours (coded.cuh).
#pragma once

#include "prelude.cuh"

enum Code { I8, E4M3, U4, LUT4, NF4 };
template <Code CODE> constexpr int BITS = CODE == I8 || CODE == E4M3 ? 8 : 4;

DEVICE u32 fma2(u32 a, u32 b, u32 c) { u32 d; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }

// (w & mask) | bits, in one instruction: the compiler makes two of two constants.
DEVICE u32 take(u32 w, u32 mask, u32 bits) { u32 d; asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(w), "r"(mask), "r"(bits)); return d; }

// Bytes 0 and 2 of `w`, two's complement. 0x43 makes a 7-bit number n of bf16's mantissa 128 + n,
// and the sign bit makes 128 into 256.
DEVICE u32 pair_i8(u32 w) { return fma2(take(w, 0x00800080u, 0x43004300u), 0xbf80bf80u, take(w, 0x007f007fu, 0x43004300u)); }
// Bytes 1 and 3: the exponent is 120 too small where E4M3's bits lie in bf16's.
DEVICE u32 pair_e4m3(u32 w) { return fma2(take(w, 0x80008000u, w >> 4 & 0x07f007f0u), 0x7b807b80u, 0x80008000u); }
// The low nibbles of bytes 0 and 2, less `center` (minus 128 or 136, twice).
DEVICE u32 pair_u4(u32 w, u32 center) { return fma2(take(w, 0x000f000fu, 0x43004300u), 0x3f803f80u, center); }

// 8 bits: a word is one mma, columns 0, 1 and 2, 3.
template <Code CODE> DEVICE void pairs8(u32 w, u32 (&p)[2]) {
  if constexpr (CODE == I8) { p[0] = pair_i8(w); p[1] = pair_i8(w >> 8); }
  else { p[0] = pair_e4m3(w << 8); p[1] = pair_e4m3(w); }
}
// 4 bits: a word is two mma, columns 0, 1 and 2, 3; 4, 5 and 6, 7.
DEVICE void pairs_u4(u32 w, int half, u32 center, u32 (&p)[2]) {
  p[0] = pair_u4(w >> 8 * half, center);
  p[1] = pair_u4(w >> (8 * half + 4), center);
}
// The same by a table of 16 entries a lane, `table` its first: bf16 values in the low halves, what
// these lack in the high ones (`rest`).
DEVICE void pairs_table(u32 w, int half, u32 table, u32 (&p)[2], u32 (&rest)[2]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    u32 e[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int at = 8 * half + 4 * i + 16 * j;                // an entry every 128 bytes
      const u32 offset = (at >= 7 ? w >> (at >= 7 ? at - 7 : 0) : w << (at >= 7 ? 0 : 7 - at)) & 0x780u;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(e[j]) : "r"(table + offset));
    }
    p[i] = __byte_perm(e[0], e[1], 0x5410);
    rest[i] = __byte_perm(e[0], e[1], 0x7632);
  }
}
constexpr int TABLE_BYTES = 2048;
// The table in shared memory, of TABLE_BYTES: entry [code][lane], so that lanes meet no bank
// conflict.
DEVICE void fill_table(u32* table, const float* values) {
  for (int i = threadIdx.x; i < 512; i += blockDim.x) {
    const float value = values[i >> 5];
    const elem near = elem_from_f32(value);
    table[i] = (u32)elem_from_f32(__fsub_rn(value, elem_to_f32(near))) << 16 | near;
  }
}

// x in shared memory, in pieces of 8 columns, a token every 256 bytes: which bits of a token turn a
// piece's place, so that its readers meet no bank conflict.
template <Code CODE> DEVICE u32 turn(int token) { return BITS<CODE> == 4 ? (token & 1) << 2 : (token & 3) << 1; }
// Where a lane's B operands of the first mma begin in a token's 256 bytes.
template <Code CODE> DEVICE u32 first_operand(int q, int token) {
  return BITS<CODE> == 4 ? (q ^ turn<CODE>(token)) << 4 : ((q >> 1) ^ turn<CODE>(token)) << 4 | (q & 1) << 3;
}
// A lane's B operands of a unit of 32 columns, two mma's; `at` is where those of the first unit
// begin, in a token's 256 bytes that lie on a line of 128.
template <Code CODE> DEVICE void load_unit(u32 (&b)[4], u32 at, int unit) {
  const u32 half = unit / 2 * 128;
  if constexpr (BITS<CODE> == 4) {
    const uint4 v = load_shared_16((at ^ unit % 2 * 64) + half);
    b[0] = v.x; b[1] = v.y; b[2] = v.z; b[3] = v.w;
  } else {
#pragma unroll
    for (int h = 0; h < 2; h++)
      asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(b[2 * h]), "=r"(b[2 * h + 1])
                   : "r"((at ^ (unit % 2 * 64 + h * 32)) + half) : "memory");
  }
}
