// embed: y[r, :] = table[token[r], :]. A copy, converted to the activation dtype.
//
// table [vocab, cols] in f32, f16 or bf16; y [T, cols]. Reads and writes each element once: bound
// by memory.
#include "step.cuh"

extern "C" __global__ void embed_general(const int* counts, const int* tokens, const void* table, int table_dtype,
                                         void* y, int y_dtype, int cols) {
    take_turn();
    int row = blockIdx.x;
    if (row >= counts[NUM_TOKENS]) return;
    i64 from = (i64)tokens[row] * cols, to = (i64)row * cols;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        store_as(y, y_dtype, to + c, load_as(table, table_dtype, from + c));
    }
}
