// sample_scan: the largest processed logit of a row [Outputs, vocab], by 4 to 32 blocks a row:
// greedy's choice, and the reference of min-p and of all masses. Where top-k asks for few, also the
// peaks of the row's groups.
//
// Reads the logits once: bound by memory. Of penalties it reads a bit for each token, and counts of
// the tokens seen. Order: none; the largest is the largest in any.
#include "filter.cuh"

extern "C" __global__ void __launch_bounds__(256) sample_scan(SAMPLING_PARAMS, Work* work) {
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.y, splits = gridDim.x;
    Row row;
    if (!take_row(s, at, row)) return;
    Work& w = work[at];
    int path = path_of(row), len = split_len(vocab, splits), start = blockIdx.x * len, end = min(start + len, vocab);
    float largest = NEG_INF;
    int token = 0;
    bool usable = true, possible = false;
    each_four(row, start, end, [&](const Four& raw, int first, bool inside) {
        if (!inside) return;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            usable &= raw.x[i] < POS_INF;
            possible |= raw.x[i] > NEG_INF;
        }
        Four four = processed(row, raw, first);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Not a number and minus infinity never win; of equals the first does.
            if (four.x[i] > largest) {
                largest = four.x[i];
                token = first + i;
            }
        }
    });
    if (path == BY_PEAKS) {
        // As many lanes share a peak as blocks share the row.
        float peak = largest;
        for (int offset = 1; offset < splits; offset <<= 1) peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, offset));
        if (threadIdx.x % splits == 0) w.peaks[(blockIdx.x * 256 + threadIdx.x) / splits] = peak;
    } else if (path == BY_BINS) {
        for (int i = blockIdx.x * 256 + threadIdx.x; i < BINS + 1; i += splits * 256) {
            w.masses[i] = 0;
            if (i < BINS) w.counts[i] = 0;
        }
    }
    Best best = block_best({(double)largest, token, largest > NEG_INF ? HAS_BEST : 0});
    usable = __syncthreads_and(usable);
    possible = __syncthreads_or(possible);
    if (threadIdx.x == 0) {
        best.any |= (usable ? 0 : UNUSABLE) | (possible ? POSSIBLE : 0);
        w.partials[blockIdx.x] = best;
    }
    if (blockIdx.x != 0) return;
    if (threadIdx.x == 0) w.num_listed = 0;
    // What no block writes holds nothing.
    if (threadIdx.x >= splits && threadIdx.x < SPLITS) w.partials[threadIdx.x] = NO_BEST;
}
