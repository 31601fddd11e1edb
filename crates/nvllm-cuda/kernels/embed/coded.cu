// embed from a coded table: y[r, :] = the values of row token[r], converted to the activation
// dtype; layout of the table: coded.cuh.
//
// The table is rows [first, first + rows) of the whole one: a row of another segment is left to the
// launch for that. Stored column c is column perm[c] of y, where perm is given. `ahead`: as in
// general.cu. Grid: (T), any number of threads. Reads each code once: bound by memory.
#include "step.cuh"
#include "coded.cuh"

extern "C" __global__ void embed_coded(const int* counts, const int* tokens, int first, int rows, CODED_PARAMS, const int* perm,
                                       void* y, int y_dtype, int cols, int ahead) {
    let_next_start();
    if (!ahead) wait_for_inputs();
    const Coded w = CODED;
    int row = blockIdx.x, from = tokens[row] - first;
    int len = row < counts[NUM_TOKENS] && from >= 0 && from < rows ? cols : 0;
    for (int c = threadIdx.x; c < len; c += blockDim.x) {
        store_as(y, y_dtype, (i64)row * cols + (perm ? perm[c] : c), coded_value(w, from, c));
    }
    if (ahead) wait_for_inputs();
}
