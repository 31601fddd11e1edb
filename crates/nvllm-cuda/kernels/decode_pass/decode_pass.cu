// The forward pass of a decode step in one launch: every layer of a dense model for one sequence
// with one new row. A persistent kernel that goes phase by phase (phase.cuh); blocks hand
// activations to each other as packets (packet.cuh).
//
// Layout: as the phases' own kernels have it: linear/small_m.cu, rms_norm/fused.cu,
//   qk_norm_rope_append/fused.cu, attention/decode.cu (16-bit pages).
// Launch: decode_pass_d64 / _d128, with _norm1 for normed rows of up to 1,024 columns, _norm4 up
//   to 4,096: one block a multiprocessor and all of them at once; dynamic shared memory
//   shared_bytes(pairs, row_bytes, num_weights). Parameters: phases; weights, num_weights, maps:
//   MAPS tensor maps a weight (weight_ring.cuh); state (zero at first), counters of num_phases
//   (zero); first_attention: the first such phase, num_attention of them, all with one first
//   block; pairs: VALUE_PAIRS + 1 to MOST_PAIRS; row_bytes: 8 * range_len(K) * 2 of the longest
//   row x, a multiple of 128; outputs (step.cuh); folds: whether the sequence's KV is cut into
//   chunks; block_tables, max_blocks, block_len; items, counts, first_entry (work_list.cu); places
//   i32 [1]; rotation f32 [D/2, 2]; num_heads, kv_heads, window, scale; partial, partial_ml. K is
//   a multiple of 64.
// Bytes: all weights and KV once. Bound: memory bandwidth, and the way of activations through L2
//   (five times a layer).
// Order ids: those of the kernels above, bit for bit.
#include "attention_phase.cuh"
#include "linear_phase.cuh"
#include "pass_state.cuh"

// Shared memory: a chunk's keys; the ring, whose last VALUE_PAIRS pairs are a chunk's values in
// blocks that attend; sums, or what else attention has; x; the list of weights.
constexpr int KEYS_BYTES = 65536, RING_AT = KEYS_BYTES, MORE_BYTES = 12800;
constexpr int shared_bytes(int pairs, int row_bytes, int num_weights) {
  return RING_AT + pairs * PAIR_BYTES + MORE_BYTES + row_bytes + WEIGHT_BYTES * num_weights;
}
constexpr int STATIC_SHARED = 6144;                            // and to spare
constexpr int PHASES_AHEAD = 3;                                // on their way to each warp

template <int D, int RUNS>
DEVICE void decode_pass(const Phase* phases, const PassWeight* weights, int num_weights, const TensorMap* maps, PassState* state,
                        Counter* counters, int num_phases, int first_attention, int num_attention, int pairs, int row_bytes,
                        const int* outputs, int folds, const Attention& of) {
  extern __shared__ __align__(1024) char shared[];
  static_assert(ATTENTION_BYTES<D> <= MORE_BYTES && 2 * SUMS_BYTES <= MORE_BYTES, "they share a place");
  static_assert(KV_CHUNK * D * 2 <= KEYS_BYTES && KV_CHUNK * D * 2 <= VALUE_PAIRS * PAIR_BYTES, "a chunk");
  char* const more = shared + RING_AT + pairs * PAIR_BYTES;
  const u32 keys = shared_address(shared), row = shared_address(more) + MORE_BYTES;
  PassWeight* const list = (PassWeight*)(more + MORE_BYTES + row_bytes);
  __shared__ CachedUnit known;
  __shared__ u64 barriers[2 * RING_BARRIERS + 2];
  __shared__ __align__(16) Phase of_warp[WORKERS / 32][PHASES_AHEAD + 1];
  const RingPlace place = {keys + RING_AT, shared_address(barriers)};
  const u32 of_chunks = shared_address(barriers + 2 * RING_BARRIERS);
  Chunks chunks = {keys, place.stages + (pairs - VALUE_PAIRS) * PAIR_BYTES, of_chunks, of_chunks + 8, 0};
  for (int i = threadIdx.x; i < num_weights; i += THREADS) ((u64*)list)[i] = ((const u64*)weights)[i];
  if (threadIdx.x == 0) {
    known.unit = -1;
    place.init();
    place.last().init();
    barrier_init(chunks.full, 32);
    barrier_init(chunks.free, WORKERS / 32);
    barriers_made();
  }
  __syncthreads();
  let_next_start();
  // The block's first unit of attention, in every layer, and how many there are.
  const Phase* const attention = phases + first_attention;
  const int unit = first_of_block(attention->first_block);
  auto num_units = [&]() { return load_l2_i32(of.counts) * of.kv_heads; };
  if (threadIdx.x >= WORKERS + 32) {
    wait_for_inputs();
    ask_for_chunks<D>(phases, num_phases, of, unit, num_units(), chunks);
    return;
  }
  if (threadIdx.x >= WORKERS) {                                // weights wait for nothing
    for (int i = threadIdx.x - WORKERS; i < num_weights * MAPS; i += 32) acquire_map(maps + i);
    __syncwarp();
    if (threadIdx.x == WORKERS) {
      int my_units = 0;
      auto attends = [&]() {
        wait_for_inputs();
        const int units = num_units();
        my_units = unit < units ? (units - unit - 1) / (int)gridDim.x + 1 : 0;
        return my_units > 0;
      };
      ask_for_weights(list, num_weights, maps, place, pairs, attends, [&]() { chunks.wait_for_end(my_units * num_attention); });
    }
    return;
  }
  const int lane = threadIdx.x & 31;
  // Each warp has the phase at hand and the next ones, on their way.
  Phase* const own = of_warp[threadIdx.x >> 5];
  auto ask_for_phase = [&](int at) {
    const u32 to = shared_address(own + at % (PHASES_AHEAD + 1)) + lane * 16;
    if (lane < PHASE_BYTES / 16 && at < num_phases) copy_async_16(to, (const char*)(phases + at) + lane * 16, true);
    copy_async_commit();
  };
  for (int at = 0; at < PHASES_AHEAD; at++) ask_for_phase(at);
  wait_for_inputs();
  const Tags tags = {(load_acquire(&state->launches) + 1) * (u32)(num_phases + 1)};
  const int units = num_units();
  WeightRing ring(place, unit < units ? pairs - VALUE_PAIRS : pairs);
  int buffer = 0;
#pragma unroll 1
  for (int at = 0; at < num_phases; at++) {
    copy_async_wait<PHASES_AHEAD - 1>();
    __syncwarp();
    ask_for_phase(at + PHASES_AHEAD);
    const Phase& in = own[at % (PHASES_AHEAD + 1)];
#ifdef TIMELINE
    if (threadIdx.x == 0) timed_phase = at;
#endif
    const int first = first_of_block(in.first_block);
    if (in.kind == PHASE_LINEAR) {
      if (first >= in.tiles) continue;
      if (at + 1 == num_phases) ring = WeightRing(place.last(), pairs);
      MARK(0);
      linear_phase<RUNS>(in, outputs, tags, ring, row, (float*)more, buffer);
    } else if (in.kind == PHASE_ATTENTION) {
      if (first >= units) continue;
      MARK(0);
      attention_phase<D>(in, of, tags.of(in.x_tag), tags.of(in.y_tag), units, chunks, more, known);
      if (folds) arrive(counters + at);
    } else if (folds) {
      if (first >= of.kv_heads) continue;
      wait_for_blocks(counters + at - 1, blocks_with(units));
      for (int head = first; head < of.kv_heads; head += gridDim.x)
        fold_chunks<D>(of.partial, of.partial_ml, of.num_heads / of.kv_heads, of.items, of.first_entry, 0, head, of.num_heads, of.kv_heads,
                       of.scale, WORKERS, [&](u64 to, u32 pair) { store_packet(in.y + to * 4, pair, tags.of(in.y_tag)); });
    }
    MARK(4);
  }
  leave(state, counters, num_phases);
}

#define DECODE_PASS(d, runs)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_pass_d##d##_norm##runs(                                     \
      const Phase* phases, const PassWeight* weights, int num_weights, const TensorMap* maps, PassState* state,               \
      Counter* counters, int num_phases, int first_attention, int num_attention, int pairs, int row_bytes, const int* outputs, \
      int folds, const int* block_tables, int max_blocks, int block_len, const WorkItem* items, const int* counts,            \
      const int* first_entry, const int* places, const float* rotation, int num_heads, int kv_heads, int window, float scale, \
      float* partial, float* partial_ml) {                                                                                    \
    const Attention of = {block_tables, max_blocks, block_len, items,     counts, first_entry, places,                        \
                          rotation,     num_heads,  kv_heads,  window,    scale,  partial,     partial_ml};                   \
    decode_pass<d, runs>(phases, weights, num_weights, maps, state, counters, num_phases, first_attention, num_attention,     \
                         pairs, row_bytes, outputs, folds, of);                                                               \
  }
DECODE_PASS(64, 1)
DECODE_PASS(64, 4)
DECODE_PASS(128, 1)
DECODE_PASS(128, 4)
