// The smallest key of the shortest descending prefix whose weights reach a wanted sum: eight bits
// of the key at a time, by histograms of integers, so that the result does not depend on the order
// in which threads add. One block, and up to eight passes over the row: for what is rare.
#pragma once

#include "dtype.cuh"

struct Histogram {
    u64 bins[256];
    u64 wanted, prefix;
};

// `weight(t, key)` gives token t's key and weight (0: not among the candidates). `wanted(total)`
// the sum to reach. All threads of the block call it; returns 0 if all candidates together do not
// reach the sum.
template <typename Weight, typename Wanted>
__device__ u64 select_prefix(Histogram& h, int vocab, Weight weight, Wanted wanted) {
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) h.bins[i] = 0;
        __syncthreads();
        u64 prefix = shift == 56 ? 0 : h.prefix;
        for (int t = threadIdx.x; t < vocab; t += blockDim.x) {
            u64 key;
            u64 w = weight(t, key);
            if (w != 0 && (shift == 56 || key >> (shift + 8) == prefix)) {
                atomicAdd(&h.bins[key >> shift & 255], w);
            }
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            // A lane has eight bins, from the largest down.
            int bin = 255 - 8 * threadIdx.x;
            u64 own = 0;
            for (int i = 0; i < 8; i++) own += h.bins[bin - i];
            u64 sum = own;
            for (int offset = 1; offset < 32; offset <<= 1) {
                u64 below = __shfl_up_sync(0xffffffffu, sum, offset);
                if (threadIdx.x >= offset) sum += below;
            }
            u64 total = __shfl_sync(0xffffffffu, sum, 31), want = shift == 56 ? wanted(total) : h.wanted;
            if (total < want) want = 0;
            u64 before = sum - own;
            __syncwarp();
            if (want == 0) {
                if (threadIdx.x == 0) h.wanted = 0;
            } else if (before < want && want <= sum) {
                while (before + h.bins[bin] < want) before += h.bins[bin--];
                h.wanted = want - before;
                h.prefix = prefix << 8 | (u64)bin;
            }
        }
        __syncthreads();
        if (h.wanted == 0) break;
    }
    u64 key = h.wanted == 0 ? 0 : h.prefix;
    __syncthreads();
    return key;
}
