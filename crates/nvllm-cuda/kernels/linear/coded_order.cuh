// Order id `linear.coded8`: the summation order of the tensor-core kernels over coded weights, a
// function of K and of the weight's format alone.
//
// K is cut into at most 8 ranges of L = 128 * ceil(K / 1024) columns, the last one shorter. Within a
// range, codes (exact in 16 bits) times x are accumulated by the tensor core 16 columns at a time
// into one fp32 accumulator that starts at 0. Where a block of scales or a run of 128 columns ends,
// the accumulator is multiplied by the block's scale, added to the range's sum, and starts anew. The
// ranges' sums are added in ascending order; then the token's scale is multiplied, bias and residual
// are added. Which 16 columns of 32 the tensor core takes together depends on the width of codes.
#pragma once

#define COLS 128                                               // columns of a stage

DEVICE int range_len(int k) { return (k + 1023) / 1024 * COLS; }
DEVICE int num_ranges(int k) { int len = range_len(k); return (k + len - 1) / len; }

// Flags of a launch; as src/lower/linear/coded.rs has them.
enum Flags {
  OUT_F32 = 1,                                                 // y is f32
  LATE = 2,                                                    // the next kernel starts when x is here
  GATED = 4,                                                   // y = silu(x Wg^T) * (x Wu^T)
  WIDE = 8,                                                    // scales are f32
  HALF = 16,                                                   // scales are f16 (neither: bf16)
  MIDPOINT = 32,                                               // 4-bit codes are around 8
  ZEROS = 64,                                                  // offsets are zero points, bf16
  VALUES = 128,                                                // offsets are values, as the scales
  GROUPED = 256,                                               // x has a scale for every 128 columns of a token
};

// A block's scale or offset from shared memory.
DEVICE float load_scale(u32 at, int index, int flags) {
  u32 v;
  if (flags & WIDE) {
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at + index * 4) : "memory");
    return __uint_as_float(v);
  }
  elem half;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(half) : "r"(at + index * 2) : "memory");
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(half));
  return flags & HALF ? f : __uint_as_float((u32)half << 16);
}
