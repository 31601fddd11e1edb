// The forward pass of a decode step in one launch: every layer of a dense model for 1 or 2
// sequences, one new row each. A persistent kernel that goes phase by phase (phase.cuh); blocks
// hand activations to each other as packets (packet.cuh).
//
// Layout: as the phases' own kernels have it: linear/small_m.cu, rms_norm/fused.cu,
//   qk_norm_rope_append/fused.cu, attention/decode.cu (16-bit pages).
// Launch: decode_pass_d64 / _d128, with _norm1 for normed rows of up to 1,024 columns, _norm4 up to
//   4,096: one block a multiprocessor and all of them at once; dynamic shared memory WEIGHTS_AT +
//   sizeof(PassWeight) * num_weights bytes. Parameters: phases; weights,
//   num_weights; state (zero at first), counters of num_phases (zero); tokens, num_outputs (1 or 2
//   each); outputs (step.cuh); folds: whether some sequence's KV is cut into chunks; block_tables,
//   max_blocks, block_len; items, counts, first_entry (work_list.cu); places i32 [tokens]; rotation
//   f32 [tokens, D/2, 2]; num_heads, kv_heads, window, scale; partial, partial_ml. rows * 8 *
//   range_len(K) * 2 is at most SIDE_BYTES for every K.
// Bytes: all weights and KV once. Bound: memory bandwidth, and the way of activations through L2
//   (five times a layer).
// Order ids: those of the kernels above, bit for bit.
#include "attention_phase.cuh"
#include "linear_phase.cuh"
#include "pass_state.cuh"

// Shared memory: x, or a tile of keys and values; sums; the rings of 8 warps; the list of weights.
constexpr int SIDE_BYTES = 65536, RING_AT = SIDE_BYTES + 2 * SUMS_BYTES, WEIGHTS_AT = RING_AT + 8 * RING * RING_STAGE;
constexpr int STATIC_SHARED = 2048;                            // and to spare

template <int D, int RUNS>
DEVICE void decode_pass(const Phase* phases, const PassWeight* weights, int num_weights, PassState* state, Counter* counters,
                        int num_phases, int tokens, int num_outputs, const int* outputs, int folds, const Attention& of) {
  extern __shared__ __align__(1024) char shared[];
  static_assert(ATTENTION_BYTES<D> <= 2 * SUMS_BYTES, "they share a place");
  const u32 side = shared_address(shared);
  char* const more = shared + SIDE_BYTES;
  PassWeight* const list = (PassWeight*)(shared + WEIGHTS_AT);
  __shared__ CachedUnit known;
  if (threadIdx.x == 0) known.unit = -1;
  for (int i = threadIdx.x; i < 2 * num_weights; i += 256) ((uint4*)list)[i] = ((const uint4*)weights)[i];
  __syncthreads();
  WeightRing ring(list, num_weights, side + RING_AT);
  let_next_start();
  wait_for_inputs();
  const Tags tags = {(load_acquire(&state->launches) + 1) * (u32)(num_phases + 1)};
  const int units = load_l2_i32(of.counts) * of.kv_heads, fold_units = tokens * of.kv_heads;
  int buffer = 0;
#pragma unroll 1
  for (int at = 0; at < num_phases; at++) {
    const Phase in = phases[at];
    asm volatile("prefetch.global.L1 [%0];" ::"l"(phases + (at + 2 < num_phases ? at + 2 : at)));
#ifdef TIMELINE
    if (threadIdx.x == 0) timed_phase = at;
#endif
    const int first = first_of_block(in.first_block);
    if (in.kind == PHASE_LINEAR) {
      if (first >= in.tiles) continue;
      MARK(0);
      linear_phase<RUNS>(in, outputs, tags, in.flags & PHASE_GATHER ? num_outputs : tokens, ring, side, (float*)more, buffer);
    } else if (in.kind == PHASE_ATTENTION) {
      if (first >= units) continue;
      MARK(0);
      attention_phase<D>(in, of, tags.of(in.x_tag), tags.of(in.y_tag), units, side, more, known);
      if (folds) arrive(counters + at);
    } else if (folds) {
      if (first >= fold_units) continue;
      wait_for_blocks(counters + at - 1, blocks_with(units));
      for (int unit = first; unit < fold_units; unit += gridDim.x) {
        const int seq = unit / of.kv_heads;
        fold_chunks<D>(of.partial, of.partial_ml, of.num_heads / of.kv_heads, of.items, of.first_entry, seq, unit - seq * of.kv_heads,
                       of.num_heads, of.kv_heads, of.scale,
                       [&](u64 to, u32 pair) { store_packet(in.y + to * 4, pair, tags.of(in.y_tag)); });
      }
    }
    MARK(4);
  }
  copy_async_wait<0>();
  leave(state, counters, num_phases);
}

#define DECODE_PASS(d, runs)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256, 1) decode_pass_d##d##_norm##runs(                                         \
      const Phase* phases, const PassWeight* weights, int num_weights, PassState* state, Counter* counters, int num_phases,   \
      int tokens, int num_outputs, const int* outputs, int folds, const int* block_tables, int max_blocks, int block_len,     \
      const WorkItem* items, const int* counts, const int* first_entry, const int* places, const float* rotation,             \
      int num_heads, int kv_heads, int window, float scale, float* partial, float* partial_ml) {                              \
    const Attention of = {block_tables, max_blocks, block_len, items,     counts, first_entry, places,                        \
                          rotation,     num_heads,  kv_heads,  window,    scale,  partial,     partial_ml};                   \
    decode_pass<d, runs>(phases, weights, num_weights, state, counters, num_phases, tokens, num_outputs, outputs, folds, of); \
  }
DECODE_PASS(64, 1)
DECODE_PASS(64, 4)
DECODE_PASS(128, 1)
DECODE_PASS(128, 4)
