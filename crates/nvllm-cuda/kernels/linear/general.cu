// linear: y = x W^T + b. x [R, k], W [n, k], b [n] f32 or null, y [R, n]. Any k, n, R.
//
// A warp makes one column of y for up to 4 rows, so a weight is read once for 4 rows; an element's order is that of dot.cuh. Grid:
// (ceil(n / 8), ceil(R / 4)), 256 threads. Bound by weight bytes at few rows, by load instructions at many.
#include "dot.cuh"

template <typename X, typename W, typename Y>
__device__ __forceinline__ void linear_general(const int* count, int times, const X* x, const W* w, const float* bias,
                                               Y* y, int k, int n) {
    const int ROWS = 4;
    int row = blockIdx.y * ROWS, col = blockIdx.x * 8 + threadIdx.x / 32;
    int rows = min(*count * times - row, ROWS);
    if (rows <= 0 || col >= n) return;
    float sum[ROWS];
    lane_dots<ROWS>(x + (i64)row * k, w + (i64)col * k, k, rows, sum);
    float b = bias ? bias[col] : 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float total = warp_sum(sum[r]) + b;
        if (r < rows && threadIdx.x % 32 == 0) store(y + (i64)(row + r) * n + col, total);
    }
}

#define LINEAR(NAME, X, W, Y)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const int* count, int times, const X* x, const W* w, const float* bias, Y* y, int k, int n) {             \
        linear_general(count, times, x, w, bias, y, k, n);                                                             \
    }
#define LINEAR_ALL(X, Y)                                                                                               \
    LINEAR(linear_general_##X##_float_##Y, X, float, Y)                                                                \
    LINEAR(linear_general_##X##_f16_##Y, X, f16, Y)                                                                    \
    LINEAR(linear_general_##X##_bf16_##Y, X, bf16, Y)

LINEAR_ALL(float, float)
LINEAR_ALL(bf16, bf16)
LINEAR_ALL(bf16, float)
LINEAR_ALL(float, bf16)
