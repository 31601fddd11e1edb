// linear: y = x W^T + b (+ r). x [R, k], W [n, k], b [n] f32 or null, r [R, n] or null, y [R, n];
// and its gated form y = silu(x Wg^T + bg) * (x Wu^T + bu), where W [2n, k] is Wg over Wu and b
// [2n] alike. Any k, n, R. One rounding at the end.
//
// A warp makes one column of y for up to 4 rows, so a weight is read once for 4 rows; an element's
// order is that of dot.cuh. Grid: (ceil(n / BLOCK_COLS), ceil(R / ROWS)). Bound by weight
// bytes at few rows, by load instructions at many.
#include "dot.cuh"

constexpr int BLOCK_COLS = 8, ROWS = 4;

template <bool SILU, typename X, typename W, typename Y>
__device__ __forceinline__ void linear_general(const int* count, int times, const X* x, const W* w, const float* bias,
                                               const Y* residual, Y* y, int k, int n) {
    int row = blockIdx.y * ROWS, col = blockIdx.x * BLOCK_COLS + threadIdx.x / 32;
    int rows = min(*count * times - row, ROWS);
    if (rows <= 0 || col >= n) return;
    float sum[ROWS], up[ROWS];
    lane_dots<ROWS>(x + (i64)row * k, w + (i64)col * k, k, rows, sum);
    if (SILU) lane_dots<ROWS>(x + (i64)row * k, w + (i64)(n + col) * k, k, rows, up);
    float b = bias ? bias[col] : 0.0f, up_b = SILU && bias ? bias[n + col] : 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        i64 at = (i64)(row + r) * n + col;
        float total = warp_sum(sum[r]) + b;
        if (SILU) total = total / (1.0f + expf(-total)) * (warp_sum(up[r]) + up_b);
        if (r < rows && threadIdx.x % 32 == 0) store(y + at, residual ? total + to_f32(residual[at]) : total);
    }
}

#define LINEAR(NAME, SILU, X, W, Y)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const int* count, int times, const X* x, const W* w, const float* bias, const Y* residual, Y* y, int k,  \
             int n) {                                                                                                  \
        linear_general<SILU>(count, times, x, w, bias, residual, y, k, n);                                             \
    }
#define LINEAR_ALL(FORM, SILU, X, Y)                                                                                   \
    LINEAR(FORM##_general_##X##_float_##Y, SILU, X, float, Y)                                                          \
    LINEAR(FORM##_general_##X##_f16_##Y, SILU, X, f16, Y)                                                              \
    LINEAR(FORM##_general_##X##_bf16_##Y, SILU, X, bf16, Y)

LINEAR_ALL(linear, false, float, float)
LINEAR_ALL(linear, false, bf16, bf16)
LINEAR_ALL(linear, false, bf16, float)
LINEAR_ALL(linear, false, float, bf16)
LINEAR_ALL(linear_silu, true, float, float)
LINEAR_ALL(linear_silu, true, bf16, bf16)
LINEAR_ALL(linear_silu, true, float, bf16)
