// expert_linear over coded experts: y[r, :] = x[r / share, :] W[ids[r]]^T. x [R / share, k] in the
// order of W's stored columns, W [E n, k] as coded.cuh has it, of which rows [first, first + rows)
// are here; ids [R], y [R, n]. Any k, n, any dtypes.
//
// A warp makes one element of y, in the order of dot.cuh; an element of another segment is left to
// the launch for that. Grid: (R, ceil(n / BLOCK_COLS)). Bound by the instructions that decode an
// element.
// spills: expert_linear_coded 12: sm_100a alone; two calls of the decoder share its registers
#include "coded.cuh"
#include "reduce.cuh"

constexpr int BLOCK_COLS = 8;

extern "C" __global__ void __launch_bounds__(256)
    expert_linear_coded(const int* count, int times, int share, const void* x, int x_dtype, const int* ids, int first, int rows,
                        CODED_PARAMS, void* y, int y_dtype, int k, int n) {
    const Coded w = CODED;
    int row = blockIdx.x, col = blockIdx.y * BLOCK_COLS + threadIdx.x / 32;
    if (row >= *count * times || col >= n) return;
    i64 at = (i64)ids[row] * n + col - first;
    if (at < 0 || at >= rows) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < k; i += 32) {
        sum = fmaf(load_as(x, x_dtype, (i64)(row / share) * k + i), coded_value(w, at, i), sum);
    }
    float total = warp_sum(sum);
    if (threadIdx.x % 32 == 0) store_as(y, y_dtype, (i64)row * n + col, total);
}
