// embed from a coded table: y[r, :] = the values of row token[r], converted to the activation
// dtype; layout of the table: coded.cuh.
//
// The table is rows [first, first + rows) of the whole one: a row of another segment is left to the
// launch for that. Stored column c is column perm[c] of y, where perm is given. Grid: (T), any
// number of threads. Reads each code once: bound by memory.
#include "step.cuh"
#include "coded.cuh"

extern "C" __global__ void embed_coded(const int* counts, const int* tokens, int first, int rows, CODED_PARAMS, const int* perm,
                                       void* y, int y_dtype, int cols) {
    take_turn();
    const Coded w = CODED;
    int row = blockIdx.x;
    if (row >= counts[NUM_TOKENS]) return;
    int from = tokens[row] - first;
    if (from < 0 || from >= rows) return;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        store_as(y, y_dtype, (i64)row * cols + (perm ? perm[c] : c), coded_value(w, from, c));
    }
}
