// silu_mul: y[r, c] = silu(x[r, c]) * x[r, cols + c], silu(z) = z / (1 + exp(-z)).
//
// x [R, 2 cols], y [R, cols]. Reads two and writes one element: bound by memory.
#include "dtype.cuh"

extern "C" __global__ void silu_mul_general(const int* count, int times, const void* x, int x_dtype, void* y,
                                            int y_dtype, int cols) {
    take_turn();
    int row = blockIdx.x;
    if (row >= *count * times) return;
    i64 from = (i64)row * 2 * cols, to = (i64)row * cols;
    for (int c = blockIdx.y * blockDim.x + threadIdx.x; c < cols; c += gridDim.y * blockDim.x) {
        float z = load_as(x, x_dtype, from + c), up = load_as(x, x_dtype, from + cols + c);
        store_as(y, y_dtype, to + c, z / (1.0f + expf(-z)) * up);
    }
}
