// The weights of a whole pass on their way into shared memory: one ring a block, of stages of 16
// KB, filled by the copy engine. A thread of its own asks for them in the order in which the
// block's warps multiply them, and waits for no phase: while the block waits for activations, its
// next weights arrive.
//
// A stage is a part of a tile of W: [steps of 64 columns][ranges of K][rows of the tile][64
// columns], pieces of 16 bytes swizzled over 128; warp s multiplies range s (linear_order.cuh).
#pragma once

#include "hopper.cuh"
#include "phase.cuh"
#include "linear_order.cuh"

constexpr int TILE_ROWS = 16, NARROW_ROWS = 8;
constexpr int STAGE_BYTES = TILE_ROWS * RANGES * 128;
// The ring has up to so many pairs of stages, which are read together; a block that attends has
// fewer before the last weight: a chunk's values lie in the place of the others (chunks.cuh).
constexpr int MOST_PAIRS = 4, VALUE_PAIRS = 2, PAIR_BYTES = 2 * STAGE_BYTES;
// Stages asked for that have not arrived, but of the last weight. With more, what blocks hand to
// each other stands behind weights in the memory system (bench/LOG.md).
constexpr int UNDER_WAY = 1;

// A weight of the pass: [outputs, k], with SILU gate above up, and how its tiles come. As `Weight`
// in src/lower/decode_pass/phase.rs.
struct PassWeight {
  u16 first_block, tiles;
  u8 copies;              // of a tile
  u8 whole;               // the first so many of them hold columns of all ranges: the first map
  u8 rows;                // of W, or of each of gate and up, from tile to tile
  u8 steps;               // of 64 columns a copy
};
constexpr int WEIGHT_BYTES = 8;
static_assert(sizeof(PassWeight) == WEIGHT_BYTES);
// Tensor maps of a weight: of all ranges, and of all but the last.
constexpr int MAPS = 2;

// [halves][columns of a step, rows of a half, halves, ranges, steps]; what is beyond W becomes
// zeros.
DEVICE void load_stage(u32 to, const TensorMap* map, int row, int step, u32 barrier, u64 policy) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
               "[%1, {0, %2, 0, 0, %3}], [%4], %5;"
               :: "r"(to), "l"(map), "r"(row), "r"(step), "r"(barrier), "l"(policy) : "memory");
}

// Where the ring lies, in shared memory: stages, and barriers of stages that are there and of pairs
// that have been read. The last weight, behind all attention, has a ring of all pairs in the same
// place, with barriers of its own.
constexpr int RING_BARRIERS = 3 * MOST_PAIRS;
struct RingPlace {
  u32 stages, barriers;
  DEVICE_MEMBER u32 full(int pair, int second) const { return barriers + 8 * (2 * pair + second); }
  DEVICE_MEMBER u32 empty(int pair) const { return barriers + 8 * (2 * MOST_PAIRS + pair); }
  DEVICE_MEMBER RingPlace last() const { return {stages, barriers + 8 * RING_BARRIERS}; }
  DEVICE_MEMBER void init() const {
    for (int i = 0; i < 2 * MOST_PAIRS; i++) barrier_init(barriers + 8 * i, 1);
    for (int i = 0; i < MOST_PAIRS; i++) barrier_init(empty(i), WORKERS / 32);
  }
};

// Asks for all weights; one thread. `all`: pairs of the ring. `attends` waits until it is known
// whether the block does, `values_read` until it has done so for the last time.
template <typename Attends, typename ValuesRead>
DEVICE void ask_for_weights(const PassWeight* list, int num, const TensorMap* maps, RingPlace ring, int all, Attends attends,
                            ValuesRead values_read) {
  u64 policy;
  // Weights are read once a step: they need not push anything else out of L2.
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  prefetch_map(maps);
  prefetch_map(maps + MAPS);
  int pair = 0, pairs = all - VALUE_PAIRS;                     // as long as it is not known whether the block attends
  u32 turn = 0;                                                // how often the ring has come around: a parity
  bool known = false, filled = false;
  u32 under_way[UNDER_WAY] = {}, turns[UNDER_WAY] = {};        // the last barriers of stages asked for, oldest first
#pragma unroll 1
  for (int i = 0; i < num; i++) {
    const PassWeight weight = list[i];
    const bool last = i + 1 == num;
    if (i + 2 < num) prefetch_map(maps + (i + 2) * MAPS);
    if (last) {
      // Where its ring lies all must have been read.
      for (int k = 0; k < pairs; k++)
        if (filled || k < pair) barrier_wait(ring.empty(k), k < pair ? turn : turn ^ 1);
      if (!known) attends();
      values_read();
      ring = ring.last();
      pair = 0;
      pairs = all;
      turn = 0;
      known = true;
      filled = false;
    }
#pragma unroll 1
    for (int tile = first_of_block(weight.first_block); tile < weight.tiles; tile += gridDim.x) {
#pragma unroll 1
      for (int copy = 0; copy < weight.copies; copy++) {
        const int second = copy & 1;
        if (filled && !second) barrier_wait(ring.empty(pair), turn ^ 1);
        if (under_way[0] && !last) barrier_wait(under_way[0], turns[0]);
        const u32 full = ring.full(pair, second);
        barrier_expect(full, STAGE_BYTES);
        load_stage(ring.stages + pair * PAIR_BYTES + second * STAGE_BYTES, maps + i * MAPS + (copy < weight.whole ? 0 : 1), tile * weight.rows,
                   copy * weight.steps, full, policy);
#pragma unroll
        for (int k = 0; k + 1 < UNDER_WAY; k++) { under_way[k] = under_way[k + 1]; turns[k] = turns[k + 1]; }
        under_way[UNDER_WAY - 1] = full;
        turns[UNDER_WAY - 1] = turn;
        const bool ends = copy + 1 == weight.copies;
        if (ends && !second) barrier_arrive(ring.full(pair, 1));   // nothing comes there in this turn
        if ((ends || second) && ++pair == pairs) {
          if (!known && !attends()) pairs = all;
          known = true;
          if (pair == pairs) { pair = 0; turn ^= 1; filled = true; }
        }
      }
    }
  }
}

// A warp's side of the ring: pairs of stages in the order in which they were asked for.
struct WeightRing {
  RingPlace ring;
  int pair, pairs;
  u32 turn;
  DEVICE_MEMBER WeightRing(RingPlace ring, int pairs) : ring(ring), pair(0), pairs(pairs), turn(0) {}
  // Where a stage of the next pair lies, once it is there.
  DEVICE_MEMBER u32 wait(int second) const {
    barrier_wait(ring.full(pair, second), turn);
    return ring.stages + pair * PAIR_BYTES + second * STAGE_BYTES;
  }
  // This warp has read the pair.
  DEVICE_MEMBER void leave() {
    __syncwarp();
    if ((threadIdx.x & 31) == 0) barrier_arrive(ring.empty(pair));
    if (++pair == pairs) { pair = 0; turn ^= 1; }
  }
};
