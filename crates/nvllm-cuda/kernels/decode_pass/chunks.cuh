// Keys and values of earlier steps on their way into shared memory, a chunk (attention_order.cuh)
// at a time. A warp of its own asks for them, in the order in which the block attends, as soon as
// those before have been read: they wait for no phase.
#pragma once

#include "attention_order.cuh"
#include "hopper.cuh"
#include "phase.cuh"

// What all attention phases of a pass share.
struct Attention {
  const int* block_tables;     // i32 [seqs, max_blocks]
  int max_blocks, block_len;
  const WorkItem* items;
  const int* counts;           // [0]: entries
  const int* first_entry;
  const int* places;           // i32 [rows]: block * block_len + offset of the row's KV index
  const float* rotation;       // f32 [rows, D/2, 2]
  int num_heads, kv_heads, window;
  float scale;
  float *partial, *partial_ml; // as in attention/decode.cu, part_rows = num_heads / kv_heads
  DEVICE_MEMBER WorkItem item(int entry) const {
    const uint4 a = load_l2(items + entry), b = load_l2((const char*)(items + entry) + 16);
    return {(int)a.x, (int)a.y, (int)a.z, (int)a.w, (int)b.x, (int)b.y, (int)b.z, (int)b.w};
  }
};

// A block's side of chunks: where they lie in shared memory, and the barriers of a chunk that is
// there and of one that has been read.
struct Chunks {
  u32 keys, values, full, free;
  u32 turn;
  DEVICE_MEMBER void wait() const { barrier_wait(full, turn); }
  // Until the last of `num` chunks has been read.
  DEVICE_MEMBER void wait_for_end(int num) const { if (num > 0) barrier_wait(free, (num - 1) & 1); }
  // This warp has read the chunk.
  DEVICE_MEMBER void leave() {
    __syncwarp();
    if ((threadIdx.x & 31) == 0) barrier_arrive(free);
    turn ^= 1;
  }
};

// Once all that this thread has copied is there.
DEVICE void barrier_arrive_copied(u32 at) { asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(at) : "memory"); }

// Asks for all chunks that the block attends to; one warp. `unit`: the block's first; all of
// `units` are the same in every layer. Keys that the query does not see may be anything, such
// values are zeros; the new key and value are the workers' to write.
template <int D> DEVICE void ask_for_chunks(const Phase* phases, int num_phases, const Attention& of, int unit, int units, Chunks chunks) {
  constexpr int PIECES = D / 8, ROWS_AT_ONCE = 32 / PIECES;
  __shared__ int rows[KV_CHUNK];                               // of pages, of each position; -1: not seen, -2: new
  const int lane = threadIdx.x & 31, piece = lane % PIECES;
  int known = -1;
  bool first = true;
#pragma unroll 1
  for (int at = 0; at < num_phases; at++) {
    if (phases[at].kind != PHASE_ATTENTION) continue;
    const char *keys = phases[at].keys, *values = phases[at].values;
#pragma unroll 1
    for (int i = unit; i < units; i += gridDim.x) {
      if (i != known) {
        const int entry = i / of.kv_heads, head = i - entry * of.kv_heads;
        const WorkItem item = of.item(entry);
        const BlockLen blocks(of.block_len);
        __syncwarp();
        for (int j = lane; j < KV_CHUNK; j += 32) {
          const int position = item.chunk * KV_CHUNK + j;
          int row = position == item.kv_index ? -2 : -1;
          if (position >= item.first_kv && position < item.kv_index) {
            const u32 block = blocks.block(position), page = load_l2_i32(of.block_tables + (u64)item.seq * of.max_blocks + block);
            row = (page * of.kv_heads + head) * blocks.len + position - block * blocks.len;
          }
          rows[j] = row;
        }
        __syncwarp();
        known = i;
      }
      if (!first) barrier_wait(chunks.free, chunks.turn ^ 1);
      first = false;
#pragma unroll 4
      for (int j = 0; j < KV_CHUNK / ROWS_AT_ONCE; j++) {
        const int line = j * ROWS_AT_ONCE + lane / PIECES, row = rows[line];
        const u64 place = (u64)(u32)row * (D * 2) + piece * 16;
        const u32 to = tile_at<D>(line, piece);
        if (row >= 0) copy_async_16(chunks.keys + to, keys + place, true);
        if (row >= -1) copy_async_16(chunks.values + to, values + (row < 0 ? 0 : place), row >= 0);
      }
      barrier_arrive_copied(chunks.full);
      chunks.turn ^= 1;
    }
  }
}
