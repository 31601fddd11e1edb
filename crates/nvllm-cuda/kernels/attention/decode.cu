// Paged attention for sequences with few new rows (decode, verification of drafts): KV split into
// chunks over the device, query heads of one KV head and rows of one sequence share every read of K
// and V.
//
// Formula and order id attention.chunk256: attention_order.cuh. Layout: q, out [rows, num_heads,
//   D], 16-bit elements; K and V pages of one layer, each [num_blocks, kv_heads, block_len, D], of
//   such elements or (.._fp8_.., .._int8_..) of codes, int8 with scales f32 [num_blocks, kv_heads,
//   block_len] of each (kv_codes.cuh); block_tables i32 [seqs, max_blocks]. D 64 or 128, block_len
//   a multiple of 16 (prefill.cu takes any), rows of a sequence times group = num_heads / kv_heads
//   at most part_rows <= 16.
// Launch: attention_decode_d64 / _d128, _fp8_.., _int8_..: grid (g), any g; best at_once blocks a
//   multiprocessor. Dynamic shared memory: shared_bytes(D, bytes of a row of keys with its scale,
//   whether it has one, TIGHT). Parameters: q, k, v, out;
//   block_tables, max_blocks; items, counts (work_list.cu); num_heads, kv_heads, block_len; scale;
//   window (0: none); partial f32 [entries, kv_heads, part_rows, D], partial_ml f32 [entries,
//   kv_heads, part_rows, 2], part_rows; scales of k, of v (int8); ahead: whether the work list and
//   the block tables were complete before any kernel that this one may run beside began, so that
//   positions before kv_index, which earlier steps wrote, may be read before the wait.
//   Then attention_fold_d64 / _d128, which writes the rows of sequences with several chunks (it may
//   be left out where none has):
//   grid (num_seqs, kv_heads), no dynamic shared memory. Parameters: partial,
//   partial_ml, part_rows; out; items, first_entry (work_list.cu); num_heads, kv_heads; scale.
// Bytes: KV once: positions * kv_heads * D * 4 (of codes half), and where a sequence has several
//   chunks (D + 2) * 4 a row, head and chunk written and read. Bound: memory bandwidth; at batch 1
//   the latency of one chunk (its tiles in sequence) and of the fold.
// A block takes every g-th (entry, KV head). Tiles of 64 positions flow through a ring of 3 stages;
//   warp w scores positions 16w.. of a tile, then takes columns D/4 w.. of P V.
#include "prelude.cuh"
#include "attention_fold.cuh"
#include "kv_codes.cuh"

constexpr int stages(bool tight) { return tight ? 2 : 3; }
constexpr int STAGES = stages(TIGHT);
constexpr int at_once(bool codes) { return codes ? 3 : 2; }    // blocks a multiprocessor

// Shared memory: stages of 64 keys and values with their scales, and of queries; weights, and where
// values have scales those without; maxima of 4 warps; the entries of 8 units.
constexpr int query_bytes(int d) { return 16 * d * 2; }
constexpr int stage_bytes(int d, int row_bytes) { return 2 * TILE * row_bytes + query_bytes(d); }
constexpr int weight_bytes(bool scales) { return scales ? 4096 : 2048; }
constexpr int shared_bytes(int d, int row_bytes, bool scales, bool tight) {
  return stages(tight) * stage_bytes(d, row_bytes) + weight_bytes(scales) + 256 + 8 * ITEM_BYTES;
}

// The tiles of one (entry, KV head), and where it stands among them.
struct Work {
  WorkItem item;
  int head, tile, end;
};

DEVICE void start(Work& work, int head, uint4 a, uint4 b) {
  work.item = {(int)a.x, (int)a.y, (int)a.z, (int)a.w, (int)b.x, (int)b.y, (int)b.z, (int)b.w};
  work.head = head;
  int first = work.item.chunk * CHUNK_TILES, end = (work.item.kv_index + work.item.num_rows - 1) / TILE + 1;
  work.tile = work.item.first_kv / TILE > first ? work.item.first_kv / TILE : first;
  work.end = end < first + CHUNK_TILES ? end : first + CHUNK_TILES;
}

// A tile on its way: the rows of K and V at which each 16 positions begin; whether it is the first
// of its unit; whether there is one.
struct Tile {
  Work work;
  u32 rows16[4];
  bool first, any;
};

template <int D, KvKind KV>
DEVICE void attention_decode(const elem* q, const char* k, const char* v, elem* out, const int* block_tables, int max_blocks,
                             const WorkItem* items, const int* counts, int num_heads, int kv_heads, int block_len, float scale,
                             int window, float* partial, float* partial_ml, int part_rows, const float* k_scales,
                             const float* v_scales, int ahead) {
  constexpr int ROW = D * KV_BYTES<KV>, PIECES = ROW / 16, ROWS_AT_ONCE = 128 / PIECES, TILE_BYTES = TILE * ROW;
  constexpr int Q_PIECES = D / 8, Q_ROWS = 128 / Q_PIECES, Q_BYTES = query_bytes(D), NT = D / 32, KC = D / 16;
  constexpr int STAGE = stage_bytes(D, ROW + SCALE_BYTES<KV>), P_BYTES = weight_bytes(KV == KV_INT8);
  extern __shared__ __align__(1024) char shared[];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const u32 ring = shared_address(shared), ps = ring + STAGES * STAGE;
  float* maxima = (float*)(shared + STAGES * STAGE + P_BYTES);   // [warp][row]
  const u32 stash = ps + P_BYTES + 256;                        // the entries of 8 units, from the loading end to the computing end
  const int group = num_heads / kv_heads;
  const BlockLen blocks(block_len), entries(kv_heads);         // entries.block(unit): which entry a unit is of
  const float c = __fmul_rn(scale, 1.4426950408889634f);
  const int r0 = lane >> 2, r1 = r0 + 8, token0 = r0 / group, token1 = r1 / group;
  int load_token[16 / Q_ROWS];                                 // of the rows of q that this thread loads
#pragma unroll
  for (int i = 0; i < 16 / Q_ROWS; i++) load_token[i] = (i * Q_ROWS + tid / Q_PIECES) / group;
  let_next_start();
  if (!ahead) wait_for_inputs();
  const int units = load_l2_i32(counts) * kv_heads;

  // Loading runs two tiles ahead of computing. What it needs is asked for before: the page numbers
  // of a tile one tile earlier, the entry of a unit one unit earlier.
  Work load, work;
  int load_unit = blockIdx.x, load_count = 0, load_slot = 0, pages[4];
  const int* table = block_tables;                             // of the unit's sequence
  u32 last_block = 0;
  bool load_first = true;
  uint4 next_a, next_b;
  auto ask = [&](int unit) {
    if (unit >= units) return;
    const char* from = (const char*)(items + entries.block(unit));
    next_a = load_l2(from);
    next_b = load_l2(from + 16);
  };
  auto begin_load = [&]() {
    if (load_unit >= units) return;
    start(load, load_unit - entries.block(load_unit) * kv_heads, next_a, next_b);
    table = block_tables + (u64)load.item.seq * max_blocks;
    last_block = blocks.block(load.item.kv_index + load.item.num_rows - 1);
    if (tid == 0) {
      store_shared_16(stash + (load_count & 7) * 32, next_a);
      store_shared_16(stash + (load_count & 7) * 32 + 16, next_b);
    }
    load_count++;
    ask(load_unit + gridDim.x);
  };
  auto find_pages = [&]() {
    if (load_unit >= units) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 block = blocks.block(load.tile * TILE + i * 16);
      pages[i] = load_l2_i32(table + (block < last_block ? block : last_block));
    }
  };
  // The tile that is loaded next; loading goes on to the one behind it.
  auto next_tile = [&]() {
    Tile next;
    next.work = load;
    next.first = load_first;
    next.any = load_unit < units;
    if (!next.any) return next;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 position = load.tile * TILE + i * 16;
      next.rows16[i] = ((u32)pages[i] * kv_heads + load.head) * blocks.len + position - blocks.block(position) * blocks.len;
    }
    load_first = ++load.tile == load.end;
    if (load_first) { load_unit += gridDim.x; begin_load(); }
    find_pages();
    return next;
  };
  // Positions that no step before this one wrote are new, and so are the queries.
  auto copy = [&](const Tile& from, int to_slot, bool old_rows, bool new_rows) {
    if (!from.any) return;
    const WorkItem& item = from.work.item;
    const int piece = tid % PIECES, end = item.kv_index + item.num_rows;
    const u32 to = ring + to_slot * STAGE;
#pragma unroll
    for (int i = 0; i < TILE / ROWS_AT_ONCE; i++) {
      const int row = i * ROWS_AT_ONCE + tid / PIECES, position = from.work.tile * TILE + row;
      u32 first = from.rows16[i * ROWS_AT_ONCE / 16];
      if (ROWS_AT_ONCE == 32 && tid / PIECES >= 16) first = from.rows16[i * 2 + 1];
      const u64 at = (u64)(first + (row & 15)) * ROW + piece * 16;
      const bool seen = position >= item.first_kv && position < end;
      const u32 place = KV == KV_ELEMS ? tile_at<D>(row, piece) : codes_at<D>(row, piece);
      if (!(position >= item.kv_index ? new_rows : old_rows)) continue;
      copy_async_16(to + place, k + at, seen);
      copy_async_16(to + TILE_BYTES + place, v + at, seen);
    }
    if constexpr (KV == KV_INT8) {
      const int row = tid & 63, position = from.work.tile * TILE + row;
      const u32 lower = row & 16 ? from.rows16[1] : from.rows16[0], upper = row & 16 ? from.rows16[3] : from.rows16[2];
      const u32 at = (row & 32 ? upper : lower) + (row & 15);
      if (position >= item.kv_index ? new_rows : old_rows)
        copy_async_4(to + 2 * TILE_BYTES + Q_BYTES + tid * 4, (tid < 64 ? k_scales : v_scales) + at,
                     position >= item.first_kv && position < end);
    }
    if (from.first && new_rows) {
      const int piece = tid % Q_PIECES;
#pragma unroll
      for (int i = 0; i < 16 / Q_ROWS; i++) {
        const int row = i * Q_ROWS + tid / Q_PIECES, valid = item.num_rows * group;
        const int r = row < valid ? row : 0, token = row < valid ? load_token[i] : 0;
        copy_async_16(to + 2 * TILE_BYTES + tile_at<D>(row, piece),
                      q + out_at<D>(item, from.work.head, r, token, group, num_heads) + piece * 8, row < valid);
      }
    }
  };
  auto load_stage = [&]() {
    copy(next_tile(), load_slot, true, true);
    copy_async_commit();
    if (++load_slot == STAGES) load_slot = 0;
  };
  ask(load_unit);
  begin_load();
  find_pages();
  // The first tiles as far as they are old, beside the kernels that make what is new.
  Tile begun[STAGES - 1];
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    begun[i] = next_tile();
    copy(begun[i], i, true, false);
  }
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    copy(begun[i], i, false, true);
    copy_async_commit();
  }
  load_slot = STAGES - 1;
  __syncthreads();                                             // the first entries are in the stash

  int slot = 0, count = 0;
  for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const u32 entry = stash + (count & 7) * 32;
    start(work, unit - entries.block(unit) * kv_heads, load_shared_16(entry), load_shared_16(entry + 16));
    count++;
    const int valid = work.item.num_rows * group;
    const int query0 = r0 < valid ? work.item.kv_index + token0 : -1, query1 = r1 < valid ? work.item.kv_index + token1 : -1;
    // Tiles that every row sees whole need no mask.
    const int all_from = window > 0 ? work.item.kv_index + work.item.num_rows - window : 0;
    u32 qf[KC][4];
    float factor[2], o[NT][4], l[4], m0 = NEG_INF, m1 = NEG_INF;   // of codes, `factor` brings scores back
#pragma unroll
    for (int i = 0; i < NT; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
    l[0] = l[1] = l[2] = l[3] = 0.0f;
    for (bool first = true; work.tile < work.end; work.tile++, first = false) {
      copy_async_wait<STAGES - 2>();
      __syncthreads();
      load_stage();                                            // into the stage that the tile before used
      const u32 ks = ring + slot * STAGE, vs = ks + TILE_BYTES, qs = vs + TILE_BYTES;
      if (++slot == STAGES) slot = 0;
      if (first) {
        if constexpr (KV == KV_ELEMS) {
#pragma unroll
          for (int i = 0; i < KC; i++) ldmatrix_x4(qf[i], qs + tile_at<D>(lane & 15, 2 * i + (lane >> 4)));
        } else {
          load_queries<D>(qf, factor, qs, r0);
        }
      }
      // All of this warp's K, then its V: shared memory answers while the scores are made and the
      // maxima exchanged. Of codes a matrix holds twice the columns.
      constexpr int KM = KV == KV_ELEMS ? KC : KC / 2, VM = KV == KV_ELEMS ? TILE / 16 * (NT / 2) : TILE / 16 * NT / 4;
      u32 kf[KM][4], vf[VM][4];
#pragma unroll
      for (int i = 0; i < KM; i++) {
        const int row = warp * 16 + (lane & 7) + ((lane >> 4) << 3), piece = 2 * i + ((lane >> 3) & 1);
        ldmatrix_x4(kf[i], ks + (KV == KV_ELEMS ? tile_at<D>(row, piece) : codes_at<D>(row, piece)));
      }
      float s[2][4] = {};
#pragma unroll
      for (int i = 0; i < KC; i++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
          u32 b[2];
          if constexpr (KV == KV_ELEMS) { b[0] = kf[i][2 * t]; b[1] = kf[i][2 * t + 1]; }
          else key_pairs<KV>(kf[i / 2][2 * t + i % 2], b);
          mma_keys<KV>(s[t], qf[i], b[0], b[1]);
        }
#pragma unroll
      for (int i = 0; i < VM; i++) {
        if constexpr (KV == KV_ELEMS)
          ldmatrix_x4_trans(vf[i], vs + tile_at<D>(i / (NT / 2) * 16 + (lane & 15), warp * NT + 2 * (i % (NT / 2)) + (lane >> 4)));
        else if constexpr (D == 128) ldmatrix_x4_trans(vf[i], vs + codes_at<D>(i * 16 + (lane & 15), warp * 2 + (lane >> 4)));
        else ldmatrix_x4_trans(vf[i], vs + codes_at<D>(i * 32 + lane, warp));
      }
      const u32 scales = qs + Q_BYTES + (warp * 16 + 2 * (lane & 3)) * 4;
      if constexpr (KV != KV_ELEMS)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float2 of = make_float2(1.0f, 1.0f);
          if constexpr (KV == KV_INT8) of = load_scales(scales + j * 32);
          s[j][0] = __fmul_rn(s[j][0], __fmul_rn(of.x, factor[0])); s[j][1] = __fmul_rn(s[j][1], __fmul_rn(of.y, factor[0]));
          s[j][2] = __fmul_rn(s[j][2], __fmul_rn(of.x, factor[1])); s[j][3] = __fmul_rn(s[j][3], __fmul_rn(of.y, factor[1]));
        }
      const int position0 = work.tile * TILE + warp * 16 + 2 * (lane & 3);
      if (work.tile * TILE + TILE - 1 > work.item.kv_index || work.tile * TILE < all_from)
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            if (!visible(position0 + j * 8 + e, query0, window)) s[j][e] = NEG_INF;
            if (!visible(position0 + j * 8 + e, query1, window)) s[j][2 + e] = NEG_INF;
          }
      float top0 = fmaxf(fmaxf(s[0][0], s[0][1]), fmaxf(s[1][0], s[1][1])), top1 = fmaxf(fmaxf(s[0][2], s[0][3]), fmaxf(s[1][2], s[1][3]));
#pragma unroll
      for (int d = 1; d < 4; d <<= 1) {
        top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, d));
        top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, d));
      }
      if ((lane & 3) == 0) { maxima[warp * 16 + r0] = top0; maxima[warp * 16 + r1] = top1; }
      __syncthreads();
      float new0 = m0, new1 = m1;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        new0 = fmaxf(new0, maxima[i * 16 + r0]);
        new1 = fmaxf(new1, maxima[i * 16 + r1]);
      }
      const float scaled0 = scaled_max(new0, c), scaled1 = scaled_max(new1, c);
      const float f0 = rescale(m0, c, scaled0), f1 = rescale(m1, c, scaled1);
      m0 = new0;
      m1 = new1;
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const float w[4] = {weight(s[j][0], c, scaled0), weight(s[j][1], c, scaled0), weight(s[j][2], c, scaled1), weight(s[j][3], c, scaled1)};
        const u32 at0 = ps + tile_at<64>(r0, warp * 2 + j) + 4 * (lane & 3), at1 = ps + tile_at<64>(r1, warp * 2 + j) + 4 * (lane & 3);
        store_shared_4(at0, pack2(w[0], w[1]));
        store_shared_4(at1, pack2(w[2], w[3]));
        if constexpr (KV == KV_INT8) {
          const float2 of = load_scales(scales + TILE * 4 + j * 32);
          store_shared_4(at0 + 2048, pack2(__fmul_rn(w[0], of.x), __fmul_rn(w[1], of.y)));
          store_shared_4(at1 + 2048, pack2(__fmul_rn(w[2], of.x), __fmul_rn(w[3], of.y)));
        }
      }
#pragma unroll
      for (int i = 0; i < NT; i++) {
        o[i][0] = __fmul_rn(o[i][0], f0); o[i][1] = __fmul_rn(o[i][1], f0);
        o[i][2] = __fmul_rn(o[i][2], f1); o[i][3] = __fmul_rn(o[i][3], f1);
      }
      l[0] = __fmul_rn(l[0], f0); l[1] = l[0]; l[2] = __fmul_rn(l[2], f1); l[3] = l[2];
      __syncthreads();
      u32 pf[TILE / 16][4], pv[TILE / 16][4];
#pragma unroll
      for (int i = 0; i < TILE / 16; i++) {
        ldmatrix_x4(pf[i], ps + tile_at<64>(lane & 15, 2 * i + (lane >> 4)));
        if constexpr (KV == KV_INT8) ldmatrix_x4(pv[i], ps + 2048 + tile_at<64>(lane & 15, 2 * i + (lane >> 4)));
      }
#pragma unroll
      for (int i = 0; i < TILE / 16; i++) {
        const u32(&w)[4] = KV == KV_INT8 ? pv[i] : pf[i];
        mma(l, pf[i][0], pf[i][1], pf[i][2], pf[i][3], ELEM_ONES, ELEM_ONES);
#pragma unroll
        for (int j = 0; j < NT; j += 2) {
          u32 a[2], b[2];                                      // positions 0 to 7, 8 to 15: of tiles j, j + 1
          if constexpr (KV == KV_ELEMS) {
            const u32(&f)[4] = vf[i * (NT / 2) + j / 2];
            a[0] = f[0]; b[0] = f[1]; a[1] = f[2]; b[1] = f[3];
          } else {
            const u32(&f)[4] = vf[D == 128 ? i : i / 2];
            value_pairs<KV>(f[D == 128 ? j : i % 2 * 2], a);
            value_pairs<KV>(f[D == 128 ? j + 1 : i % 2 * 2 + 1], b);
          }
          mma(o[j], w[0], w[1], w[2], w[3], a[0], b[0]);
          mma(o[j + 1], w[0], w[1], w[2], w[3], a[1], b[1]);
        }
      }
    }

    order_columns<KV>(o);
    const int col0 = warp * (D / 4);
    if (work.item.num_chunks == 1) {                           // the fold of one chunk, here
      const float b0 = rescale(m0, c, scaled_max(m0, c)), b1 = rescale(m1, c, scaled_max(m1, c));
      const float inverse0 = __frcp_rn(fold(0.0f, 0.0f, l[0], b0)), inverse1 = __frcp_rn(fold(0.0f, 0.0f, l[2], b1));
#pragma unroll
      for (int i = 0; i < NT; i++) {
        if (r0 < valid)
          *(u32*)(out + out_at<D>(work.item, work.head, r0, token0, group, num_heads) + col0 + column_of<KV>(i)) =
              pack2(__fmul_rn(fold(0.0f, 0.0f, o[i][0], b0), inverse0), __fmul_rn(fold(0.0f, 0.0f, o[i][1], b0), inverse0));
        if (r1 < valid)
          *(u32*)(out + out_at<D>(work.item, work.head, r1, token1, group, num_heads) + col0 + column_of<KV>(i)) =
              pack2(__fmul_rn(fold(0.0f, 0.0f, o[i][2], b1), inverse1), __fmul_rn(fold(0.0f, 0.0f, o[i][3], b1), inverse1));
      }
      continue;
    }
    const u64 at = (u64)unit * part_rows;
#pragma unroll
    for (int i = 0; i < NT; i++) {
      if (r0 < valid) *(float2*)(partial + (at + r0) * D + col0 + column_of<KV>(i)) = make_float2(o[i][0], o[i][1]);
      if (r1 < valid) *(float2*)(partial + (at + r1) * D + col0 + column_of<KV>(i)) = make_float2(o[i][2], o[i][3]);
    }
    if (warp == 0 && (lane & 3) == 0) {
      if (r0 < valid) *(float2*)(partial_ml + (at + r0) * 2) = make_float2(m0, l[0]);
      if (r1 < valid) *(float2*)(partial_ml + (at + r1) * 2) = make_float2(m1, l[2]);
    }
  }
  copy_async_wait<0>();
}

#define ATTENTION_DECODE(d, name, kind)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128)                                                                           \
      attention_decode##name##_d##d(const elem* q, const char* k, const char* v, elem* out, const int* block_tables,          \
                                    int max_blocks, const WorkItem* items, const int* counts, int num_heads, int kv_heads,    \
                                    int block_len, float scale, int window, float* partial, float* partial_ml, int part_rows, \
                                    const float* k_scales, const float* v_scales, int ahead) {                                 \
    attention_decode<d, kind>(q, k, v, out, block_tables, max_blocks, items, counts, num_heads, kv_heads, block_len, scale,    \
                              window, partial, partial_ml, part_rows, k_scales, v_scales, ahead);                              \
  }
#define ATTENTION_FOLD(d)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(128)                                                                           \
      attention_fold_d##d(const float* partial, const float* partial_ml, int part_rows, elem* out, const WorkItem* items,      \
                          const int* first_entry, int num_heads, int kv_heads, float scale) {                                  \
    let_next_start();                                                                                                          \
    wait_for_inputs();                                                                                                         \
    fold_chunks<d>(partial, partial_ml, part_rows, items, first_entry, blockIdx.x, blockIdx.y, num_heads, kv_heads, scale,     \
                   blockDim.x, [&](u64 at, u32 pair) { *(u32*)(out + at) = pair; });                                                       \
  }
#define ALL(d)                                                                                                                \
  ATTENTION_DECODE(d, , KV_ELEMS)                                                                                             \
  ATTENTION_DECODE(d, _fp8, KV_FP8)                                                                                           \
  ATTENTION_DECODE(d, _int8, KV_INT8)                                                                                         \
  ATTENTION_FOLD(d)
ALL(64)
ALL(128)
