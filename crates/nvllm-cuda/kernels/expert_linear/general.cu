// expert_linear: y[r, :] = x[r / share, :] W[ids[r]]^T. x [R / share, k], W [E, n, k], ids [R], y
// [R, n]. Any k, n.
//
// A warp makes one element of y, in the order of dot.cuh. Grid: (R, ceil(n / BLOCK_COLS)).
// Bound by weight bytes, which are read once for each row that chose the expert.
#include "dot.cuh"

constexpr int BLOCK_COLS = 8;

template <typename X, typename W, typename Y>
__device__ __forceinline__ void expert_linear_general(const int* count, int times, int share, const X* x,
                                                      const int* ids, const W* w, Y* y, int k, int n) {
    int row = blockIdx.x, col = blockIdx.y * BLOCK_COLS + threadIdx.x / 32;
    if (row >= *count * times || col >= n) return;
    float sum[1];
    lane_dots<1>(x + (i64)(row / share) * k, w + ((i64)ids[row] * n + col) * k, k, 1, sum);
    float total = warp_sum(sum[0]);
    if (threadIdx.x % 32 == 0) store(y + (i64)row * n + col, total);
}

#define EXPERT_LINEAR(NAME, X, W, Y)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME(const int* count, int times, int share, const X* x,         \
                                                           const int* ids, const W* w, Y* y, int k, int n) {           \
        expert_linear_general(count, times, share, x, ids, w, y, k, n);                                                \
    }
#define EXPERT_LINEAR_ALL(X, Y)                                                                                        \
    EXPERT_LINEAR(expert_linear_general_##X##_float_##Y, X, float, Y)                                                  \
    EXPERT_LINEAR(expert_linear_general_##X##_f16_##Y, X, f16, Y)                                                      \
    EXPERT_LINEAR(expert_linear_general_##X##_bf16_##Y, X, bf16, Y)

EXPERT_LINEAR_ALL(float, float)
EXPERT_LINEAR_ALL(bf16, bf16)
EXPERT_LINEAR_ALL(float, bf16)
