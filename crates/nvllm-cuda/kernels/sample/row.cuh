// One row of logits as the sampler sees it: steps 1 to 3 of nvllm-core's `sampling`, evaluated
// where a logit is read, so that the row itself stays as the model made it.
#pragma once

#include "step.cuh"

// Everything the sampler reads. `masks` [Outputs, ceil(vocab / 32)] is null for the rows that await
// none: those are sampled with the forward pass, the others when their masks have come.
struct Sampling {
    const int* counts;
    const Output* outputs;
    Slot* slots;
    const Bias* biases; // [slots, MAX_BIASES]
    const u32* stops;   // [slots, MAX_STOPS]
    u32* seen;          // [slots, vocab]: bit 31: in the prompt; below: how often in the output
    // [slots, ceil(vocab / 32)]: a bit for each token that is biased, suppressed or seen. It may be
    //   set for others too, never clear for one of these. Few are: only they cost more than a bit.
    u32* touched;
    const float* logits; // [Outputs, vocab]
    const u32* masks;
    int vocab;
};

#define SAMPLING_PARAMS                                                                                                \
    const int *counts, const Output *outputs, Slot *slots, const Bias *biases, const u32 *stops, u32 *seen,            \
        u32 *touched, const float *logits, const u32 *masks, int vocab
#define SAMPLING_ARGS {counts, outputs, slots, biases, stops, seen, touched, logits, masks, vocab}

__device__ __forceinline__ bool samples(const Sampling& s, int at) {
    if (at >= s.counts[NUM_OUTPUTS]) return false;
    u32 now = s.masks ? WANTS_SAMPLE | AWAITS_MASK : WANTS_SAMPLE;
    return (s.outputs[at].wants & (WANTS_SAMPLE | AWAITS_MASK)) == now;
}

struct Row {
    const float* logits;
    const u32* mask;
    const u32* touched;
    const Bias* biases;
    const u32* stops;
    const u32* seen;
    Slot slot;
    u32 position;
    u32 num_stops;
    int vocab;
    bool plain;
};

__device__ __forceinline__ Row row_of(const Sampling& s, int at) {
    Row r;
    int slot = s.outputs[at].slot, words = (s.vocab + 31) / 32;
    r.slot = s.slots[slot];
    r.logits = s.logits + (i64)at * s.vocab;
    r.mask = s.masks ? s.masks + (i64)at * words : nullptr;
    r.touched = s.touched + (i64)slot * words;
    r.biases = s.biases + (i64)slot * MAX_BIASES;
    r.stops = s.stops + (i64)slot * MAX_STOPS;
    r.seen = r.slot.uses_counts ? s.seen + (i64)slot * s.vocab : nullptr;
    r.position = s.outputs[at].next_index;
    r.num_stops = (u32)r.slot.output_len < r.slot.min_tokens ? r.slot.num_stops : 0;
    r.vocab = s.vocab;
    r.plain = !r.mask && !r.seen && r.num_stops == 0 && r.slot.num_biases == 0;
    return r;
}

// Output row `at`, if it is sampled now. Of the step's inputs, so it is read ahead of the wait; the
// logits are there after it.
__device__ __forceinline__ bool take_row(const Sampling& s, int at, Row& row) {
    let_next_start();
    bool is_sampled = samples(s, at);
    if (is_sampled) row = row_of(s, at);
    wait_for_inputs();
    return is_sampled;
}

// The logit `x` of a token that is biased, suppressed or seen, each step rounded as the definition
// on the host rounds it.
__device__ __forceinline__ float changed(const Row& r, float x, int t) {
    for (u32 i = 0; i < r.num_stops; i++) {
        if (r.stops[i] == (u32)t) x = NEG_INF;
    }
    for (u32 i = 0; i < r.slot.num_biases; i++) {
        if (r.biases[i].token == (u32)t) x = __fadd_rn(x, r.biases[i].value);
    }
    if (r.seen) {
        u32 seen = r.seen[t], in_output = seen & 0x7fffffffu;
        float penalty = r.slot.repetition_penalty;
        if (seen != 0 && penalty != 1.0f) x = x > 0.0f ? __fdiv_rn(x, penalty) : __fmul_rn(x, penalty);
        if (in_output != 0) {
            x = __fsub_rn(x, __fadd_rn(__fmul_rn((float)in_output, r.slot.frequency_penalty), r.slot.presence_penalty));
        }
    }
    return x;
}

// Logits of four tokens, of which the first is a multiple of 4. Those past the vocabulary are minus
// infinity.
struct Four {
    float x[4];
};

__device__ __forceinline__ Four logits_of(const Row& r, int first) {
    if (r.vocab % 4 == 0) {
        float4 v = *(const float4*)(r.logits + first);
        return {{v.x, v.y, v.z, v.w}};
    }
    Four four;
#pragma unroll
    for (int i = 0; i < 4; i++) four.x[i] = first + i < r.vocab ? r.logits[first + i] : NEG_INF;
    return four;
}

// One of the four by a variable: an index would put them all into memory.
__device__ __forceinline__ float get(const Four& four, int i) {
    float low = i & 1 ? four.x[1] : four.x[0], high = i & 1 ? four.x[3] : four.x[2];
    return i & 2 ? high : low;
}

// After mask, suppression, bias and penalties.
__device__ __forceinline__ Four processed(const Row& r, Four four, int first) {
    if (r.plain) return four;
    u32 allowed = r.mask ? r.mask[first / 32] >> (first % 32) : 15u;
    u32 changes = r.touched[first / 32] >> (first % 32) & allowed & 15u;
#pragma unroll
    for (int i = 0; i < 4; i++) four.x[i] = allowed >> i & 1 ? four.x[i] : NEG_INF;
    for (; changes != 0; changes &= changes - 1) {
        int i = __ffs(changes) - 1;
        float x = changed(r, get(four, i), first + i);
#pragma unroll
        for (int j = 0; j < 4; j++) four.x[j] = j == i ? x : four.x[j];
    }
    return four;
}

// The same of one token.
__device__ __forceinline__ float processed_one(const Row& r, int t) {
    float x = r.logits[t];
    if (r.plain) return x;
    if (r.mask && !(r.mask[t / 32] >> (t % 32) & 1)) return NEG_INF;
    return r.touched[t / 32] >> (t % 32) & 1 ? changed(r, x, t) : x;
}

// Calls `take(raw, first, inside)` for the logits from `start` to `end`, as often for every thread
// of the block: where `inside` is false there are none. The next ones are asked for ahead.
template <typename Take>
__device__ __forceinline__ void each_four(const Row& r, int start, int end, Take take) {
    const Four none = {{NEG_INF, NEG_INF, NEG_INF, NEG_INF}};
    int step = 4 * blockDim.x, first = start + 4 * threadIdx.x;
    Four next = first < end ? logits_of(r, first) : none;
    for (int base = start; base < end; base += step, first += step) {
        Four raw = next;
        next = first + step < end ? logits_of(r, first + step) : none;
        take(raw, first, first < end);
    }
}
