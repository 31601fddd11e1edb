// What lives from launch to launch: how many there were, which makes tags new; and counters for
// chunks of attention, the one thing that blocks hand over through plain memory. The last block to
// leave a launch counts it and sets the counters back to zero.
#pragma once

#include "packet.cuh"
#include "phase.cuh"

constexpr int STATE_BYTES = 128;
struct PassState {
  u32 left;                    // blocks that have left this launch
  u32 launches;
  u32 padding[30];
};
struct Counter {
  u32 arrivals;
  u32 padding[31];
};
static_assert(sizeof(PassState) == STATE_BYTES && sizeof(Counter) == STATE_BYTES);

DEVICE u32 load_acquire(const u32* from) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}

// Waits until so many blocks have arrived; what they wrote may then be read from L2. All workers
// call it.
DEVICE void wait_for_blocks(const Counter* counter, u32 arrivals) {
  if (threadIdx.x == 0) {
    const Watchdog watchdog;
    while (load_acquire(&counter->arrivals) < arrivals) watchdog.check();
  }
  workers_sync();
}
DEVICE void arrive(Counter* counter) {
  workers_sync();
  if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&counter->arrivals) : "memory");
}

// The last thing a block does.
DEVICE void leave(PassState* state, Counter* counters, int num_counters) {
  __shared__ u32 left;
  workers_sync();
  if (threadIdx.x == 0) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(&state->left) : "memory");
    left = before + 1;
  }
  workers_sync();
  if (left != gridDim.x) return;
  for (int i = threadIdx.x; i < num_counters; i += WORKERS) counters[i].arrivals = 0;
  if (threadIdx.x == 0) { state->left = 0; state->launches++; }
}
