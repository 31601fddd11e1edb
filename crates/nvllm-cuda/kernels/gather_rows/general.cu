// gather_rows: y[o, :] = x[row of output o, :]. A copy.
//
// x [T, cols], y [Outputs, cols]. Reads and writes each element once: bound by memory.
#include "step.cuh"

extern "C" __global__ void gather_rows_general(const int* counts, const Output* outputs, const void* x, int x_dtype,
                                               void* y, int y_dtype, int cols) {
    let_next_start();
    int row = blockIdx.x, len = row < counts[NUM_OUTPUTS] ? cols : 0;
    i64 from = (i64)outputs[row].row * cols, to = (i64)row * cols;
    wait_for_inputs();
    for (int c = threadIdx.x; c < len; c += blockDim.x) {
        store_as(y, y_dtype, to + c, load_as(x, x_dtype, from + c));
    }
}
