// step_begin: what every step does first. Takes slots anew, and resolves tokens that only the device knows.
//
// source [T]: a token id, or -1 - slot for the last token sampled in a slot.
// One thread a token or a reset; a few hundred bytes: bound by its launch.
#include "step.cuh"

extern "C" __global__ void step_begin_resets(const int* counts, const Reset* resets, Slot* slots) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < counts[NUM_RESETS]) slots[resets[i].slot] = resets[i].state;
}

extern "C" __global__ void step_begin_tokens(const int* counts, const int* source, const Slot* slots, int* tokens) {
    take_turn();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= counts[NUM_TOKENS]) return;
    int token = source[i];
    tokens[i] = token >= 0 ? token : slots[-1 - token].last_token;
}
