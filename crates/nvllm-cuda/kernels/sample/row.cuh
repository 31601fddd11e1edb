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
    const float* logits; // [Outputs, vocab]
    const u32* masks;
    int vocab;
};

#define SAMPLING_PARAMS                                                                                                \
    const int *counts, const Output *outputs, Slot *slots, const Bias *biases, const u32 *stops, u32 *seen,            \
        const float *logits, const u32 *masks, int vocab
#define SAMPLING_ARGS {counts, outputs, slots, biases, stops, seen, logits, masks, vocab}

struct Row {
    const float* logits;
    const u32* mask;
    const Bias* biases;
    const u32* stops;
    const u32* seen;
    Slot slot;
    u32 num_stops;
    bool plain;
};

__device__ __forceinline__ Row row_of(const Sampling& s, int at) {
    Row r;
    int slot = s.outputs[at].slot;
    r.slot = s.slots[slot];
    r.logits = s.logits + (i64)at * s.vocab;
    r.mask = s.masks ? s.masks + (i64)at * ((s.vocab + 31) / 32) : nullptr;
    r.biases = s.biases + (i64)slot * MAX_BIASES;
    r.stops = s.stops + (i64)slot * MAX_STOPS;
    r.seen = r.slot.uses_counts ? s.seen + (i64)slot * s.vocab : nullptr;
    r.num_stops = (u32)r.slot.output_len < r.slot.min_tokens ? r.slot.num_stops : 0;
    r.plain = !r.mask && !r.seen && r.num_stops == 0 && r.slot.num_biases == 0;
    return r;
}

// The logit of token t after mask, suppression, bias and penalties, each rounded as the definition
// on the host rounds it.
__device__ __forceinline__ float processed(const Row& r, int t) {
    float x = r.logits[t];
    if (r.plain) return x;
    if (r.mask && !(r.mask[t / 32] >> (t % 32) & 1)) x = NEG_INF;
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

// Larger logits, and of equals lower tokens, have larger keys: the order of `f32::total_cmp`, then
// of ids.
__device__ __forceinline__ u64 order_key(float x, int t) {
    u32 bits = __float_as_uint(x);
    bits ^= (bits >> 31) ? 0xffffffffu : 0x80000000u;
    return (u64)bits << 32 | (0xffffffffu - (u32)t);
}
