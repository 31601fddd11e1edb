// The smallest key of the shortest descending prefix whose weights reach a wanted sum: eight bits
// of the key at a time, by histograms of integers, so that the result does not depend on the order
// in which threads add.
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
        if (threadIdx.x == 0) {
            if (shift == 56) {
                u64 total = 0;
                for (int i = 0; i < 256; i++) total += h.bins[i];
                h.wanted = wanted(total);
                h.prefix = 0;
                if (total < h.wanted) h.wanted = 0;
            }
            int bin = 255;
            u64 sum = 0;
            while (bin > 0 && sum + h.bins[bin] < h.wanted) sum += h.bins[bin--];
            h.wanted = h.wanted == 0 ? 0 : h.wanted - sum;
            h.prefix = h.prefix << 8 | (u64)bin;
        }
        __syncthreads();
        if (h.wanted == 0) break;
    }
    u64 key = h.wanted == 0 ? 0 : h.prefix;
    __syncthreads();
    return key;
}
