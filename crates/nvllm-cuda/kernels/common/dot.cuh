// The one order in which a general kernel sums a product over k: lane l takes elements l, l + 32,
// .. in one f32 accumulator by fused multiply-adds, and a butterfly joins the lanes. A function of
// k alone.
#pragma once

#include "dtype.cuh"
#include "reduce.cuh"

// Lane sums of ROWS rows of x (row stride k) against one row of w, the first `rows` of them.
template <int ROWS, typename X, typename W>
__device__ __forceinline__ void lane_dots(const X* x, const W* w, int k, int rows, float (&sum)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[r] = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < k; i += 32) {
        float wi = to_f32(w[i]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r < rows) sum[r] = fmaf(to_f32(x[(i64)r * k + i]), wi, sum[r]);
        }
    }
}
