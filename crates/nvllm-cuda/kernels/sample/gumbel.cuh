// The draw: the largest scaled logit plus Gumbel noise.
#pragma once

#include "filter.cuh"
#include "philox.cuh"

__device__ __forceinline__ u32 word_of(const Words& words, int i) {
    u32 low = i & 1 ? words.w[1] : words.w[0], high = i & 1 ? words.w[3] : words.w[2];
    return i & 2 ? high : low;
}

// A token as it stands in the draw, by its own random word.
__device__ __forceinline__ Best drawn_by(const Scale& scale, float x, int t, u32 word) {
    return {(double)x / scale.temperature - log(-log(uniform(word))), t, HAS_BEST};
}
__device__ __forceinline__ Best drawn(const Row& row, const Scale& scale, float x, int t) {
    Words words = philox4x32(row.slot.seed, row.position, row.slot.choice, t / 4, 0);
    return drawn_by(scale, x, t, word_of(words, t % 4));
}

// What a token must at least be to win: a score that some token has, against the largest scaled
// logit, rounded down.
__device__ __forceinline__ float bar_of(const Scale& scale, const Best& best) {
    return __double2float_rd(best.score - scale.max);
}

// Whether a token may win: with weight w = e^(its scaled logit - the bar) it does only if
// -ln(u) <= w, and so only if 1 - u <= w. The weight is a thousandth too large and 1 - u an ulp too
// small, far more than they err.
__device__ __forceinline__ float weight(const Scale& scale, float bar, float x) {
    return exp2f((x - scale.top) * scale.rate - bar * 1.44269504f) * 1.001f;
}
__device__ __forceinline__ bool may_win(float weight, u32 word) {
    return !((float)(0xffffffu - (word >> 8)) * 5.9604645e-8f > weight);
}
// No uniform is nearer to 1.
#define LEAST_WEIGHT 2.9e-8f
