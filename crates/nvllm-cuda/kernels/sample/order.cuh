// The order of tokens: larger logits first, of equals lower tokens.
#pragma once

#include "dtype.cuh"

// Larger logits, and of equals lower tokens, have larger keys: the order of `f32::total_cmp`, then
// of ids.
__device__ __forceinline__ u64 order_key(float x, int t) {
    u32 bits = __float_as_uint(x);
    bits ^= (bits >> 31) ? 0xffffffffu : 0x80000000u;
    return (u64)bits << 32 | (0xffffffffu - (u32)t);
}
__device__ __forceinline__ float logit_of_key(u64 key) {
    u32 bits = (u32)(key >> 32);
    return __uint_as_float(bits ^ ((bits >> 31) ? 0x80000000u : 0xffffffffu));
}
__device__ __forceinline__ int token_of_key(u64 key) { return (int)(0xffffffffu - (u32)key); }

// `any` is a set: whether there is a best; whether a logit among those looked at was NaN or plus
// infinity as the model made it; and whether one was above minus infinity.
enum Any { HAS_BEST = 1, UNUSABLE = 2, POSSIBLE = 4 };

struct Best {
    double score;
    int token;
    int any;
};
#define NO_BEST {NEG_INF, 0, 0}

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
