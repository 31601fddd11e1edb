// The work lists of a step's attention, built on the device from lengths that only the device may
// know; one list serves all layers. Made of the step's inputs alone (step/begin.cu): beside the
// kernels before it, for which it waits last.
//
// For every sequence s with num_rows[s] new rows from KV index kv_start[s] on (its first row of the
// step: first_row[s]):
//   num_rows * group <= decode_rows, while `most_entries` are enough: one entry of `decode` for
//   each chunk of KV_CHUNK positions that any of its rows sees, ascending;
//   otherwise: one entry of `prefill` for each tile of tile_tokens rows, the last (longest) first.
// counts[0], counts[1]: entries of each. first_entry[s]: the first entry of s in `decode`, -1 for
// none. Sequences with no rows have no entries.
//
// Launch: grid (1), no dynamic shared memory. Parameters: first_row, num_rows,
//   kv_start [num_seqs] i32; num_seqs; group (query heads a KV head); decode_rows (at most 16);
//   tile_tokens (TILE_ROWS of prefill.cu / group); window (0: none); most_entries; decode, prefill:
//   WorkItem arrays (8 i32 an entry) of most_entries, and of rows / tile_tokens + num_seqs; counts
//   [2], first_entry [num_seqs] i32.
// Bytes: a few KB; bound by latency. No floating point, no order id.
#include "prelude.cuh"
#include "attention_order.cuh"

// Exclusive prefix sum of one value a thread over 256 threads; `sum` is that of all.
DEVICE int prefix(int value, int& sum, int* warps) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int inclusive = value;
  for (int d = 1; d < 32; d <<= 1) {
    int below = __shfl_up_sync(~0u, inclusive, d);
    if (lane >= d) inclusive += below;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = inclusive;
  __syncthreads();
  int before = 0;
  sum = 0;
  for (int i = 0; i < 8; i++) {
    if (i < warp) before += warps[i];
    sum += warps[i];
  }
  return before + inclusive - value;
}

extern "C" __global__ void __launch_bounds__(256)
    attention_work_list(const int* first_row, const int* num_rows, const int* kv_start, int num_seqs, int group, int decode_rows,
                        int tile_tokens, int window, int most_entries, WorkItem* decode, WorkItem* prefill, int* counts, int* first_entry) {
  __shared__ int warps[8], num_entries;
  let_next_start();
  if (threadIdx.x == 0) num_entries = 0;                      // seen by all after the barriers of `prefix`
  int decode_base = 0, prefill_base = 0;
  for (int base = 0; base < num_seqs; base += 256) {
    const int seq = base + threadIdx.x;
    int rows = 0, start = 0, row0 = 0, chunk0 = 0, chunks = 0, tiles = 0;
    if (seq < num_seqs && (rows = load_l2_i32(num_rows + seq)) > 0) {
      start = load_l2_i32(kv_start + seq);
      row0 = load_l2_i32(first_row + seq);
      if (rows * group <= decode_rows) {
        int first = window > 0 && start + 1 > window ? start + 1 - window : 0;
        chunk0 = first / KV_CHUNK;
        chunks = (start + rows - 1) / KV_CHUNK + 1 - chunk0;
      }
      tiles = (rows + tile_tokens - 1) / tile_tokens;
    }
    int sum, at = decode_base + prefix(chunks, sum, warps);
    decode_base += sum;
    // After the first that does not fit, none does: the entries that are made have no gap.
    if (at + chunks > most_entries) chunks = 0;
    if (chunks > 0) { tiles = 0; atomicMax(&num_entries, at + chunks); }
    if (seq < num_seqs) first_entry[seq] = chunks > 0 ? at : -1;
    const int first_kv = window > 0 && start + 1 > window ? start + 1 - window : 0;
    for (int i = 0; i < chunks; i++) decode[at + i] = {seq, chunk0 + i, at, chunks, row0, rows, start, first_kv};
    at = prefill_base + prefix(tiles, sum, warps);
    prefill_base += sum;
    for (int i = 0; i < tiles; i++) {
      const int token = (tiles - 1 - i) * tile_tokens, n = rows - token < tile_tokens ? rows - token : tile_tokens, query = start + token;
      prefill[at + i] = {seq, 0, 0, 0, row0 + token, n, query, window > 0 && query + 1 > window ? query + 1 - window : 0};
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) { counts[0] = num_entries; counts[1] = prefill_base; }
  wait_for_inputs();
}
