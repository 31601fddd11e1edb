// kv_append: stores the step's keys and values at their KV indices, rounded to the cache's dtype.
//
// k, v [T, heads * d]; caches [num_blocks, heads, block_len, d]; tables [S, max_blocks]; row_seq
// and row_kv [T]: the sequence of a row and its KV index. Rows of padding are not written. Reads
// and writes each element once: bound by memory.
#include "step.cuh"

extern "C" __global__ void kv_append_general(const int* counts, const int* row_seq, const int* row_kv,
                                             const int* tables, int max_blocks, const void* k, const void* v,
                                             int x_dtype, void* k_cache, void* v_cache, int kv_dtype, int heads, int d,
                                             int block_len) {
    int row = blockIdx.x;
    if (row >= counts[NUM_TOKENS]) return;
    int index = row_kv[row];
    i64 block = tables[(i64)row_seq[row] * max_blocks + index / block_len];
    for (int i = threadIdx.x; i < heads * d; i += blockDim.x) {
        i64 from = (i64)row * heads * d + i;
        i64 to = ((block * heads + i / d) * block_len + index % block_len) * d + i % d;
        store_as(k_cache, kv_dtype, to, load_as(k, x_dtype, from));
        store_as(v_cache, kv_dtype, to, load_as(v, x_dtype, from));
    }
}
