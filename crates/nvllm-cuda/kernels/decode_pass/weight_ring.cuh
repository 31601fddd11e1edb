// The weights of a whole pass on their way into shared memory: one ring a warp, of stages of 16
// rows x 64 columns of the warp's range of K (linear_order.cuh). Loading waits for no phase: while
// a block waits for activations its next weights arrive.
#pragma once

#include "phase.cuh"
#include "linear_order.cuh"

constexpr int TILE_ROWS = 16, RING = 8, RING_STAGE = TILE_ROWS * 128;

struct WeightRing {
  u32 at;                         // of this warp, in shared memory
  int load_slot, use_slot;
  u64 policy;

  // What is loaded next.
  const PassWeight* next;         // in shared memory: the weight after it
  const PassWeight* end;
  const elem* from[4];            // this lane's 16 bytes of rows lane / 8, 4 + .., 8 + .., 12 + ..
  const elem* w;
  int k, outputs, tiles, tile, col, stop, len;
  bool silu;

  DEVICE_MEMBER WeightRing(const PassWeight* weights, int num, u32 shared)
      : at(shared + (threadIdx.x >> 5) * RING * RING_STAGE), load_slot(0), use_slot(0), next(weights), end(weights + num), tiles(0), tile(0) {
    // Weights are read once a step: they need not push anything else out of L2.
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    next_weight();
#pragma unroll 1
    for (int i = 0; i < RING - 1; i++) load();
  }

  // To the next weight of which this block has tiles.
  DEVICE_MEMBER void next_weight() {
    tiles = tile = 0;
    for (; next < end; next++) {
      const int first = first_of_block(next->first_block);
      if (first >= next->tiles) continue;
      w = next->w;
      k = next->k;
      outputs = next->outputs;
      silu = next->flags & PHASE_SILU;
      tile = first;
      tiles = next->tiles;
      len = range_len(k);
      next++;
      begin_tile();
      return;
    }
  }
  // With SILU every 8 rows of gate lie above the 8 rows of up that belong to them.
  DEVICE_MEMBER void begin_tile() {
    const int lane = threadIdx.x & 31, row = lane >> 3;
    col = (threadIdx.x >> 5) * len + (lane & 7) * 8;
    stop = col + len;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int out = silu ? tile * 8 + (i & 1) * 4 + row : tile * 16 + i * 4 + row;
      out = out < outputs ? out : outputs - 1;
      from[i] = w + (u64)(silu && i >= 2 ? outputs + out : out) * k + col;
    }
  }

  // Asks for one stage; one group of copies, empty behind the last weight. Pieces of 16 bytes are
  // swizzled for ldmatrix.
  DEVICE_MEMBER void load() {
    if (tile < tiles) {
      const int lane = threadIdx.x & 31, row = lane >> 3, piece = lane & 7;
      const u32 to = at + load_slot * RING_STAGE + row * 128, size = col < k ? 16 : 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(
                         to + i * 512 + ((piece ^ ((i & 1) * 4 + row)) << 4)),
                     "l"(size ? from[i] : w), "r"(size), "l"(policy)
                     : "memory");
        from[i] += 64;
      }
      if ((col += 64) >= stop) {
        if ((tile += gridDim.x) < tiles) begin_tile();
        else next_weight();
      }
    }
    copy_async_commit();
    load_slot = (load_slot + 1) % RING;
  }

  // The next stage in the order of loading: where it lies. Its place is loaded anew by the next
  // call.
  DEVICE_MEMBER u32 use() {
    copy_async_wait<RING - 2>();
    __syncwarp();
    load();
    const u32 stage = at + use_slot * RING_STAGE;
    use_slot = (use_slot + 1) % RING;
    return stage;
  }
};
