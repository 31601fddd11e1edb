// paged_attention: softmax attention of each query over its own sequence's cached keys and values.
//
// q, y [T, heads * d]; caches [num_blocks, kv_heads, block_len, d], for int8 with scales f32
// [num_blocks, kv_heads, block_len] of each; tables [S, max_blocks]. A query
// at KV index i sees keys j with i - window < j <= i (window 0: all up to i). Any d up to
// MAX_HEAD_DIM, any group size, any block length.
//
// One block of 128 threads a row and head. Keys come in chunks of 64 that begin at multiples of 64
// of the KV index, merged in ascending order with a running maximum (Milakov and Gimelshein 2018):
// the order of every sum is a function of KV indices and d. Scores: a warp a key, in the order of
// dot.cuh. Values: a thread a column, ascending keys.
// Reads the row's keys and values once for each query head: bound by cache bandwidth.
#include "dot.cuh"
#include "step.cuh"

#define CHUNK 64
#define MAX_COLS 4
constexpr int MAX_HEAD_DIM = 128 * MAX_COLS;

struct AttentionArgs {
    const int* counts;
    const int* row_seq;
    const int* row_kv;
    const int* tables;
    int max_blocks, heads, kv_heads, d, block_len, window;
    float scale;
    // Of int8; null for other formats.
    const float *k_scales, *v_scales;
};

template <typename X, typename KV>
__device__ __forceinline__ void paged_attention_general(AttentionArgs a, const X* q, const KV* k, const KV* v, X* y) {
    __shared__ float scores[CHUNK];
    __shared__ i64 places[CHUNK];  // rows of the caches
    int row = blockIdx.x, head = blockIdx.y;
    if (row >= a.counts[NUM_TOKENS]) return;
    int last = a.row_kv[row], first = a.window > 0 ? max(last + 1 - a.window, 0) : 0;
    const int* table = a.tables + (i64)a.row_seq[row] * a.max_blocks;
    int kv_head = head / (a.heads / a.kv_heads);
    q += ((i64)row * a.heads + head) * a.d;
    float acc[MAX_COLS] = {0.0f, 0.0f, 0.0f, 0.0f};
    float max = NEG_INF, total = 0.0f;
    for (int start = first / CHUNK * CHUNK; start <= last; start += CHUNK) {
        int lo = ::max(first - start, 0), hi = min(last - start, CHUNK - 1);
        if (threadIdx.x < CHUNK && threadIdx.x >= lo && threadIdx.x <= hi) {
            int index = start + threadIdx.x;
            i64 block = table[index / a.block_len];
            places[threadIdx.x] = (block * a.kv_heads + kv_head) * a.block_len + index % a.block_len;
        }
        __syncthreads();
        for (int j = lo + threadIdx.x / 32; j <= hi; j += 4) {
            float sum[1];
            lane_dots<1>(q, k + places[j] * a.d, a.d, 1, sum);
            float score = warp_sum(sum[0]);
            if (a.k_scales) score *= a.k_scales[places[j]];
            score *= a.scale;
            if (threadIdx.x % 32 == 0) scores[j] = score;
        }
        __syncthreads();
        float highest = max;
        for (int j = lo; j <= hi; j++) highest = fmaxf(highest, scores[j]);
        float fade = expf(max - highest), part = 0.0f;
        __syncthreads();
        if (threadIdx.x < CHUNK && threadIdx.x >= lo && threadIdx.x <= hi) {
            scores[threadIdx.x] = expf(scores[threadIdx.x] - highest);
        }
        __syncthreads();
        float sums[MAX_COLS] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int j = lo; j <= hi; j++) {
            part += scores[j];
            float weight = a.v_scales ? scores[j] * a.v_scales[places[j]] : scores[j];
#pragma unroll
            for (int i = 0; i < MAX_COLS; i++) {
                int c = threadIdx.x + i * 128;
                if (c < a.d) sums[i] = fmaf(weight, to_f32(v[places[j] * a.d + c]), sums[i]);
            }
        }
        total = fmaf(total, fade, part);
#pragma unroll
        for (int i = 0; i < MAX_COLS; i++) acc[i] = fmaf(acc[i], fade, sums[i]);
        max = highest;
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < MAX_COLS; i++) {
        int c = threadIdx.x + i * 128;
        if (c < a.d) store(y + ((i64)row * a.heads + head) * a.d + c, acc[i] / total);
    }
}

#define PAGED_ATTENTION(X, KV)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) paged_attention_general_##X##_##KV(                              \
        const int* counts, const int* row_seq, const int* row_kv, const int* tables, int max_blocks, const X* q,       \
        const KV* k, const KV* v, X* y, int heads, int kv_heads, int d, int block_len, int window, float scale,        \
        const float* k_scales, const float* v_scales) {                                                                \
        AttentionArgs a = {counts,   row_seq, row_kv,    tables, max_blocks, heads,    kv_heads,                       \
                           d,        block_len, window,  scale,  k_scales,   v_scales};                                \
        paged_attention_general(a, q, k, v, y);                                                                        \
    }
#define ALL(X)                                                                                                         \
    PAGED_ATTENTION(X, float)                                                                                          \
    PAGED_ATTENTION(X, bf16)                                                                                           \
    PAGED_ATTENTION(X, e4m3)                                                                                           \
    PAGED_ATTENTION(X, int8)
ALL(float)
ALL(bf16)
