// sample_finish: decides over the listed tokens, joins what the blocks of a row drew, and hands the
// token to the host and to the sequence's slot. One block a row.
// sample_count, sample_mark: what is known of a sequence when it gets its slot.
//
// Listed tokens are sorted in shared memory, 4,096 at most: bound by latency. Of more, as of
// thousands of equal logits, the row is filtered and drawn anew, in up to 17 passes of one block:
// slow, and rare.
// Order: masses are integers, whose sum has none; the largest score is taken.
#include "border.cuh"
#include "gumbel.cuh"
#include "select.cuh"

#define THREADS 256

// The keys of the listed tokens in descending order, and zeros up to a power of two.
__device__ __forceinline__ void sort_listed(const Row& row, const Work& w, int num, u64* keys) {
    int padded = 1;
    while (padded < num) padded *= 2;
    for (int i = threadIdx.x; i < padded; i += THREADS) {
        keys[i] = i < num ? order_key(processed_one(row, w.list[i]), w.list[i]) : 0;
    }
    // Bitonic: pairs at a distance of `step`, in runs of `run` that alternate in their direction.
    for (int run = 2; run <= padded; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < padded / 2; i += THREADS) {
                int low = i / step * step * 2 + i % step, high = low + step;
                u64 a = keys[low], b = keys[high];
                if ((a < b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

// The best of the listed tokens that the filters keep.
__device__ __forceinline__ Best best_listed(const Row& row, const Scale& scale, const Border& border, int path, int num,
                                            u64* keys) {
    __shared__ u64 partial[THREADS / 32];
    auto bin = [&](int i) { return path == BY_BINS ? bin_of(scale, logit_of_key(keys[i])) : 0; };
    // Of the tokens of top-k's last bin, so many are kept; they are the last ones here.
    int limit = num;
    u64 ahead = 0, unused;
    if (border.at_k < BINS) {
        for (int i = threadIdx.x; i < num; i += THREADS) ahead += bin(i) < border.at_k;
        sum_before(ahead, partial, ahead);
        limit = min(num, (int)ahead + (int)(row.slot.top_k - border.num_before_k));
    } else {
        ahead = num;
    }
    bool by_mass = row.slot.top_p < 1.0f;
    int per_thread = (num + THREADS - 1) / THREADS, start = threadIdx.x * per_thread, end = min(start + per_thread, num);
    u64 wanted = 0, mass = 0;
    if (by_mass) {
        u64 at_k = 0, own = 0;
        for (int i = start; i < end; i++) {
            u64 m = mass_of(scale, logit_of_key(keys[i]));
            own += m;
            if (i >= (int)ahead && i < limit) at_k += m;
        }
        sum_before(at_k, partial, at_k);
        wanted = share_of(row.slot.top_p, border.mass_before_k + at_k);
        mass = border.mass_sure + sum_before(own, partial, unused);
    }
    Best best = NO_BEST;
    for (int i = start; i < min(end, limit); i++) {
        float x = logit_of_key(keys[i]);
        if ((by_mass && mass >= wanted) || bin(i) > border.last) break;
        if (by_mass) mass += mass_of(scale, x);
        best = better(best, drawn(row, scale, x, token_of_key(keys[i])));
    }
    return best;
}

// The best of all tokens that the filters keep, from the row itself.
__device__ __forceinline__ Best best_of_row(const Row& row, const Scale& scale) {
    __shared__ Histogram histogram;
    u64 threshold = 0, k = row.slot.top_k;
    if (k > 0) {
        auto one = [&](int t, u64& key) -> u64 {
            float x = processed_one(row, t);
            key = order_key(x, t);
            return x >= scale.floor;
        };
        threshold = select_prefix(histogram, row.vocab, one, [=](u64) { return k; });
    }
    if (row.slot.top_p < 1.0f) {
        auto mass = [&](int t, u64& key) -> u64 {
            float x = processed_one(row, t);
            key = order_key(x, t);
            return x >= scale.floor && key >= threshold ? mass_of(scale, x) : 0;
        };
        float share = row.slot.top_p;
        u64 nucleus = select_prefix(histogram, row.vocab, mass, [=](u64 total) { return share_of(share, total); });
        threshold = max(threshold, nucleus);
    }
    Best best = NO_BEST;
    for (int t = threadIdx.x; t < row.vocab; t += THREADS) {
        float x = processed_one(row, t);
        if (x >= scale.floor && order_key(x, t) >= threshold) best = better(best, drawn(row, scale, x, t));
    }
    return best;
}

extern "C" __global__ void __launch_bounds__(THREADS) sample_finish(SAMPLING_PARAMS, const Work* work) {
    __shared__ u64 keys[LISTED];
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.x;
    Row row;
    if (!take_row(s, at, row)) return;
    const Work& w = work[at];
    Best top = highest(w.partials), best = top;
    int path = path_of(row);
    bool usable = (top.any & (UNUSABLE | POSSIBLE)) == POSSIBLE;
    if (path != GREEDY && usable && (top.any & HAS_BEST)) {
        best = highest(w.draws);
        Scale scale = scale_of(row, top.score);
        int num = (int)w.num_listed;
        if (num > LISTED) {
            best = block_best(best_of_row(row, scale));
        } else if (num > 0) {
            Border border = {0, 0, 0, 0, 0, 0};
            if (path == BY_BINS) border = w.border;
            sort_listed(row, w, num, keys);
            best = better(best, block_best(best_listed(row, scale, border, path, num, keys)));
        }
    }
    if (threadIdx.x != 0) return;
    int* tokens = (int*)results_of(counts);
    Slot* slot = slots + outputs[at].slot;
    if (!usable) {
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
    if (slot->uses_counts) {
        seen[(i64)outputs[at].slot * vocab + token] += 1;
        touched[(i64)outputs[at].slot * ((vocab + 31) / 32) + token / 32] |= 1u << (token % 32);
    }
}

// Tokens that a sequence has when it gets its slot: bit 31 marks the prompt, 1 counts the output.
extern "C" __global__ void sample_count(const u32* tokens, int num_tokens, u32* seen, u32* touched, int in_prompt) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num_tokens) return;
    if (in_prompt) {
        atomicOr(seen + tokens[i], 0x80000000u);
    } else {
        atomicAdd(seen + tokens[i], 1u);
    }
    atomicOr(touched + tokens[i] / 32, 1u << (tokens[i] % 32));
}

// Tokens whose logits are changed whatever was seen: biased, and suppressed.
extern "C" __global__ void sample_mark(const Bias* biases, int num_biases, const u32* stops, int num_stops, u32* touched) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= num_biases + num_stops) return;
    u32 token = i < num_biases ? biases[i].token : stops[i - num_biases];
    atomicOr(touched + token / 32, 1u << (token % 32));
}
