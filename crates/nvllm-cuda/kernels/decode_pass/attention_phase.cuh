// Attention of one new row a sequence as a phase: norms of queries and keys, rotation, append and
// softmax over the pages in one unit of work, an entry of the work list and a KV head
// (norm.half_warp, attention.chunk256; the bits of qk_norm_rope_append/fused.cu and
// attention/decode.cu). Keys and values of earlier steps come by chunks.cuh.
#pragma once

#include "attention_fold.cuh"
#include "head.cuh"
#include "chunks.cuh"
#include "packet.cuh"
#include "phase.cuh"

// A unit's entry, in shared memory: the same in every layer.
struct CachedUnit {
  int unit;                    // -1: none
  WorkItem item;
  // All workers call it.
  DEVICE_MEMBER void load(const Attention& of, int unit_) {
    workers_sync();                                            // what was known has been read
    if (threadIdx.x == 0) { unit = unit_; item = of.item(unit_ / of.kv_heads); }
    workers_sync();
  }
};

// Shared memory besides keys or values, in bytes: queries, weights, maxima.
template <int D> constexpr int ATTENTION_BYTES = 16 * D * 2 + CHUNK_TILES * 2048 + 8 * 16 * 4;

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

// `more`: ATTENTION_BYTES of shared memory.
template <int D>
DEVICE void attention_phase(const Phase& in, const Attention& of, u32 x_tag, u32 y_tag, int units, Chunks& chunks, char* more, CachedUnit& known) {
  constexpr int NT = D / 64, KC = D / 16;
  static_assert(WORKERS / (D / 8) >= 16, "the block writes all rows of queries at once");
  static_assert(CHUNK_TILES == 4, "two warps score a tile");
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, r0 = lane >> 2, r1 = r0 + 8;
  const int piece = tid % (D / 8), line = tid / (D / 8);
  const u32 keys_at = chunks.keys, values_at = chunks.values;
  const int group = of.num_heads / of.kv_heads;
  const u32 qs = shared_address(more), ps = qs + 16 * D * 2;
  float* const maxima = (float*)(more + 16 * D * 2 + CHUNK_TILES * 2048);   // [warp][row]
  const float c = __fmul_rn(of.scale, 1.4426950408889634f);
  workers_sync();                                              // the phase before has read `more`
  for (int unit = first_of_block(in.first_block); unit < units; unit += gridDim.x) {
    const int entry = unit / of.kv_heads, head = unit - entry * of.kv_heads;
    if (unit != known.unit) known.load(of, unit);
    const WorkItem& item = known.item;
    const int row = item.first_row, position_of_new = item.kv_index, chunk0 = item.chunk * KV_CHUNK;
    const int tiles = position_of_new / TILE + 1 - item.chunk * CHUNK_TILES;   // that some query sees, from the chunk's first on
    const int skipped = item.first_kv > chunk0 ? (item.first_kv - chunk0) / TILE : 0;
    const int fresh_line = position_of_new - chunk0;           // beyond the chunk: another's to append
    const bool appends = fresh_line < KV_CHUNK;

    if (line < 16 && line >= group) store_shared_16(qs + tile_at<D>(line, piece), make_uint4(0, 0, 0, 0));
    MARK(1);

    // 16 lanes a head: queries of the group, then the new key and value.
    const int num = group + (appends ? 2 : 0);
#pragma unroll 1
    for (int base = 0; base < num; base += 16) {
      const int which = base + (tid >> 4), col = (tid & 15) * HeadPart<D>::PAIRS;
      const bool works = which < num, is_query = which < group, is_value = which > group;
      const int index = is_query ? head * group + which : of.num_heads + (is_value ? of.kv_heads : 0) + head;
      HeadPart<D> part = {}, norm = {};
      Turn<D> turn = {};
      int place = -1;
      if (works) {
        turn.load(of.rotation, row, col);
        place = load_l2_i32(of.places + row);
        if (in.norm) norm.load(is_query ? in.norm : in.bias, col);
        part = wait_head<D>(in.x + (u64)index * D * 4, col, x_tag);
      }
      HeadNumbers<D> turned(part);
      norm_and_turn<D>(turned, in.norm != nullptr, norm, turn, in.eps);
      if (!works) continue;
      const HeadPart<D> result = is_value ? part : HeadPart<D>(turned);
      if (!is_query && place >= 0) {
        const u64 at = ((u64)(place / of.block_len) * of.kv_heads + head) * of.block_len + place % of.block_len;
        result.store((elem*)(is_value ? in.values : in.keys) + at * D, col);
      }
      const u32 tile = is_query ? qs : is_value ? values_at : keys_at;
      const int to_line = is_query ? which : fresh_line;
#pragma unroll
      for (int i = 0; i < HeadPart<D>::WORDS; i++) {
        const int a = col + 2 * i, b = a + D / 2;
        store_shared_4(tile + tile_at<D>(to_line, a / 8) + a % 8 * 2, result.a[i]);
        store_shared_4(tile + tile_at<D>(to_line, b / 8) + b % 8 * 2, result.b[i]);
      }
    }
    MARK(2);
    chunks.wait();
    workers_sync();
    MARK(3);

    // Scores: a warp takes 32 positions, half of a tile.
    float s[4][4] = {};
    const int mine = warp >> 1;
    const bool has = mine >= skipped && mine < tiles;
    if (has) {
#pragma unroll
      for (int i = 0; i < KC; i++) {
        u32 qf[4], kf[2][4];
        ldmatrix_x4(qf, qs + tile_at<D>(lane & 15, 2 * i + (lane >> 4)));
#pragma unroll
        for (int h = 0; h < 2; h++)
          ldmatrix_x4(kf[h], keys_at + tile_at<D>(warp * 32 + h * 16 + (lane & 7) + ((lane >> 4) << 3), 2 * i + ((lane >> 3) & 1)));
#pragma unroll
        for (int t = 0; t < 4; t++) mma(s[t], qf[0], qf[1], qf[2], qf[3], kf[t / 2][t % 2 * 2], kf[t / 2][t % 2 * 2 + 1]);
      }
    }
    const int position0 = chunk0 + warp * 32 + 2 * (lane & 3);
    float top0 = NEG_INF, top1 = NEG_INF;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const bool sees = has && visible(position0 + j * 8 + e, position_of_new, of.window);
        if (!(sees && r0 < group)) s[j][e] = NEG_INF;
        if (!(sees && r1 < group)) s[j][2 + e] = NEG_INF;
        top0 = fmaxf(top0, s[j][e]);
        top1 = fmaxf(top1, s[j][2 + e]);
      }
#pragma unroll
    for (int d = 1; d < 4; d <<= 1) {
      top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, d));
      top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, d));
    }
    if ((lane & 3) == 0) { maxima[warp * 16 + r0] = top0; maxima[warp * 16 + r1] = top1; }
    workers_sync();
    // Maxima after each tile.
    float at0[CHUNK_TILES], at1[CHUNK_TILES];
#pragma unroll
    for (int t = 0; t < CHUNK_TILES; t++) {
      const float* of_tile = maxima + t * 32;
      at0[t] = fmaxf(of_tile[r0], of_tile[16 + r0]);
      at1[t] = fmaxf(of_tile[r1], of_tile[16 + r1]);
      if (t > 0) { at0[t] = fmaxf(at0[t], at0[t - 1]); at1[t] = fmaxf(at1[t], at1[t - 1]); }
    }
    float mine0 = at0[0], mine1 = at1[0];
#pragma unroll
    for (int t = 1; t < CHUNK_TILES; t++) if (t <= mine) { mine0 = at0[t]; mine1 = at1[t]; }
    const float scaled0 = scaled_max(mine0, c), scaled1 = scaled_max(mine1, c);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const u32 to_weights = ps + mine * 2048 + 4 * (lane & 3);
      store_shared_4(to_weights + tile_at<64>(r0, (warp & 1) * 4 + j), pack2(weight(s[j][0], c, scaled0), weight(s[j][1], c, scaled0)));
      store_shared_4(to_weights + tile_at<64>(r1, (warp & 1) * 4 + j), pack2(weight(s[j][2], c, scaled1), weight(s[j][3], c, scaled1)));
    }
    workers_sync();

    // Sums of values: a warp takes D / 8 columns of all tiles.
    float o[NT][4], l[4] = {0.0f, 0.0f, 0.0f, 0.0f}, m0 = NEG_INF, m1 = NEG_INF;
#pragma unroll
    for (int i = 0; i < NT; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
#pragma unroll
    for (int t = 0; t < CHUNK_TILES; t++) {
      if (t < skipped || t >= tiles) continue;
      const float f0 = rescale(m0, c, scaled_max(at0[t], c)), f1 = rescale(m1, c, scaled_max(at1[t], c));
      m0 = at0[t];
      m1 = at1[t];
#pragma unroll
      for (int i = 0; i < NT; i++) {
        o[i][0] = __fmul_rn(o[i][0], f0); o[i][1] = __fmul_rn(o[i][1], f0);
        o[i][2] = __fmul_rn(o[i][2], f1); o[i][3] = __fmul_rn(o[i][3], f1);
      }
      l[0] = __fmul_rn(l[0], f0); l[1] = l[0]; l[2] = __fmul_rn(l[2], f1); l[3] = l[2];
#pragma unroll
      for (int i = 0; i < TILE / 16; i++) {
        u32 pf[4], vf[4];
        ldmatrix_x4(pf, ps + t * 2048 + tile_at<64>(lane & 15, 2 * i + (lane >> 4)));
        ldmatrix_x4_trans(vf, values_at + tile_at<D>(t * TILE + i * 16 + (lane & 15), warp * NT + (NT == 2 ? lane >> 4 : 0)));
        mma(l, pf[0], pf[1], pf[2], pf[3], ELEM_ONES, ELEM_ONES);
#pragma unroll
        for (int j = 0; j < NT; j++) mma(o[j], pf[0], pf[1], pf[2], pf[3], vf[2 * j], vf[2 * j + 1]);
      }
    }

    chunks.leave();

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
    workers_sync();                                            // before the next unit writes shared memory
  }
}
