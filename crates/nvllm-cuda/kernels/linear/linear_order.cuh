// Order id `linear.split8`: the summation order of every linear kernel in this folder, a function
// of K alone.
//
// K is cut into at most 8 ranges of L = 64 * ceil(K / 512) columns, the last one shorter. Within a
// range, products are accumulated by the tensor core 16 columns at a time, ascending, into one fp32
// accumulator that starts at 0 (columns beyond K count as 0). The ranges' sums are added in
// ascending order: ((p0 + p1) + p2) + ... Neither M, nor N, nor a kernel's tile, nor which operand
// holds the weights enters. Bias, then residual are added to that sum in fp32; one rounding at the
// end.
#pragma once

constexpr int RANGES = 8;
constexpr int range_len(int k) { return (k + 511) / 512 * 64; }
DEVICE int num_ranges(int k) { int len = range_len(k); return (k + len - 1) / len; }

// y = sum + bias[n] + residual[m, n], each where given.
DEVICE float epilogue(float sum, const elem* bias, const elem* residual, int n, u64 at) {
  if (bias) sum = __fadd_rn(sum, elem_to_f32(bias[n]));
  if (residual) sum = __fadd_rn(sum, elem_to_f32(load_l2_elem(residual + at)));
  return sum;
}
