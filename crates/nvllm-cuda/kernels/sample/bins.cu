// sample_bins: how many tokens of a row are in each bin, and their masses, by 4 to 32 blocks a row:
// for top-p, and for top-k above PEAKS. Other rows skip it.
//
// Reads the logits once. Bound by memory where few tokens are within reach, else by atomics on
// shared memory: two a token. Order: none; counts and masses are integers.
#include "filter.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) sample_bins(SAMPLING_PARAMS, Work* work) {
    __shared__ u32 num_in[BINS], mass_in[BINS];
    __shared__ u32 mass_beyond;
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.y;
    Row row;
    if (!take_row(s, at, row)) return;
    Work& w = work[at];
    if (path_of(row) != BY_BINS) return;
    Best top = highest(w.partials);
    if ((top.any & (HAS_BEST | UNUSABLE)) != HAS_BEST) return;
    Scale scale = scale_of(row, top.score);
    bool by_mass = row.slot.top_p < 1.0f;
    float reach = reach_of(row), unit = (float)(1 << mass_bits(vocab));
    for (int i = threadIdx.x; i < BINS; i += 256) num_in[i] = mass_in[i] = 0;
    if (threadIdx.x == 0) mass_beyond = 0;
    __syncthreads();
    u32 beyond = 0;
    int len = split_len(vocab, gridDim.x), start = blockIdx.x * len, end = min(start + len, vocab);
    each_four(row, start, end, [&](const Four& raw, int first, bool inside) {
        if (!inside) return;
        Four four = processed(row, raw, first);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = four.x[i], distance = scale.top - x;
            if (!(x >= scale.floor)) continue;
            // The mass against that at the edge: of the reach, or of the bin.
            if (distance > reach) {
                beyond += __float2uint_rn(exp2f((reach - distance) * scale.rate) * unit);
                continue;
            }
            int bin = bin_of(scale, x);
            atomicAdd(&num_in[bin], 1u);
            if (by_mass) atomicAdd(&mass_in[bin], __float2uint_rn(exp2f((edge_of(bin) - distance) * scale.rate) * unit));
        }
    });
    beyond = __reduce_add_sync(0xffffffffu, beyond);
    if (threadIdx.x % 32 == 0 && beyond != 0) atomicAdd(&mass_beyond, beyond);
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += 256) {
        if (num_in[i] == 0) continue;
        atomicAdd(&w.counts[i], num_in[i]);
        if (by_mass) atomicAdd(&w.masses[i], (u64)mass_in[i]);
    }
    if (threadIdx.x == 0 && mass_beyond != 0) atomicAdd(&w.masses[BINS], (u64)mass_beyond);
}
