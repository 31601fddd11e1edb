// add: y = a + b, all [R, cols]. Reads two and writes one element: bound by memory.
#include "dtype.cuh"

extern "C" __global__ void add_general(const int* count, int times, const void* a, int a_dtype, const void* b,
                                       int b_dtype, void* y, int y_dtype, int cols) {
    take_turn();
    int row = blockIdx.x;
    if (row >= *count * times) return;
    i64 at = (i64)row * cols;
    for (int c = blockIdx.y * blockDim.x + threadIdx.x; c < cols; c += gridDim.y * blockDim.x) {
        store_as(y, y_dtype, at + c, load_as(a, a_dtype, at + c) + load_as(b, b_dtype, at + c));
    }
}
