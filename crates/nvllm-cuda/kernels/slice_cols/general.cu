// slice_cols: y[r, :] = x[r, start .. start + cols]. A copy; with start 0 and all columns the
// collectives in a world of one.
//
// x [R, x_cols], y [R, cols]. `count` rows times `times`. Reads and writes each element once: bound
// by memory.
#include "dtype.cuh"

extern "C" __global__ void slice_cols_general(const int* count, int times, const void* x, int x_dtype, int x_cols,
                                              int start, void* y, int y_dtype, int cols) {
    int row = blockIdx.x;
    if (row >= *count * times) return;
    i64 from = (i64)row * x_cols + start, to = (i64)row * cols;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        store_as(y, y_dtype, to + c, load_as(x, x_dtype, from + c));
    }
}
