// sample: temperature, min-p, top-k, top-p and the Gumbel-max draw, over [Outputs, vocab] logits,
// as nvllm-core's `sampling` defines.
//
// sample_scan: the largest processed logit, by SPLITS blocks a row: greedy's choice, and the
// reference of min-p and of all masses. sample_filter: top-k and top-p as one threshold on (logit,
// token), one block a row. Masses are integers, 2^44 for the likeliest token:
//   their sum has no order. Skipped where neither is asked.
// sample_draw: the largest scaled logit plus Gumbel noise, by SPLITS blocks a row. Skipped for
// greedy rows. sample_finish: joins the splits, and hands the token to the host and to the
// sequence's slot. logprobs: log-sum-exp in f64, and the most likely tokens in no order, one block
// a row.
// The scan reads the logits once: bound by memory. The filter reads them up to 16 times from cache:
// bound by shared-memory atomics.
#include "philox.cuh"
#include "row.cuh"
#include "select.cuh"

#define SPLITS 32
#define MAX_TOP 32

// `any` is a set: whether there is a best; whether a logit among those looked at was NaN or plus
// infinity as the model made it; and whether one was above minus infinity.
enum Any { HAS_BEST = 1, UNUSABLE = 2, POSSIBLE = 4 };

struct Best {
    double score;
    int token;
    int any;
};
static_assert(sizeof(Best) == 16, "as in src/sampler.rs");

struct Scored {
    double log_sum_exp;
    float logit;
    u32 num_top;
    u32 ids[MAX_TOP];
    float logits[MAX_TOP];
};
static_assert(sizeof(Scored) == 16 + 8 * MAX_TOP, "as in src/sampler.rs");

// The better of two: the larger score, of equals the lower token. One that holds nothing loses.
__device__ __forceinline__ Best better(Best a, Best b) {
    if (!(b.any & HAS_BEST)) return a;
    if (!(a.any & HAS_BEST)) return b;
    if (b.score > a.score || (b.score == a.score && b.token < a.token)) return b;
    return a;
}

__device__ __forceinline__ Best warp_best(Best best) {
    for (int offset = 16; offset > 0; offset >>= 1) {
        Best other = {__shfl_xor_sync(0xffffffffu, best.score, offset), __shfl_xor_sync(0xffffffffu, best.token, offset),
                      __shfl_xor_sync(0xffffffffu, best.any, offset)};
        best = better(best, other);
    }
    return best;
}

// The best of a block of at most 1,024 threads, in thread 0.
__device__ __forceinline__ Best block_best(Best best) {
    __shared__ Best partial[32];
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / 32; i++) best = better(best, partial[i]);
    }
    return best;
}

// Tokens of one split: a multiple of 4, so that four uniforms of one counter stay together.
__device__ __forceinline__ int split_len(int vocab) { return ((vocab + SPLITS - 1) / SPLITS + 3) / 4 * 4; }

__device__ __forceinline__ bool samples(const Sampling& s, int at) {
    if (at >= s.counts[NUM_OUTPUTS]) return false;
    u32 now = s.masks ? WANTS_SAMPLE | AWAITS_MASK : WANTS_SAMPLE;
    return (s.outputs[at].wants & (WANTS_SAMPLE | AWAITS_MASK)) == now;
}

// The best of a row's splits, and all of their flags: by a whole warp, a lane for each split.
static_assert(SPLITS == 32, "a lane for each split");
__device__ __forceinline__ Best highest(const Best* partials, int at) {
    Best best = partials[at * SPLITS + threadIdx.x % 32];
    u32 any = __reduce_or_sync(0xffffffffu, (u32)best.any);
    best = warp_best(best);
    best.any = (int)any;
    return best;
}

extern "C" __global__ void __launch_bounds__(256) sample_scan(SAMPLING_PARAMS, Best* partials) {
    take_turn();
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.y;
    if (!samples(s, at)) return;
    Row row = row_of(s, at);
    int len = split_len(vocab), start = blockIdx.x * len, end = min(start + len, vocab);
    Best best = {NEG_INF, 0, 0};
    bool usable = true, possible = false;
    for (int t = start + threadIdx.x; t < end; t += blockDim.x) {
        float x = processed(row, t);
        usable &= row.logits[t] < POS_INF;
        possible |= row.logits[t] > NEG_INF;
        // Not a number and minus infinity never win.
        if (x > NEG_INF) best = better(best, {(double)x, t, HAS_BEST});
    }
    best = block_best(best);
    usable = __syncthreads_and(usable);
    possible = __syncthreads_or(possible);
    if (threadIdx.x == 0) {
        best.any |= (usable ? 0 : UNUSABLE) | (possible ? POSSIBLE : 0);
        partials[at * SPLITS + blockIdx.x] = best;
    }
}

// What survives min-p, as a lower bound on the scaled logit.
__device__ __forceinline__ double min_p_floor(const Row& row, double max) {
    return row.slot.min_p > 0.0f ? max + log((double)row.slot.min_p) : (double)NEG_INF;
}

extern "C" __global__ void __launch_bounds__(1024) sample_filter(SAMPLING_PARAMS, const Best* partials, u64* thresholds) {
    __shared__ Histogram histogram;
    take_turn();
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.x;
    if (!samples(s, at)) return;
    Row row = row_of(s, at);
    Best top = highest(partials, at);
    u64 threshold = 0;
    if (row.slot.temperature > 0.0f && (top.any & (HAS_BEST | UNUSABLE)) == HAS_BEST) {
        double temperature = row.slot.temperature, max = top.score / temperature, floor = min_p_floor(row, max);
        if (row.slot.top_k > 0) {
            auto one = [&](int t, u64& key) -> u64 {
                float x = processed(row, t);
                key = order_key(x, t);
                return x > NEG_INF && (double)x / temperature >= floor;
            };
            u64 k = row.slot.top_k;
            threshold = select_prefix(histogram, vocab, one, [=](u64) { return k; });
        }
        if (row.slot.top_p < 1.0f) {
            auto mass = [&](int t, u64& key) -> u64 {
                float x = processed(row, t);
                key = order_key(x, t);
                if (!(x > NEG_INF) || key < threshold) return 0;
                double scaled = (double)x / temperature;
                return scaled >= floor ? (u64)(exp(scaled - max) * 17592186044416.0 + 0.5) : 0;
            };
            double share = row.slot.top_p;
            auto wanted = [=](u64 total) -> u64 { return (u64)ceil(share * (double)total); };
            u64 nucleus = select_prefix(histogram, vocab, mass, wanted);
            threshold = nucleus > threshold ? nucleus : threshold;
        }
    }
    if (threadIdx.x == 0) thresholds[at] = threshold;
}

extern "C" __global__ void __launch_bounds__(256)
    sample_draw(SAMPLING_PARAMS, const Best* partials, const u64* thresholds, Best* draws) {
    take_turn();
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.y;
    if (!samples(s, at)) return;
    Row row = row_of(s, at);
    if (!(row.slot.temperature > 0.0f)) return;
    Best top = highest(partials, at), best = {NEG_INF, 0, 0};
    double temperature = row.slot.temperature, max = top.score / temperature, floor = min_p_floor(row, max);
    u64 threshold = thresholds[at];
    u32 position = s.outputs[at].next_index;
    int len = split_len(vocab), start = blockIdx.x * len, end = min(start + len, vocab);
    for (int first = start + 4 * threadIdx.x; first < end; first += 4 * blockDim.x) {
        Words words = philox4x32(row.slot.seed, position, row.slot.choice, first / 4, 0);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int t = first + i;
            if (t >= end) break;
            float x = processed(row, t);
            double scaled = (double)x / temperature;
            if (!(x > NEG_INF) || !(scaled >= floor) || order_key(x, t) < threshold) continue;
            best = better(best, {scaled - log(-log(uniform(words.w[i]))), t, HAS_BEST});
        }
    }
    best = block_best(best);
    if (threadIdx.x == 0) draws[at * SPLITS + blockIdx.x] = best;
}

extern "C" __global__ void __launch_bounds__(32)
    sample_finish(SAMPLING_PARAMS, const Best* partials, const Best* draws, int* tokens) {
    take_turn();
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.x;
    if (!samples(s, at)) return;
    Slot* slot = slots + outputs[at].slot;
    Best best = highest(partials, at);
    int any = best.any;
    if (slot->temperature > 0.0f) best = highest(draws, at);
    if (threadIdx.x != 0) return;
    if ((any & (UNUSABLE | POSSIBLE)) != POSSIBLE) {
        // No token: the sequence ends, and a step that is already in flight must find one that
        //   exists.
        tokens[at] = -1;
        slot->last_token = 0;
        return;
    }
    // If nothing is left, the first token, so that the caller still gets one.
    int token = best.any & HAS_BEST ? best.token : 0;
    tokens[at] = token;
    slot->last_token = token;
    slot->output_len += 1;
    if (slot->uses_counts) seen[(i64)outputs[at].slot * vocab + token] += 1;
}

// Tokens that a sequence has when it gets its slot: `bit` 1 << 31 marks the prompt, 1 counts the
// output.
extern "C" __global__ void sample_count(const u32* tokens, int num_tokens, u32* seen, int in_prompt) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num_tokens) return;
    if (in_prompt) {
        atomicOr(seen + tokens[i], 0x80000000u);
    } else {
        atomicAdd(seen + tokens[i], 1u);
    }
}

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

extern "C" __global__ void __launch_bounds__(1024)
    logprobs(const int* counts, const Output* outputs, const float* logits, int vocab, const int* tokens,
             Scored* scored) {
    __shared__ Histogram histogram;
    __shared__ Best shared_top;
    __shared__ u32 num_top;
    int at = blockIdx.x;
    if (at >= counts[NUM_OUTPUTS] || !(outputs[at].wants & WANTS_LOGPROB)) return;
    const float* x = logits + (i64)at * vocab;
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
        int token = outputs[at].target >= 0 ? outputs[at].target : tokens[at];
        // An unusable row has no token.
        if (token < 0) token = 0;
        scored[at].log_sum_exp = max + log(sum);
        scored[at].logit = x[token];
        scored[at].num_top = num_top;
    }
}
