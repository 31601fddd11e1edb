// weighted_sum: y[t, :] = sum over j of weights[t * c + j] * x[t * c + j, :], in the order of j, in
// f32.
//
// x [c * T, cols], weights [c * T] f32, y [T, cols]. Reads each element once: bound by memory.
#include "dtype.cuh"

extern "C" __global__ void weighted_sum_general(const int* count, int times, const void* x, int x_dtype,
                                                const float* weights, void* y, int y_dtype, int cols) {
    int row = blockIdx.x;
    if (row >= *count) return;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        float sum = 0.0f;
        for (int j = 0; j < times; j++) {
            i64 at = (i64)row * times + j;
            sum = fmaf(load_as(x, x_dtype, at * cols + c), weights[at], sum);
        }
        store_as(y, y_dtype, (i64)row * cols + c, sum);
    }
}
