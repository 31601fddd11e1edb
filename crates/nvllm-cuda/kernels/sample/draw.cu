// sample_draw: of the tokens that the filters surely keep, the one that wins the draw, and a list
// of those whose fate sample_finish decides; by 4 to 32 blocks a row. Greedy rows skip it.
//
// Reads the logits once: bound by memory and by the instructions of a uniform for each token. Only
// tokens that may win are scored in f64: some of each block. Order: none; a largest is taken.
#include "border.cuh"
#include "gumbel.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) sample_draw(SAMPLING_PARAMS, Work* work) {
    take_turn();
    Sampling s = SAMPLING_ARGS;
    int at = blockIdx.y;
    if (!samples(s, at)) return;
    // Not ahead of the wait: there are no registers for it.
    Row row = row_of(s, at);
    Work& w = work[at];
    int path = path_of(row);
    if (path == GREEDY) return;
    Best top = highest(w.partials);
    if ((top.any & (HAS_BEST | UNUSABLE)) != HAS_BEST) return;
    Scale scale = scale_of(row, top.score);
    // Without bins, what is not dropped is all in the first.
    Border border = {0, 0, 0, path == ALL ? 1 : 0, 0, 0};
    float least = scale.floor;
    if (path == BY_PEAKS) least = fmaxf(least, peak_bound(w, row.slot.top_k));
    if (path == BY_BINS) border = border_of(row, scale, w);
    float reach = path == BY_BINS ? reach_of(row) : POS_INF;
    if (path == BY_BINS && blockIdx.x == 0 && threadIdx.x == 0) w.border = border;

    // The likeliest token passes every filter. Of zeros, which are equal, the positive ones are the
    // likelier: there it may be another.
    Best best = NO_BEST;
    if (scale.top != 0.0f) best = drawn(row, scale, scale.top, top.token);
    float bar = bar_of(scale, best);
    int len = split_len(vocab, gridDim.x), start = blockIdx.x * len, end = min(start + len, vocab);
    each_four(row, start, end, [&](const Four& raw, int first, bool inside) {
        Four four = inside ? processed(row, raw, first) : raw;
        u32 kept = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = four.x[i];
            if (!(x >= least) || scale.top - x > reach) continue;
            int bin = path == BY_BINS ? bin_of(scale, x) : 0;
            if (bin < border.sure) {
                kept |= weight(scale, bar, x) < LEAST_WEIGHT ? 0 : 1u << i;
            } else if (bin <= border.last || bin == border.at_k) {
                u32 place = atomicAdd(&w.num_listed, 1u);
                if (place < LISTED) w.list[place] = first + i;
            }
        }
        bool scored = false;
        if (kept != 0) {
            Words words = philox4x32(row.slot.seed, row.position, row.slot.choice, first / 4, 0);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (!may_win(weight(scale, bar, four.x[i]), words.w[i])) kept &= ~(1u << i);
            }
            scored = kept != 0;
            for (; kept != 0; kept &= kept - 1) {
                int i = __ffs(kept) - 1;
                best = better(best, drawn_by(scale, get(four, i), first + i, word_of(words, i)));
            }
        }
        // What one lane has found spares the others work.
        if (__any_sync(0xffffffffu, scored)) {
            bar = fmaxf(bar, bar_of(scale, best));
            for (int offset = 16; offset > 0; offset >>= 1) bar = fmaxf(bar, __shfl_xor_sync(0xffffffffu, bar, offset));
        }
    });
    best = block_best(best);
    if (threadIdx.x == 0) w.draws[blockIdx.x] = best;
    if (blockIdx.x == 0 && threadIdx.x >= gridDim.x && threadIdx.x < SPLITS) w.draws[threadIdx.x] = NO_BEST;
}
