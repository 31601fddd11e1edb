// Philox4x32-10 (Salmon et al. 2011), as nvllm-core's sampling::philox4x32.
#pragma once

#include "dtype.cuh"

struct Words {
    u32 w[4];
};

__device__ __forceinline__ Words philox4x32(u64 seed, u32 c0, u32 c1, u32 c2, u32 c3) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
        c1 = (u32)b;
        c3 = (u32)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// In (0, 1), 24 bits: never 0 or 1.
__device__ __forceinline__ double uniform(u32 word) { return ((double)(word >> 8) + 0.5) / 16777216.0; }
