// linear over a coded weight of any format: y = x W^T + b (+ r). x [R, k] in the order of W's
// stored columns, W [n, k] as coded.cuh has it, b [n] f32 or null, r and y [R, stride] of which
// columns first.. are made. Any k, n, R, any dtypes.
//
// A warp makes one column of y for up to 4 rows. Lane l takes elements l, l + 32, .. by fused
// multiply-adds and a butterfly joins the lanes: the order of dot.cuh. Grid: (ceil(n / BLOCK_COLS),
// ceil(R / ROWS)). Bound by the instructions that decode an element: for formats and shapes that
// no other kernel takes.
#include "coded.cuh"
#include "reduce.cuh"

constexpr int BLOCK_COLS = 8, ROWS = 4;

extern "C" __global__ void __launch_bounds__(256)
    linear_coded_general(const int* count, int times, const void* x, int x_dtype, CODED_PARAMS, const float* bias,
                         const void* residual, void* y, int y_dtype, int k, int n, int first, int stride) {
    const Coded w = CODED;
    int row = blockIdx.y * ROWS, col = blockIdx.x * BLOCK_COLS + threadIdx.x / 32;
    int rows = min(*count * times - row, ROWS);
    if (rows <= 0 || col >= n) return;
    float sum[ROWS] = {};
    for (int i = threadIdx.x % 32; i < k; i += 32) {
        float wi = coded_value(w, col, i);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r < rows) sum[r] = fmaf(load_as(x, x_dtype, (i64)(row + r) * k + i), wi, sum[r]);
        }
    }
    float b = bias ? bias[first + col] : 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        i64 at = (i64)(row + r) * stride + first + col;
        float total = warp_sum(sum[r]) + b;
        if (r < rows && threadIdx.x % 32 == 0) {
            store_as(y, y_dtype, at, residual ? total + load_as(residual, y_dtype, at) : total);
        }
    }
}
