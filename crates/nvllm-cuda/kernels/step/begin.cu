// step: what every step does first. Spreads its packed inputs, takes slots anew, and resolves
// tokens that only the device knows.
//
// step_spread: one block a copy, of the words of one part of the inputs. Notes where the step's
// results go.
// source [T]: a token id, or -1 - slot for the last token sampled in a slot.
// step_begin: one thread a token or a reset.
// A decode step uploads some hundred bytes to some tens of kilobytes: all three are bound by their
// launch. A prompt of thousands of tokens is a few copies of one block each, microseconds beside
// milliseconds of its step.
#include "step.cuh"

struct WordCopy {
    u64 to;   // first word of the layout
    u32 from; // first word of the packed bytes
    u32 num_words;
};
static_assert(sizeof(WordCopy) == 16, "as in nvllm-core's device/pack.rs");

extern "C" __global__ void __launch_bounds__(256) step_spread(const u32* packed, const WordCopy* copies, u32* inputs, char* results) {
    if (blockIdx.x == 0 && threadIdx.x == 0) results_of((int*)inputs) = results;
    WordCopy copy = copies[blockIdx.x];
    for (u32 i = threadIdx.x; i < copy.num_words; i += blockDim.x) inputs[copy.to + i] = packed[copy.from + i];
}

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
