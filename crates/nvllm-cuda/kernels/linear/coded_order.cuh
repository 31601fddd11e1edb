// Order id `linear.coded8`: the summation order of the tensor-core kernels over coded weights, a
// function of K and of the weight's format alone.
//
// K is cut into at most 8 ranges of L = 128 * ceil(K / 1024) columns, the last one shorter. Within
// a range, codes (exact in 16 bits) times x are accumulated by the tensor core 16 columns at a time
// into one fp32 accumulator that starts at 0; where W has offsets, so is x into another. Where a
// block of scales or a run of 128 columns ends, the accumulator, less zero point times the other,
// is multiplied by the block's scale and added to the range's sum, as is offset times the other,
// and both start anew. The ranges' sums are added in ascending order; then the token's scale is
// multiplied, bias and residual are added. Which 16 columns of 32 the tensor core takes together
// depends on the width of codes.
#pragma once

constexpr int COLS = 128;                                      // columns of a stage

constexpr int range_len(int k) { return (k + 1023) / 1024 * COLS; }
DEVICE int num_ranges(int k) { int len = range_len(k); return (k + len - 1) / len; }

// Flags of a launch; as src/lower/linear/coded.rs has them.
enum Flags {
  OUT_F32 = 1,                                                 // y is f32
  LATE = 2,                                                    // the next kernel starts when x is here
  GATED = 4,                                                   // y = silu(x Wg^T) * (x Wu^T)
  MIDPOINT = 8,                                                // 4-bit codes are around 8
  ZEROS = 16,                                                  // offsets are zero points
  VALUES = 32,                                                 // offsets are values
  GROUPED = 64,                                                // x has a scale for every 128 columns of a token
  TO_I8 = 128,                                                 // x becomes codes in the kernel, of int8
  TO_E4M3 = 256,                                               // of FP8 E4M3
};
