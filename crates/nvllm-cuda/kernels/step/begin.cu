// step: what every step does first. Copies its packed inputs from host memory to the places from
// which kernels read, takes slots anew, resolves tokens that only the device knows, and notes where
// the step's results go.
//
// source [T]: a token id, or -1 - slot for the last token sampled in a slot.
//
// Launch: step_begin <1>, if all of the packed bytes that it reads, `num_words`, are at most
// STAGED_BYTES: one block reads them at once, in one round trip over the bus, and copies from
// shared memory. Else <num_copies + 1>: a block a copy, in two round trips, and the last for slots
// and tokens. `packed` is host memory, aligned to 16; offsets are in words. It lets no kernel start
// early: all that follow in the step find its inputs complete from their first instruction, whether
// or not they start before the kernel before them has ended. A decode step takes some hundred bytes
// to some tens of kilobytes: bound by the bus's latency. A prompt of thousands of tokens is
// microseconds beside milliseconds of its step.
#include "step.cuh"

#define STAGED_BYTES 32768

struct WordCopy {
    u64 to;   // first word of the layout
    u32 from; // first word of the packed bytes
    u32 num_words;
};
static_assert(sizeof(WordCopy) == 16, "as in nvllm-core's device/pack.rs");

#define RESET_WORDS (sizeof(Reset) / 4)
#define SLOT_WORDS (sizeof(Slot) / 4)

extern "C" __global__ void __launch_bounds__(1024)
    step_begin(const u32* packed, u32 num_words, u32 copies_at, u32 num_copies, u32 source_at, u32 resets_at,
               u32* inputs, Slot* slots, int* tokens, char* results) {
    __shared__ uint4 staged[STAGED_BYTES / 16];
    const bool alone = gridDim.x == 1;
    if (blockIdx.x == 0 && threadIdx.x == 0) results_of((int*)inputs) = results;
    if (alone) {
#pragma unroll 2
        for (u32 i = threadIdx.x; i < (num_words + 3) / 4; i += 1024) staged[i] = ((const uint4*)packed)[i];
        __syncthreads();
        packed = (const u32*)staged;
    }
    // A warp a copy, or a block.
    const u32 threads = alone ? 32 : 1024, each = alone ? 1024 / 32 : gridDim.x;
    const WordCopy* copies = (const WordCopy*)(packed + copies_at);
    for (u32 at = alone ? threadIdx.x / 32 : blockIdx.x; at < num_copies; at += each) {
        WordCopy copy = copies[at];
#pragma unroll 4
        for (u32 i = threadIdx.x % threads; i < copy.num_words; i += threads) {
            inputs[copy.to + i] = packed[copy.from + i];
        }
    }
    if (blockIdx.x != gridDim.x - 1) return;
    const u32 num_tokens = packed[NUM_TOKENS], slot_words = packed[NUM_RESETS] * SLOT_WORDS;
    for (u32 i = threadIdx.x; i < slot_words; i += 1024) {
        // By words: packed bytes are aligned to no more.
        const u32* reset = packed + resets_at + i / SLOT_WORDS * RESET_WORDS;
        ((u32*)(slots + reset[0]))[i % SLOT_WORDS] = reset[RESET_WORDS - SLOT_WORDS + i % SLOT_WORDS];
    }
    // A slot that is taken anew may have the token that a row asks for.
    __syncthreads();
#pragma unroll 4
    for (u32 i = threadIdx.x; i < num_tokens; i += 1024) {
        int token = (int)packed[source_at + i];
        tokens[i] = token >= 0 ? token : slots[-1 - token].last_token;
    }
}
