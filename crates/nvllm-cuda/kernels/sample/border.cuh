// Where a row's filters end, from its peaks or from its bins: by a block of 256 threads.
#pragma once

#include "filter.cuh"

// The k-th largest of the peaks, of equals the first: at least k tokens are not below it.
__device__ __forceinline__ float peak_bound(const Work& w, u32 k) {
    __shared__ float peaks[PEAKS];
    __shared__ float bound;
    float own = w.peaks[threadIdx.x];
    peaks[threadIdx.x] = own;
    __syncthreads();
    u32 rank = 0;
    for (int i = 0; i < PEAKS; i++) rank += peaks[i] > own || (peaks[i] == own && i < threadIdx.x);
    if (rank == k - 1) bound = own;
    __syncthreads();
    return bound;
}
static_assert(PEAKS == 256, "a thread for each peak");

#define PER_THREAD (BINS / 256)

// The sums of all threads before this one and, in `total`, of all.
__device__ __forceinline__ u64 sum_before(u64 own, u64* partial, u64& total) {
    u64 sum = own;
    for (int offset = 1; offset < 32; offset <<= 1) {
        u64 before = __shfl_up_sync(0xffffffffu, sum, offset);
        if (threadIdx.x % 32 >= offset) sum += before;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    u64 before = sum - own;
    total = 0;
    for (int i = 0; i < blockDim.x / 32; i++) {
        if (i < threadIdx.x / 32) before += partial[i];
        total += partial[i];
    }
    return before;
}

__device__ __forceinline__ Border border_of(const Row& row, const Scale& scale, const Work& w) {
    __shared__ Border border;
    __shared__ u64 partial[8], masses[BINS], mass_at_k;
    u64 all, num = 0, mass = 0;
    bool by_mass = row.slot.top_p < 1.0f;
    u32 k = row.slot.top_k > 0 && row.slot.top_k < (u32)row.vocab ? row.slot.top_k : 0;
    double unit = 17592186044416.0 / (double)(1 << mass_bits(row.vocab));
    auto mass_from = [&](float distance, u64 sum) {
        return (u64)(exp(-(double)distance / scale.temperature) * unit * (double)sum + 0.5);
    };
    // Each thread has some neighbouring bins, and reads what it has written.
    int first = PER_THREAD * threadIdx.x;
    for (int i = first; i < first + PER_THREAD; i++) {
        u32 count = w.counts[i];
        masses[i] = by_mass && count != 0 ? mass_from(edge_of(i), w.masses[i]) : 0;
        num += count;
        mass += masses[i];
    }
    u64 num_before = sum_before(num, partial, all);
    u64 mass_before = sum_before(mass, partial, all);
    if (threadIdx.x == 0) {
        // As long as nothing ends top-p, everything is listed: more than a list holds is looked at
        //   again.
        u64 beyond = by_mass && w.masses[BINS] != 0 ? mass_from(reach_of(row), w.masses[BINS]) : 0;
        border = {0, all + beyond, 0, by_mass ? 0 : BINS, BINS, BINS};
        mass_at_k = 0;
    }
    __syncthreads();
    u64 at = mass_before;
    for (int i = first; i < first + PER_THREAD; i++) {
        u32 count = w.counts[i];
        if (num_before < k && k <= num_before + count) {
            border.at_k = i;
            border.num_before_k = (u32)num_before;
            border.mass_before_k = at;
            mass_at_k = masses[i];
        }
        num_before += count;
        at += masses[i];
    }
    __syncthreads();
    if (by_mass) {
        // Before top-k's last bin is looked into, the wanted mass is between these.
        u64 least = max(share_of(row.slot.top_p, border.mass_before_k), 1ull);
        u64 most = share_of(row.slot.top_p, border.mass_before_k + mass_at_k);
        most = max(most, least);
        at = mass_before;
        __syncthreads();
        for (int i = first; i < first + PER_THREAD; i++) {
            if (at < least && least <= at + masses[i]) {
                border.sure = i;
                border.mass_sure = at;
            }
            if (at < most && most <= at + masses[i]) border.last = i;
            at += masses[i];
        }
    } else if (threadIdx.x == 0) {
        border.sure = border.last = border.at_k;
    }
    __syncthreads();
    return border;
}
