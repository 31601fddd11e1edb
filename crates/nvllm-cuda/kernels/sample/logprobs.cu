// logprobs: of [Outputs, vocab] logits as the model made them, log-sum-exp in f64, the logit of one
// token, and the most likely tokens in no order; one block a row, for the rows that ask. The token
// is the one asked for, or else what the step sampled for the row's slot.
//
// Reads the logits up to 12 times from cache. Order: a butterfly in each warp, warps in ascending
// order.
#include "order.cuh"
#include "select.cuh"
#include "step.cuh"

#define MAX_TOP 32

struct Scored {
    double log_sum_exp;
    float logit;
    u32 num_top;
    u32 ids[MAX_TOP];
    float logits[MAX_TOP];
};
static_assert(sizeof(Scored) == 16 + 8 * MAX_TOP, "as in src/sampler.rs");

// The sum of a block, in one order: a butterfly in each warp, warps in ascending order.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double partial[32];
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0;
    for (int i = 0; i < blockDim.x / 32; i++) x += partial[i];
    return x;
}

extern "C" __global__ void __launch_bounds__(512)
    logprobs(const int* counts, const Output* outputs, const Slot* slots, const float* logits, int vocab, int scored_at) {
    __shared__ Histogram histogram;
    __shared__ Best shared_top;
    __shared__ u32 num_top;
    int at = blockIdx.x;
    if (at >= counts[NUM_OUTPUTS] || !(outputs[at].wants & WANTS_LOGPROB)) return;
    const float* x = logits + (i64)at * vocab;
    Scored* scored = (Scored*)(results_of(counts) + scored_at);
    Best top = {NEG_INF, 0, 0};
    for (int t = threadIdx.x; t < vocab; t += blockDim.x) {
        if (x[t] > NEG_INF) top = better(top, {(double)x[t], t, HAS_BEST});
    }
    top = block_best(top);
    if (threadIdx.x == 0) {
        shared_top = top;
        num_top = 0;
    }
    __syncthreads();
    double max = shared_top.score, sum = 0.0;
    for (int t = threadIdx.x; t < vocab; t += blockDim.x) sum += exp((double)x[t] - max);
    sum = block_sum(sum);
    u32 wanted = min(outputs[at].num_top, (u32)vocab);
    if (wanted > 0 && wanted <= MAX_TOP) {
        auto one = [&](int t, u64& key) -> u64 {
            key = order_key(x[t], t);
            return 1;
        };
        u64 threshold = select_prefix(histogram, vocab, one, [=](u64) { return (u64)wanted; });
        for (int t = threadIdx.x; t < vocab; t += blockDim.x) {
            if (order_key(x[t], t) >= threshold) {
                u32 i = atomicAdd(&num_top, 1u);
                if (i < MAX_TOP) {
                    scored[at].ids[i] = t;
                    scored[at].logits[i] = x[t];
                }
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        // Of an unusable row the slot's token is 0.
        int token = outputs[at].target >= 0 ? outputs[at].target : slots[outputs[at].slot].last_token;
        scored[at].log_sum_exp = max + log(sum);
        scored[at].logit = x[token];
        scored[at].num_top = num_top;
    }
}
