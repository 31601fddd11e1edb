// kv_append: stores the step's keys and values at their KV indices in the cache's format
// (nvllm-core's kv_format.rs).
//
// k, v [T, heads * d]; caches [num_blocks, heads, block_len, d], and for int8 scales f32
// [num_blocks, heads, block_len] of each; tables [S, max_blocks]; row_seq and row_kv [T]: the
// sequence of a row and its KV index. Rows of padding are not written. A warp takes a head's key or
// value. Reads each element once or twice and writes it once: bound by memory.
#include "kv_quant.cuh"
#include "step.cuh"

// As `cache_code` in src/lower/attention.rs; below them those of dtype.cuh.
enum CacheCode { CACHE_FP8 = 3, CACHE_INT8 = 4 };

extern "C" __global__ void kv_append_general(const int* counts, const int* row_seq, const int* row_kv,
                                             const int* tables, int max_blocks, const void* k, const void* v,
                                             int x_dtype, void* k_cache, void* v_cache, int format, int heads, int d,
                                             int block_len, float* k_scales, float* v_scales) {
    int row = blockIdx.x, lane = threadIdx.x % 32;
    if (row >= counts[NUM_TOKENS]) return;
    int index = row_kv[row];
    i64 block = tables[(i64)row_seq[row] * max_blocks + index / block_len];
    for (int part = threadIdx.x / 32; part < 2 * heads; part += blockDim.x / 32) {
        int head = part % heads;
        const void* x = part < heads ? k : v;
        void* cache = part < heads ? k_cache : v_cache;
        i64 from = ((i64)row * heads + head) * d, place = (block * heads + head) * block_len + index % block_len;
        float scale = 1.0f;
        if (format == CACHE_INT8) {
            unsigned most = 0;
            for (int i = lane; i < d; i += 32) most = max(most, magnitude(load_as(x, x_dtype, from + i)));
            scale = int8_scale(__reduce_max_sync(~0u, most));
            if (lane == 0) (part < heads ? k_scales : v_scales)[place] = scale;
        }
        for (int i = lane; i < d; i += 32) {
            float value = load_as(x, x_dtype, from + i);
            i64 to = place * d + i;
            if (format == CACHE_FP8) {
                ((u8*)cache)[to] = e4m3_code(value);
            } else if (format == CACHE_INT8) {
                ((u8*)cache)[to] = int8_code(value, scale);
            } else {
                store_as(cache, format, to, value);
            }
        }
    }
}
