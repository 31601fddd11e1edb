// What the tensor-core kernels over coded weights share: tiles of W on their way to shared memory,
// and the product of a stage, 128 columns, in the order of coded_order.cuh.
#pragma once

#include "prelude.cuh"
#include "codes.cuh"
#include "coded_order.cuh"

// What a block's end needs beside its scale: nothing, the sums of x for offsets, x's own scales.
enum Mode { PLAIN, SUMS, SCALED };
// Bytes of an octet's scales, and offsets, of a block; of the codes of 16 r rows; of a stage, in
// which an octet has so many blocks.
constexpr int block_bytes(bool offsets) { return offsets ? 64 : 32; }
constexpr int code_bytes(int r, int bits) { return 16 * r * COLS * bits / 8; }
constexpr int stage_bytes(int r, int bits, int blocks, bool offsets) {
  return code_bytes(r, bits) + 2 * r * (blocks * block_bytes(offsets));
}
template <Mode MODE> constexpr int BLOCK_BYTES = block_bytes(MODE == SUMS);

// 16 R rows of W, whose stages a warp copies to shared memory: 128 columns of codes in swizzled
// pieces of 16 bytes, so that ldmatrix meets no bank conflict; then the scales of its octets of
// rows. Gated, each octet of gate is followed by the matching one of up.
template <Code CODE, Mode MODE, int R> struct Tile {
  static constexpr int WIDTH = BITS<CODE>, ROWS = 16 * R, CODES = code_bytes(R, WIDTH), STEP = 32 / WIDTH;
  const char *w, *scales, *from, *scales_from[R];
  u64 pitch, up;
  u32 place, place4;                                           // of pieces of rows my_row and, of 8-bit codes, my_row + 4
  int n, k, shift, blocks, k0, out_n, out_rows, rows_left, piece, my_row, lane;
  bool gated;

  DEVICE_MEMBER Tile(const char* w, const char* scales, int n, int k, int shift, int blocks, int k0, bool gated)
      : w(w), scales(scales), n(n), k(k), shift(shift), blocks(blocks), k0(k0), gated(gated) {
    lane = threadIdx.x & 31;
    piece = lane % WIDTH;
    my_row = lane / WIDTH;
    out_n = gated ? n / 2 : n;
    out_rows = gated ? ROWS / 2 : ROWS;
    pitch = (u64)k * WIDTH / 8;
    up = gated ? (u64)(out_n - 8) * pitch : 0;
    place = my_row * (WIDTH * 16) + ((WIDTH == 4 ? piece ^ (my_row >> 1 & 3) : piece ^ my_row) << 4);
    place4 = WIDTH == 4 ? place : (my_row + 4) * 128 + ((piece ^ (my_row + 4)) << 4);
  }
  DEVICE_MEMBER int in_stage() const { return shift < 7 ? COLS >> shift : 1; }   // blocks
  DEVICE_MEMBER int octet_bytes() const { return in_stage() * BLOCK_BYTES<MODE>; }
  DEVICE_MEMBER int bytes() const { return stage_bytes(R, WIDTH, in_stage(), MODE == SUMS); }
  DEVICE_MEMBER int shift_octet() const { return (MODE == SUMS ? 2 : 1) + (shift < 7 ? 7 - shift : 0); }   // log2 of its pieces

  DEVICE_MEMBER void aim(int tile) {
    const int row = tile * out_rows + my_row, last = (n - 1) / 8;
    rows_left = out_n - row;
    from = w + (u64)row * pitch + (k0 * WIDTH / 8 + piece * 16);
#pragma unroll
    for (int i = 0; i < R; i++) {
      const int octet = (lane + 32 * i) >> shift_octet(), in = (lane + 32 * i) & ((1 << shift_octet()) - 1);
      int at = gated ? tile * R + (octet >> 1) + (octet & 1) * (out_n / 8) : tile * 2 * R + octet;
      at = at < last ? at : last;
      scales_from[i] = scales + (u64)at * blocks * BLOCK_BYTES<MODE> + in * 16;
    }
  }
  // Copies stage `step`, the next one since `aim`, to `at`; zeros beyond W.
  DEVICE_MEMBER void load(u32 at, int step) {
    const int col = k0 + step * COLS, block = col >> shift;
    const bool valid = col + piece * (128 / WIDTH) < k;
    const char* row_from = from;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
      // Row my_row + STEP i; of 16 the upper 8 are `up` further where gated.
      const int row = STEP * i, out = gated ? (row >> 4) * 8 + (row & 7) : row;
      const u32 to = WIDTH == 4 ? place + row * 64 : (i & 1 ? place4 : place) + (row & ~7) * 128;
      copy_async_16(at + to, row_from, valid && out < rows_left);
      row_from += STEP * pitch;
      if (STEP * (i + 1) % 16 == 8) row_from += up;
      if (STEP * (i + 1) % 16 == 0 && gated) row_from -= up + 8 * pitch;
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
      const int in = (lane + 32 * i) & ((1 << shift_octet()) - 1);
      if (lane + 32 * i < 2 * R << shift_octet())
        copy_async_16(at + CODES + (lane + 32 * i) * 16, scales_from[i] + block * BLOCK_BYTES<MODE>,
                      block + (in >> (MODE == SUMS ? 2 : 1)) < blocks);
    }
    from += COLS * WIDTH / 8;
  }
};

// A warp's sums for 16 R rows of W and 8 NT tokens: of a block, of a range, and of x.
template <Code CODE, Mode MODE, int R, int NT> struct Sums {
  static constexpr int WIDTH = BITS<CODE>, CODES = code_bytes(R, WIDTH);
  float acc[R][NT][4], part[R][NT][4], ones[NT][4];

  DEVICE_MEMBER void clear() {
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        ones[t][e] = 0.0f;
#pragma unroll
        for (int r = 0; r < R; r++) acc[r][t][e] = part[r][t][e] = 0.0f;
      }
  }
  // Scales the block's sums. At `scale_at` is this lane's scale of the first octet, at `factors`
  // are x's scales.
  DEVICE_MEMBER void end_block(u32 scale_at, int octet_bytes, u32 factors, bool zeros) {
    float f[NT][2];
    if constexpr (MODE == SCALED) {
#pragma unroll
      for (int t = 0; t < NT; t++)
        asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(f[t][0]), "=f"(f[t][1]) : "r"(factors + t * 32) : "memory");
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u32 of = scale_at + (2 * r + half) * octet_bytes;
        float s, z = 0.0f;
        if constexpr (MODE == SUMS) asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(s), "=f"(z) : "r"(of) : "memory");
        else asm volatile("ld.shared.f32 %0, [%1];" : "=f"(s) : "r"(of) : "memory");
        const float zero = zeros ? -z : 0.0f, value = zeros ? 0.0f : z;
#pragma unroll
        for (int t = 0; t < NT; t++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            float v = part[r][t][e];
            if constexpr (MODE == SUMS) v = __fmaf_rn(zero, ones[t][e & 1], v);
            if constexpr (MODE == SCALED) v = __fmul_rn(v, f[t][e & 1]);
            v = __fmaf_rn(s, v, acc[r][t][e]);
            if constexpr (MODE == SUMS) v = __fmaf_rn(value, ones[t][e & 1], v);
            acc[r][t][e] = v;
            part[r][t][e] = 0.0f;
          }
      }
#pragma unroll
    for (int t = 0; t < NT; t++) ones[t][0] = ones[t][1] = ones[t][2] = ones[t][3] = 0.0f;
  }
  // Adds the product of the stage at `at`. `x_of(t)`: where this lane's operands of 8 tokens begin
  // (first_operand); `period`: columns that share a scale; `center`: of 4-bit codes.
  template <typename X>
  DEVICE_MEMBER void add_stage(u32 at, X x_of, int period, int octet_bytes, u32 factors, u32 center, bool zeros, u32 table) {
    const int lane = threadIdx.x & 31;
    const u32 w_at = (lane & 15) * (WIDTH * 16) + (((lane >> 4) ^ (WIDTH == 8 ? lane & 7 : lane >> 1 & 3)) << 4);
    u32 scale_at = at + CODES + (lane >> 2) * (MODE == SUMS ? 8 : 4), a[R][4];
    auto end = [&]() { end_block(scale_at, octet_bytes, factors, zeros); scale_at += BLOCK_BYTES<MODE>; };
#pragma unroll
    for (int unit = 0; unit < 4; unit++) {                     // 32 columns
      u32 b[NT][4];
#pragma unroll
      for (int t = 0; t < NT; t++) load_unit<CODE>(b[t], x_of(t), unit);
      if (WIDTH == 8 || unit % 2 == 0)
#pragma unroll
        for (int r = 0; r < R; r++) ldmatrix_x4(a[r], at + r * (CODES / R) + (w_at ^ (WIDTH == 8 ? 32 * unit : 16 * unit)));
#pragma unroll
      for (int h = 0; h < 2; h++) {                            // 16 of them: an mma
        if constexpr (MODE == SUMS)
#pragma unroll
          for (int t = 0; t < NT; t++)
            mma(ones[t], ELEM_ONES, ELEM_ONES, ELEM_ONES, ELEM_ONES, b[t][2 * h], b[t][2 * h + 1]);
#pragma unroll
        for (int r = 0; r < R; r++) {
          u32 lower[2], upper[2], rest[2][2];
          if constexpr (WIDTH == 8) {
            pairs8<CODE>(a[r][2 * h], lower);
            pairs8<CODE>(a[r][2 * h + 1], upper);
          } else if constexpr (CODE == U4) {
            pairs_u4(a[r][unit % 2 * 2], h, center, lower);
            pairs_u4(a[r][unit % 2 * 2 + 1], h, center, upper);
          } else {
            pairs_table(a[r][unit % 2 * 2], h, table, lower, rest[0]);
            pairs_table(a[r][unit % 2 * 2 + 1], h, table, upper, rest[1]);
          }
#pragma unroll
          for (int t = 0; t < NT; t++) {
            mma(part[r][t], lower[0], upper[0], lower[1], upper[1], b[t][2 * h], b[t][2 * h + 1]);
            if constexpr (CODE == NF4)
              mma(part[r][t], rest[0][0], rest[1][0], rest[0][1], rest[1][1], b[t][2 * h], b[t][2 * h + 1]);
          }
        }
        if (WIDTH == 8 && h == 0 && period == 16) end();
      }
      if (unit == 3 || period <= (unit == 1 ? 64 : 32)) end();
    }
  }
};

// What a kernel of this folder does to the sum of all ranges: the token's scale, bias, and silu of
// gate times up.
DEVICE float finish(float sum, float upper, float scale, const float* bias, int out, int out_n, bool gated) {
  sum = __fmul_rn(sum, scale);
  if (bias) sum = __fadd_rn(sum, bias[out]);
  if (!gated) return sum;
  upper = __fmul_rn(upper, scale);
  if (bias) upper = __fadd_rn(upper, bias[out_n + out]);
  return __fmul_rn(silu(sum), upper);
}
