// Order id `norm.block128`: the mean square of a row of n columns, a function of n alone. Thread i
// of 128 adds the squares of the runs of 8 columns i, i + 128, ... one by one in ascending order,
// lanes meet by exchanges at distance 16, 8, 4, 2, 1, the four warps' sums are added in ascending
// order.
#pragma once

// Columns of the widest row that 128 threads hold, each in so many runs of 8.
constexpr int norm_cols(int runs) { return runs * 1024; }

DEVICE float add_squares(float sum, uint4 run) {
  const u32 part[4] = {run.x, run.y, run.z, run.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    sum = __fmaf_rn(low(part[i]), low(part[i]), sum);
    sum = __fmaf_rn(high(part[i]), high(part[i]), sum);
  }
  return sum;
}
DEVICE float add_lanes(float sum) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
  return sum;
}
DEVICE float norm_factor(const float* warps, int n, float eps) {
  const float sum = __fadd_rn(__fadd_rn(__fadd_rn(warps[0], warps[1]), warps[2]), warps[3]);
  return __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, (float)n), eps));
}
DEVICE u32 norm_pair(u32 v, float factor, u32 w) {
  return pack2(__fmul_rn(__fmul_rn(low(v), factor), low(w)), __fmul_rn(__fmul_rn(high(v), factor), high(w)));
}
DEVICE uint4 norm_run(uint4 v, float factor, uint4 w) {
  return make_uint4(norm_pair(v.x, factor, w.x), norm_pair(v.y, factor, w.y), norm_pair(v.z, factor, w.z), norm_pair(v.w, factor, w.w));
}
