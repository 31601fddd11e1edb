// How a row's tokens are filtered: its path, its scale, and the bins of its logits.
#pragma once

#include "order.cuh"
#include "row.cuh"

// At most this many blocks share a row, a power of two from 4 on: a lane of a warp for each.
#define SPLITS 32
#define MIN_SPLITS 4
// The tokens of a row in so many groups, whatever the number of blocks: each has a peak.
#define PEAKS 256
#define BINS 2048
// Tokens whose fate is decided one by one; of more, the whole row is looked at again.
#define LISTED 4096

// What decides over the tokens of a row. Bins below `sure` are kept whole. Tokens of the bins from
// there to `last`, and of the bin `at_k`, in which top-k ends, are listed. The rest is dropped.
struct Border {
    u64 mass_sure;     // of the bins below `sure`
    u64 mass_before_k; // of the bins below `at_k`; of all tokens where top-k ends nowhere
    u32 num_before_k;
    int sure;
    int last;
    int at_k;
};

// What the kernels leave for each other, of each output row.
struct Work {
    Best partials[SPLITS];
    Best draws[SPLITS];
    u64 masses[BINS + 1]; // the last is that of all tokens beyond the reach
    u32 counts[BINS];
    float peaks[PEAKS];
    u32 list[LISTED];
    u32 num_listed;
    u32 padding;
    Border border;
};
constexpr int WORK_BYTES = 43056;
static_assert(sizeof(Work) == WORK_BYTES);

// How a row is filtered. ALL: by min-p at most. BY_PEAKS: the k-th largest of the groups' peaks is
// a bound for top-k, and hardly more than k tokens reach it. BY_BINS: by a histogram of the row.
// Which one is a property of the parameters, so a token does not depend on who else is there.
enum Path { GREEDY, ALL, BY_PEAKS, BY_BINS };

__device__ __forceinline__ int path_of(const Row& r) {
    if (!(r.slot.temperature > 0.0f)) return GREEDY;
    if (r.slot.top_k > 0 && r.slot.top_k <= PEAKS) return BY_PEAKS;
    return r.slot.top_k > 0 && r.slot.top_k < (u32)r.vocab || r.slot.top_p < 1.0f ? BY_BINS : ALL;
}

// The best of a row's splits, and all of their flags: by a whole warp.
__device__ __forceinline__ Best highest(const Best* partials) {
    Best best = partials[threadIdx.x % SPLITS];
    u32 any = __reduce_or_sync(0xffffffffu, (u32)best.any);
    best = warp_best(best);
    best.any = (int)any;
    return best;
}
static_assert(SPLITS == 32, "a lane for each split");

// Tokens of one split: a multiple of 4, so that four uniforms of one counter stay together.
__device__ __forceinline__ int split_len(int vocab, int splits) {
    return ((vocab + splits - 1) / splits + 3) / 4 * 4;
}

// ---- scale ----
// Logits of a row against its largest one.
struct Scale {
    double temperature, max; // the largest logit over the temperature
    float top;               // the largest logit
    float rate;              // halvings of a probability for 1 of logit
    float floor;             // the least logit that min-p keeps
};

// The neighbour of a finite number, towards plus infinity for `up` = 1, minus infinity for -1.
__device__ __forceinline__ float neighbour(float x, int up) {
    if (x == 0.0f) return __int_as_float(up > 0 ? 1 : (int)0x80000001u);
    return __int_as_float(__float_as_int(x) + (x > 0.0f ? up : -up));
}

// `top` is the largest logit. The floor is exact: a logit is below it if and only if, divided by
// the temperature in f64, it is below what min-p asks for.
__device__ __forceinline__ Scale scale_of(const Row& r, double top) {
    Scale s;
    s.temperature = r.slot.temperature;
    s.max = top / s.temperature;
    s.top = (float)top;
    s.rate = 1.44269504f / r.slot.temperature;
    s.floor = -3.402823466e38f;
    if (r.slot.min_p > 0.0f) {
        double least = s.max + log((double)r.slot.min_p);
        float x = fminf(fmaxf((float)(least * s.temperature), s.floor), s.top);
        while (x > s.floor && (double)x / s.temperature >= least) x = neighbour(x, -1);
        while (!((double)x / s.temperature >= least)) x = neighbour(x, 1);
        s.floor = x;
    }
    return s;
}

// The mass of a token: an integer, 2^44 for the likeliest.
__device__ __forceinline__ u64 mass_of(const Scale& s, float x) {
    return (u64)(exp((double)x / s.temperature - s.max) * 17592186044416.0 + 0.5);
}
__device__ __forceinline__ u64 share_of(float share, u64 mass) { return (u64)ceil((double)share * (double)mass); }

// ---- bins ----
// Bins are of distances d to the largest logit: 128 to each octave of 16 d + 1, so that they are
// narrow where a distribution is steep and no bin of a wide one holds more than some hundredth.
// The last takes what is farther.
__device__ __forceinline__ int bin_of(const Scale& s, float x) {
    float t = __fmaf_rn(__fsub_rn(s.top, x), 16.0f, 1.0f);
    return (int)min((__float_as_uint(t) >> 16) - 0x3f80u, (u32)BINS - 1);
}
__device__ __forceinline__ float edge_of(int bin) {
    return (__uint_as_float((u32)(bin + 0x3f80) << 16) - 1.0f) * 0.0625f;
}

// Bits of a token's mass against the mass at the edge of its bin: so many that the sum of a block
// does not overflow, whatever the number of blocks.
__device__ __forceinline__ int mass_bits(int vocab) {
    return min(__clz(split_len(vocab, MIN_SPLITS)) - 1, 24);
}

// Farther from the largest logit than this, no token is kept by a top-p of its own: all of them
// together have less than 1 - top_p of the likeliest one's mass.
__device__ __forceinline__ float reach_of(const Row& r) {
    if (r.slot.top_k > 0 && r.slot.top_k < (u32)r.vocab) return POS_INF;
    return r.slot.temperature * (logf((float)r.vocab / (1.0f - r.slot.top_p)) + 0.01f);
}
