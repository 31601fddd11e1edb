// Order id `attention.chunk256`: how softmax attention of one query row is summed, a function of
// the absolute KV positions alone.
//
// Positions are cut into chunks of KV_CHUNK (256) and those into tiles of 64. Within a chunk, over
// its tiles in ascending order:
//   s_j = q . k_j by the tensor core, 16 columns at a time, ascending; s_j = -inf outside causality
//   and window; m' = max(m, max_j s_j); p_j = 2^(c s_j - c m') with c = scale log2(e), rounded to
//   16 bits; f = 2^(c m - c m'); o = o f + sum_j p_j v_j and l = l f + sum_j p_j by the tensor
//   core, 16 positions at a time, ascending.
// A chunk starts from m = -inf, l = 0, o = 0. Chunks are folded in ascending order into a total
// (`fold`), and o / l is rounded once. Positions that no query of an entry sees are loaded as
// zeros: their blocks may be given back or another's, and a weight of 0 does not mask a value that
// is not a number.
// Over a cache of codes k_j and v_j are codes, exact (of FP8 they are values), and which columns
// take which places of 16 kv_codes.cuh says. Of int8, s_j is then multiplied by the key's scale,
// and p_j by the value's before it is rounded for the sum of values; l sums p_j without.
// A tile or chunk that a row does not see changes nothing, so a kernel may skip it or not. Rows of
// one mma do not see each other:
// decode, prefill and any cut of a prompt into steps give the same bits.
#pragma once

#ifndef KV_CHUNK
#define KV_CHUNK 256
#endif
constexpr int TILE = 64, CHUNK_TILES = KV_CHUNK / TILE;

// One entry of the device-side work list (work_list.cu): a chunk of a sequence's KV for its few new
// rows, or a tile of a sequence's many new rows over all their KV.
struct WorkItem {
  int seq;
  int chunk;        // decode: which chunk; prefill: 0
  int first_item;   // decode: the entry of the sequence's first chunk
  int num_chunks;   // decode: chunks of the sequence
  int first_row;    // row of the step of the first query
  int num_rows;     // queries
  int kv_index;     // KV index of the first query
  int first_kv;     // first KV index that any of the queries sees
};
constexpr int ITEM_BYTES = 32;
static_assert(sizeof(WorkItem) == ITEM_BYTES);

// -inf stands for "no position yet" and counts as 0 in differences.
DEVICE float scaled_max(float m, float c) { return m == NEG_INF ? 0.0f : __fmul_rn(m, c); }
DEVICE float rescale(float m, float c, float scaled) { return exp2_approx(__fsub_rn(__fmul_rn(m, c), scaled)); }
DEVICE float weight(float s, float c, float scaled) { return exp2_approx(__fmaf_rn(s, c, -scaled)); }

// total * a + chunk * b, where a and b scale both to the larger maximum.
DEVICE float fold(float total, float a, float chunk, float b) { return __fmaf_rn(chunk, b, __fmul_rn(total, a)); }

DEVICE bool visible(int position, int query, int window) {
  return position <= query && (window <= 0 || position > query - window);
}

// Byte offset of 16-byte piece `piece` of row `row` in a tile of rows of D elements, swizzled for
// ldmatrix.
template <int D> DEVICE u32 tile_at(int row, int piece) { return row * (D * 2) + ((piece ^ (row & 7)) << 4); }

// Division by block_len without dividing: exact while n * block_len < 2^32.
struct BlockLen {
  u32 len, magic;
  DEVICE_MEMBER BlockLen(int block_len) : len(block_len), magic(0xffffffffu / (u32)block_len + 1) {}
  DEVICE_MEMBER u32 block(u32 n) const { return len == 1 ? n : __umulhi(n, magic); }   // of 1, the magic number overflows
};
