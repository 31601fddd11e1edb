// gather_rows: y[o, :] = x[row of output o, :]. A copy.
//
// x [T, cols], y [Outputs, cols]. Reads and writes each element once: bound by memory.
#include "step.cuh"

extern "C" __global__ void gather_rows_general(const int* counts, const Output* outputs, const void* x, int x_dtype,
                                               void* y, int y_dtype, int cols) {
    take_turn();
    int row = blockIdx.x;
    if (row >= counts[NUM_OUTPUTS]) return;
    i64 from = (i64)outputs[row].row * cols, to = (i64)row * cols;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        store_as(y, y_dtype, to + c, load_as(x, x_dtype, from + c));
    }
}
