// embed: y[r, :] = table[token[r], :]. A copy, converted to the activation dtype.
//
// table [vocab, cols] in f32, f16 or bf16; y [T, cols]. `ahead`: no op comes before it, so that it
// works beside the kernels that prepare the step, and waits for them last. Reads and writes each
// element once: bound by memory.
#include "step.cuh"

extern "C" __global__ void embed_general(const int* counts, const int* tokens, const void* table, int table_dtype,
                                         void* y, int y_dtype, int cols, int ahead) {
    let_next_start();
    if (!ahead) wait_for_inputs();
    int row = blockIdx.x, len = row < counts[NUM_TOKENS] ? cols : 0;
    i64 from = (i64)tokens[row] * cols, to = (i64)row * cols;
    for (int c = threadIdx.x; c < len; c += blockDim.x) {
        store_as(y, y_dtype, to + c, load_as(table, table_dtype, from + c));
    }
    if (ahead) wait_for_inputs();
}
