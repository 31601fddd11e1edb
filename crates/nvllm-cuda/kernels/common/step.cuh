// What a step is on the device. The mirror of nvllm-core's src/device: sizes are asserted on both
// sides.
//
// All extents are read from device memory, so that one captured launch serves every step of its
// bucket: a thread block whose rows lie past the extent returns.
//
// A step's first kernel (step/begin.cu) lets none start before it has ended. So kernels of the step
// may read its inputs (counts, outputs, tokens), and slots as they were before it samples, while
// the kernels before them still run: ahead of their wait.
#pragma once

#include "dtype.cuh"

// Indices into the counts at the head of the step's inputs. RESULTS: of two words, the address of
// the host's memory to which the step's results go (src/sampler.rs).
enum Count { NUM_TOKENS = 0, NUM_OUTPUTS = 1, NUM_SEQS = 2, NUM_RESETS = 3, RESULTS = 4 };

__device__ __forceinline__ char*& results_of(int* counts) { return *(char**)(counts + RESULTS); }
__device__ __forceinline__ char* results_of(const int* counts) { return *(char* const*)(counts + RESULTS); }

// Most biased logits and most suppressed stop tokens of one sequence.
#define MAX_BIASES 512
#define MAX_STOPS 64

// What is kept of a sequence from its admission to its end. 64 bytes.
struct Slot {
    int last_token;
    int output_len;
    float temperature;
    u32 top_k;
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    u32 choice;
    u64 seed;
    u32 min_tokens;
    u32 num_biases;
    u32 num_stops;
    u32 uses_counts;
};
static_assert(sizeof(Slot) == 64, "as in device/slot.rs");

struct Reset {
    u32 slot;
    u32 padding[3];
    Slot state;
};
static_assert(sizeof(Reset) == 80, "as in device/slot.rs");

struct Bias {
    u32 token;
    float value;
};

// One output row. `wants` is a set of the bits below.
struct Output {
    int row;        // over all tokens of the step
    int slot;       //
    u32 wants;      //
    u32 next_index; // index in its sequence of the token that this row predicts
    int target;     // token to score, or -1
    u32 num_top;    // most likely tokens wanted beside it
    u32 padding[2];
};
static_assert(sizeof(Output) == 32, "as in device/mod.rs");

enum Wants { WANTS_SAMPLE = 1, WANTS_LOGPROB = 2, AWAITS_MASK = 4 };
