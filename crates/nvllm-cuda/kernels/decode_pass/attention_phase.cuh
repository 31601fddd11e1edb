// Attention of one new row a sequence as a phase: norms of queries and keys, rotation, append and
// softmax over the pages in one unit of work, an entry of the work list and a KV head
// (norm.half_warp, attention.chunk256; the bits of qk_norm_rope_append/fused.cu and
// attention/decode.cu). Keys and values of earlier steps are asked for before queries are waited
// for.
#pragma once

#include "attention_fold.cuh"
#include "head.cuh"
#include "packet.cuh"
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
};

// Pages of a chunk at most: a block has at least 16 positions.
constexpr int CHUNK_PAGES = KV_CHUNK / 16;

// A unit's entry and pages, in shared memory: the same in every layer, so that a block with one
// unit asks once.
struct CachedUnit {
  int unit;                    // -1: none
  WorkItem item;
  int pages[CHUNK_PAGES];
  // Page i; page 0 with all the rest.
  DEVICE_MEMBER void load(const Attention& of, int unit_, int entry, int i) {
    const uint4 a = load_l2(of.items + entry), b = load_l2((const char*)(of.items + entry) + 16);
    const WorkItem found = {(int)a.x, (int)a.y, (int)a.z, (int)a.w, (int)b.x, (int)b.y, (int)b.z, (int)b.w};
    const BlockLen blocks(of.block_len);
    const u32 last = blocks.block(found.kv_index), block = blocks.block(found.chunk * KV_CHUNK) + i;
    pages[i] = load_l2_i32(of.block_tables + (u64)found.seq * of.max_blocks + (block < last ? block : last));
    if (i == 0) { unit = unit_; item = found; }
  }
};

// Shared memory besides keys and values, in bytes.
template <int D> constexpr int ATTENTION_BYTES = 16 * D * 2 + 2 * 2048 + 2 * D * 2 + 8 * 16 * 4;

// A lane's columns of a head in packets.
template <int D> DEVICE HeadPart<D> wait_head(const char* from, int col, u32 tag) {
  HeadPart<D> part;
  u64 v[2][HeadPart<D>::WORDS];
  auto load = [&](int half) {
    const char* at = from + (half * (D / 2) + col) * 4;
    if constexpr (HeadPart<D>::WORDS == 2) {
      const ulonglong2 both = load_packets(at);
      v[half][0] = both.x;
      v[half][1] = both.y;
    } else {
      v[half][0] = load_packet(at);
    }
  };
  load(0);
  load(1);
  const Watchdog watchdog;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < HeadPart<D>::WORDS; i++) {
      while ((u32)(v[half][i] >> 32) != tag) {
        watchdog.check();
        load(half);
      }
      (half == 0 ? part.a : part.b)[i] = (u32)v[half][i];
    }
  return part;
}

// `side`: shared memory of two tiles of 64 keys and values; `more`: ATTENTION_BYTES.
template <int D>
DEVICE void attention_phase(const Phase& in, const Attention& of, u32 x_tag, u32 y_tag, int units, u32 side, char* more, CachedUnit& known) {
  constexpr int PIECES = D / 8, ROWS_AT_ONCE = 256 / PIECES, LOADS = TILE / ROWS_AT_ONCE, TILE_BYTES = TILE * D * 2;
  constexpr int NT = D / 64, KC = D / 16;
  static_assert(ROWS_AT_ONCE >= 16, "the block writes all rows of queries at once");
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, r0 = lane >> 2, r1 = r0 + 8;
  const int group = of.num_heads / of.kv_heads, heads = of.num_heads + 2 * of.kv_heads;
  const u32 qs = shared_address(more), ps = qs + 16 * D * 2, fresh = ps + 2 * 2048;   // queries, weights, the new key and value
  float* const maxima = (float*)(more + 16 * D * 2 + 2 * 2048 + 2 * D * 2);           // [warp][row]
  const BlockLen blocks(of.block_len);
  const float c = __fmul_rn(of.scale, 1.4426950408889634f);
  __syncthreads();                                             // the phase before has read `more`
  for (int unit = first_of_block(in.first_block); unit < units; unit += gridDim.x) {
    const int entry = unit / of.kv_heads, head = unit - entry * of.kv_heads;
    if (unit != known.unit) {
      __syncthreads();                                         // what was known has been read
      if (tid < CHUNK_PAGES) known.load(of, unit, entry, tid);
      __syncthreads();
    }
    const WorkItem item = known.item;
    const int row = item.first_row, position_of_new = item.kv_index, new_tile = position_of_new / TILE;
    int first = item.chunk * CHUNK_TILES, end = new_tile + 1;
    end = end < first + CHUNK_TILES ? end : first + CHUNK_TILES;
    first = item.first_kv / TILE > first ? item.first_kv / TILE : first;
    const bool appends = new_tile < end;                       // the last chunk

    // Two tiles from `tile` on. Positions that no query sees become zeros; the new one comes from
    // this block.
    auto load_tiles = [&](int tile) {
      const int first_block = blocks.block(item.chunk * KV_CHUNK);
#pragma unroll
      for (int t = 0; t < 2; t++) {
        if (tile + t >= end) break;
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
          const int line = i * ROWS_AT_ONCE + tid / PIECES, piece = tid % PIECES, position = (tile + t) * TILE + line;
          if (position == position_of_new) continue;
          const u32 block = blocks.block(position), offset = position - block * blocks.len;
          const u64 at = ((((u64)known.pages[block - first_block] * of.kv_heads + head) * blocks.len + offset) * D + piece * 8) * 2;
          const bool seen = position >= item.first_kv && position < position_of_new;
          const u32 to = side + t * 2 * TILE_BYTES + tile_at<D>(line, piece);
          copy_async_16(to, in.keys + at, seen);
          copy_async_16(to + TILE_BYTES, in.values + at, seen);
        }
      }
      copy_async_commit();
    };
    load_tiles(first);
    if (tid / PIECES < 16 && tid / PIECES >= group) store_shared_16(qs + tile_at<D>(tid / PIECES, tid % PIECES), make_uint4(0, 0, 0, 0));
    MARK(1);

    // 16 lanes a head: queries of the group, then the new key and value.
    const int num = group + (appends ? 2 : 0);
#pragma unroll 1
    for (int base = 0; base < num; base += 16) {
      const int which = base + (tid >> 4), col = (tid & 15) * HeadPart<D>::PAIRS;
      const bool works = which < num, is_query = which < group, is_value = which > group;
      const int index = is_query ? head * group + which : of.num_heads + (is_value ? of.kv_heads : 0) + head;
      HeadPart<D> part = {};
      Turn<D> turn = {};
      int place = -1;
      if (works) {
        turn.load(of.rotation, row, col);
        place = load_l2_i32(of.places + row);
        part = wait_head<D>(in.x + ((u64)row * heads + index) * D * 4, col, x_tag);
      }
      HeadNumbers<D> turned(part);
      norm_and_turn<D>(turned, is_query ? in.norm : in.bias, turn, col, in.eps);
      if (!works) continue;
      const HeadPart<D> result = is_value ? part : HeadPart<D>(turned);
      u32 to = qs, line = which;                               // its row of a tile in shared memory
      if (!is_query) {
        const bool here = new_tile < first + 2;                // else it waits in `fresh` for its tile
        to = here ? side + (new_tile - first) * 2 * TILE_BYTES + (is_value ? TILE_BYTES : 0) : fresh + (is_value ? D * 2 : 0);
        line = here ? position_of_new % TILE : 0;
        if (place >= 0) {
          const u64 at = ((u64)(place / of.block_len) * of.kv_heads + head) * of.block_len + place % of.block_len;
          result.store((elem*)(is_value ? in.values : in.keys) + at * D, col);
        }
      }
#pragma unroll
      for (int i = 0; i < HeadPart<D>::WORDS; i++) {
        const int a = col + 2 * i, b = a + D / 2;
        store_shared_4(to + tile_at<D>(line, a / 8) + a % 8 * 2, result.a[i]);
        store_shared_4(to + tile_at<D>(line, b / 8) + b % 8 * 2, result.b[i]);
      }
    }
    MARK(2);
    copy_async_wait<0>();
    __syncthreads();
    MARK(3);

    u32 qf[KC][4];
#pragma unroll
    for (int i = 0; i < KC; i++) ldmatrix_x4(qf[i], qs + tile_at<D>(lane & 15, 2 * i + (lane >> 4)));
    float o[NT][4], l[4] = {0.0f, 0.0f, 0.0f, 0.0f}, m0 = NEG_INF, m1 = NEG_INF;
#pragma unroll
    for (int i = 0; i < NT; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
#pragma unroll 1
    for (int tile = first; tile < end; tile += 2) {
      if (tile > first) {
        __syncthreads();                                       // the tiles before have been read
        load_tiles(tile);
        if (appends && new_tile >= tile && new_tile < tile + 2 && tid < 2 * PIECES) {
          const int is_value = tid / PIECES, piece = tid % PIECES;
          store_shared_16(side + ((new_tile - tile) * 2 + is_value) * TILE_BYTES + tile_at<D>(position_of_new % TILE, piece),
                          load_shared_16(fresh + is_value * D * 2 + tile_at<D>(0, piece)));
        }
        copy_async_wait<0>();
        __syncthreads();
      }
      // Scores: a warp takes 16 positions of one tile.
      const int mine = warp >> 2, quarter = warp & 3;
      const bool second = tile + 1 < end, has = mine == 0 || second;
      const u32 ks = side + mine * 2 * TILE_BYTES;
      float s[2][4] = {};
      if (has) {
        u32 kf[KC][4];
#pragma unroll
        for (int i = 0; i < KC; i++)
          ldmatrix_x4(kf[i], ks + tile_at<D>(quarter * 16 + (lane & 7) + ((lane >> 4) << 3), 2 * i + ((lane >> 3) & 1)));
#pragma unroll
        for (int i = 0; i < KC; i++)
#pragma unroll
          for (int t = 0; t < 2; t++) mma(s[t], qf[i][0], qf[i][1], qf[i][2], qf[i][3], kf[i][2 * t], kf[i][2 * t + 1]);
      }
      const int position0 = (tile + mine) * TILE + quarter * 16 + 2 * (lane & 3);
      float top0 = NEG_INF, top1 = NEG_INF;
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const bool seen = has && visible(position0 + j * 8 + e, position_of_new, of.window);
          if (!(seen && r0 < group)) s[j][e] = NEG_INF;
          if (!(seen && r1 < group)) s[j][2 + e] = NEG_INF;
          top0 = fmaxf(top0, s[j][e]);
          top1 = fmaxf(top1, s[j][2 + e]);
        }
#pragma unroll
      for (int d = 1; d < 4; d <<= 1) {
        top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, d));
        top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, d));
      }
      if ((lane & 3) == 0) { maxima[warp * 16 + r0] = top0; maxima[warp * 16 + r1] = top1; }
      __syncthreads();
      // Maxima after the first tile and after the second.
      float at0[2] = {m0, m0}, at1[2] = {m1, m1};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        at0[0] = fmaxf(at0[0], maxima[i * 16 + r0]);
        at1[0] = fmaxf(at1[0], maxima[i * 16 + r1]);
      }
      at0[1] = at0[0];
      at1[1] = at1[0];
#pragma unroll
      for (int i = 4; i < 8; i++) {
        at0[1] = fmaxf(at0[1], maxima[i * 16 + r0]);
        at1[1] = fmaxf(at1[1], maxima[i * 16 + r1]);
      }
      const float scaled0 = scaled_max(at0[mine], c), scaled1 = scaled_max(at1[mine], c);
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const u32 to = ps + mine * 2048 + 4 * (lane & 3);
        store_shared_4(to + tile_at<64>(r0, quarter * 2 + j), pack2(weight(s[j][0], c, scaled0), weight(s[j][1], c, scaled0)));
        store_shared_4(to + tile_at<64>(r1, quarter * 2 + j), pack2(weight(s[j][2], c, scaled1), weight(s[j][3], c, scaled1)));
      }
      __syncthreads();
      // Sums of values: a warp takes D / 8 columns of both tiles.
#pragma unroll
      for (int t = 0; t < 2; t++) {
        if (t == 1 && !second) break;
        const float f0 = rescale(m0, c, scaled_max(at0[t], c)), f1 = rescale(m1, c, scaled_max(at1[t], c));
        m0 = at0[t];
        m1 = at1[t];
#pragma unroll
        for (int i = 0; i < NT; i++) {
          o[i][0] = __fmul_rn(o[i][0], f0); o[i][1] = __fmul_rn(o[i][1], f0);
          o[i][2] = __fmul_rn(o[i][2], f1); o[i][3] = __fmul_rn(o[i][3], f1);
        }
        l[0] = __fmul_rn(l[0], f0); l[1] = l[0]; l[2] = __fmul_rn(l[2], f1); l[3] = l[2];
        const u32 vs = side + t * 2 * TILE_BYTES + TILE_BYTES;
#pragma unroll
        for (int i = 0; i < TILE / 16; i++) {
          u32 pf[4], vf[4];
          ldmatrix_x4(pf, ps + t * 2048 + tile_at<64>(lane & 15, 2 * i + (lane >> 4)));
          ldmatrix_x4_trans(vf, vs + tile_at<D>(i * 16 + (lane & 15), warp * NT + (NT == 2 ? lane >> 4 : 0)));
          mma(l, pf[0], pf[1], pf[2], pf[3], ELEM_ONES, ELEM_ONES);
#pragma unroll
          for (int j = 0; j < NT; j++) mma(o[j], pf[0], pf[1], pf[2], pf[3], vf[2 * j], vf[2 * j + 1]);
        }
      }
    }

    const int col0 = warp * (D / 8) + 2 * (lane & 3);
    if (item.num_chunks == 1) {                                // the fold of one chunk, here
      const float b0 = rescale(m0, c, scaled_max(m0, c)), b1 = rescale(m1, c, scaled_max(m1, c));
      const float inverse0 = __frcp_rn(fold(0.0f, 0.0f, l[0], b0)), inverse1 = __frcp_rn(fold(0.0f, 0.0f, l[2], b1));
#pragma unroll
      for (int i = 0; i < NT; i++) {
        if (r0 < group)
          store_packet(in.y + (out_at<D>(item, head, r0, 0, group, of.num_heads) + col0 + i * 8) * 4,
                       pack2(__fmul_rn(fold(0.0f, 0.0f, o[i][0], b0), inverse0), __fmul_rn(fold(0.0f, 0.0f, o[i][1], b0), inverse0)), y_tag);
        if (r1 < group)
          store_packet(in.y + (out_at<D>(item, head, r1, 0, group, of.num_heads) + col0 + i * 8) * 4,
                       pack2(__fmul_rn(fold(0.0f, 0.0f, o[i][2], b1), inverse1), __fmul_rn(fold(0.0f, 0.0f, o[i][3], b1), inverse1)), y_tag);
      }
    } else {
      const u64 at = (u64)unit * group;
#pragma unroll
      for (int i = 0; i < NT; i++) {
        if (r0 < group) *(float2*)(of.partial + (at + r0) * D + col0 + i * 8) = make_float2(o[i][0], o[i][1]);
        if (r1 < group) *(float2*)(of.partial + (at + r1) * D + col0 + i * 8) = make_float2(o[i][2], o[i][3]);
      }
      if (warp == 0 && (lane & 3) == 0) {
        if (r0 < group) *(float2*)(of.partial_ml + (at + r0) * 2) = make_float2(m0, l[0]);
        if (r1 < group) *(float2*)(of.partial_ml + (at + r1) * 2) = make_float2(m1, l[2]);
      }
    }
    __syncthreads();                                           // before the next unit writes shared memory
  }
}
