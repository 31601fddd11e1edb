// Paged attention for sequences with many new rows (prefill, chunks of prefill, mixed ragged
// batches) on tensor cores (mma.sync).
//
// Formula and order id attention.chunk256: attention_order.cuh; the same bits as decode.cu for the
//   same row. Layout: as in decode.cu; any number of rows a sequence, group = num_heads / kv_heads
//   at most 64.
// Launch: attention_prefill_d64 / _d128, _fp8_.., _int8_..: grid (entries, kv_heads) where entries
//   is any bound on counts[1] (blocks beyond it end at once). Dynamic shared memory:
//   shared_bytes(D, bytes of a row of keys with its scale, whether it is of codes, TIGHT).
//   Parameters: q, k, v, out; block_tables, max_blocks; items, counts (work_list.cu, tile_tokens =
//   TILE_ROWS / group); num_heads, kv_heads, block_len; scale; window (0: none); scales of k, of v
//   (int8).
// Work: 4 * D operations a visible (query, position) pair, tiles of 128 packed rows (query heads of
//   one KV head side by side) by 64 positions. Bytes: K and V of all earlier positions once a tile,
//   from L2. Bound: tensor cores, then the special-function unit (one exponential a pair).
// spills: attention_prefill_d128 32: sm_80 to sm_89 alone, since pages of a position are taken too
// spills: attention_prefill_fp8_d128 28: sm_80, sm_100a and sm_120a alone, for the same reason
// spills: attention_prefill_int8_d128 36: scales beside two sets of sums
// Codes are widened once for all warps, from a stage into the one tile that these read.
// Warp w holds rows 16w.. of the tile: scores, probabilities and two sets of sums (the chunk's and
// the total) stay in registers.
#include "prelude.cuh"
#include "attention_order.cuh"
#include "kv_codes.cuh"

constexpr int WARPS = 8, TILE_ROWS = WARPS * 16;               // packed rows of a tile
constexpr int stages(bool tight) { return tight ? 2 : 3; }
constexpr int STAGES = stages(TIGHT);

// Shared memory: of codes, 64 keys and values widened; queries; stages of 64 keys and values with
// their scales.
constexpr int wide_bytes(int d, bool codes) { return codes ? 2 * TILE * d * 2 : 0; }
constexpr int query_bytes(int d) { return TILE_ROWS * d * 2; }
constexpr int stage_bytes(int row_bytes) { return 2 * TILE * row_bytes; }
constexpr int shared_bytes(int d, int row_bytes, bool codes, bool tight) {
  return wide_bytes(d, codes) + query_bytes(d) + stages(tight) * stage_bytes(row_bytes);
}

// Codes of a stage, K and V, to tiles of 16-bit elements: 16 columns of codes become two pieces,
// of their words' first pairs and of their second.
template <int D, KvKind KV> DEVICE void widen_tiles(u32 stage, u32 wide) {
  constexpr int PIECES = D / 16;
#pragma unroll 1                                               // registers hold the sums
  for (int i = 0; i < 2 * TILE * PIECES / (WARPS * 32); i++) {
    const int at = i * WARPS * 32 + threadIdx.x, row = at / PIECES % TILE, piece = at % PIECES, value = at / (TILE * PIECES);
    const uint4 codes = load_shared_16(stage + value * TILE * D + codes_at<D>(row, piece));
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    u32 pairs[4][2];
#pragma unroll
    for (int w = 0; w < 4; w++) {
      if (value) value_pairs<KV>(words[w], pairs[w]);
      else key_pairs<KV>(words[w], pairs[w]);
    }
    const u32 to = wide + value * TILE * D * 2;
    store_shared_16(to + tile_at<D>(row, 2 * piece), make_uint4(pairs[0][0], pairs[1][0], pairs[2][0], pairs[3][0]));
    store_shared_16(to + tile_at<D>(row, 2 * piece + 1), make_uint4(pairs[0][1], pairs[1][1], pairs[2][1], pairs[3][1]));
  }
}

template <int D, KvKind KV>
DEVICE void attention_prefill(const elem* q, const char* k, const char* v, elem* out, const int* block_tables, int max_blocks,
                              const WorkItem* items, const int* counts, int num_heads, int kv_heads, int block_len, float scale,
                              int window, const float* k_scales, const float* v_scales) {
  constexpr int ROW = D * KV_BYTES<KV>, PIECES = ROW / 16, ROWS_AT_ONCE = WARPS * 32 / PIECES, TILE_BYTES = TILE * ROW;
  constexpr int STAGE = stage_bytes(ROW + SCALE_BYTES<KV>), WIDE = wide_bytes(D, KV != KV_ELEMS), NT = D / 8, KC = D / 16;
  constexpr int Q_PIECES = D / 8, Q_ROWS = WARPS * 32 / Q_PIECES;
  extern __shared__ __align__(1024) char shared[];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, head = blockIdx.y;
  const u32 wide = shared_address(shared), qs = wide + WIDE, ring = qs + query_bytes(D);
  const int group = num_heads / kv_heads;
  const float c = __fmul_rn(scale, 1.4426950408889634f);
  let_next_start();
  wait_for_inputs();
  if ((int)blockIdx.x >= load_l2_i32(counts + 1)) return;
  const WorkItem* item = items + blockIdx.x;
  const int seq = load_l2_i32(&item->seq), first_row = load_l2_i32(&item->first_row), num_rows = load_l2_i32(&item->num_rows);
  const int kv_index = load_l2_i32(&item->kv_index), first_kv = load_l2_i32(&item->first_kv);
  const int valid = num_rows * group, kv_end = kv_index + num_rows, first_tile = first_kv / TILE, end_tile = (kv_end - 1) / TILE + 1;
  const int* table = block_tables + (u64)seq * max_blocks;
  const BlockLen blocks(block_len);
  const u32 last_block = blocks.block(kv_end - 1);
  const int piece = tid % PIECES, row_in = tid / PIECES;

  // The page numbers of a tile are read one tile before it is loaded.
  int load_tile = first_tile, load_slot = 0;
  u32 rows[TILE / ROWS_AT_ONCE], scale_row = 0;                // rows of K and V that this thread loads next
  auto find_row = [&](int row) {
    const u32 position = load_tile * TILE + row, block = blocks.block(position);
    const u32 page = load_l2_i32(table + (block < last_block ? block : last_block));
    return (page * kv_heads + head) * blocks.len + position - block * blocks.len;
  };
  auto find_rows = [&]() {
#pragma unroll
    for (int i = 0; i < TILE / ROWS_AT_ONCE; i++) rows[i] = find_row(i * ROWS_AT_ONCE + row_in);
    if (KV == KV_INT8 && tid < 2 * TILE) scale_row = find_row(tid % TILE);
  };
  auto load_stage = [&]() {
    if (load_tile < end_tile) {
      const u32 to = ring + load_slot * STAGE;
#pragma unroll
      for (int i = 0; i < TILE / ROWS_AT_ONCE; i++) {
        const int row = i * ROWS_AT_ONCE + row_in;
        const u64 at = (u64)rows[i] * ROW + piece * 16;
        const int position = load_tile * TILE + row;
        const bool seen = position >= first_kv && position < kv_end;
        const u32 place = KV == KV_ELEMS ? tile_at<D>(row, piece) : codes_at<D>(row, piece);
        copy_async_16(to + place, k + at, seen);
        copy_async_16(to + TILE_BYTES + place, v + at, seen);
      }
      if (KV == KV_INT8 && tid < 2 * TILE) {
        const int position = load_tile * TILE + tid % TILE;
        copy_async_4(to + 2 * TILE_BYTES + tid * 4, (tid < TILE ? k_scales : v_scales) + scale_row,
                     position >= first_kv && position < kv_end);
      }
    }
    copy_async_commit();
    load_tile++;
    find_rows();
    if (++load_slot == STAGES) load_slot = 0;
  };
  find_rows();
#pragma unroll
  for (int i = 0; i < WARPS * 16 / Q_ROWS; i++) {
    const int row = i * Q_ROWS + tid / Q_PIECES, r = row < valid ? row : 0, piece = tid % Q_PIECES;
    const u64 at = ((u64)(first_row + r / group) * num_heads + head * group + r % group) * D + piece * 8;
    copy_async_16(qs + tile_at<D>(row, piece), q + at, row < valid);
  }
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load_stage();           // the rows of q travel with the first

  const int r0 = warp * 16 + (lane >> 2), r1 = r0 + 8;
  const int query0 = r0 < valid ? kv_index + r0 / group : -1, query1 = r1 < valid ? kv_index + r1 / group : -1;
  u32 qf[KC][4];
  float factor[2], total[NT][4], total_l0 = 0.0f, total_l1 = 0.0f, total_m0 = NEG_INF, total_m1 = NEG_INF;
  float o[NT][4], l[4], m0 = NEG_INF, m1 = NEG_INF;
#pragma unroll
  for (int i = 0; i < NT; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) total[i][e] = o[i][e] = 0.0f;
  l[0] = l[1] = l[2] = l[3] = 0.0f;
  int slot = 0;
  // Tiles that every row of the block sees whole need no mask.
  const int all_from = window > 0 ? kv_end - window : 0;

#pragma unroll 1
  for (int tile = first_tile; tile < end_tile; tile++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    load_stage();                                              // into the stage that the tile before used
    const u32 stage = ring + slot * STAGE, scales = stage + 2 * TILE_BYTES + 2 * (lane & 3) * 4;
    const u32 ks = KV == KV_ELEMS ? stage : wide, vs = ks + TILE * D * 2;
    if (++slot == STAGES) slot = 0;
    if constexpr (KV != KV_ELEMS) {
      widen_tiles<D, KV>(stage, wide);
      __syncthreads();
    }
    if (tile == first_tile) {
      if constexpr (KV == KV_ELEMS) {
#pragma unroll
        for (int i = 0; i < KC; i++) ldmatrix_x4(qf[i], qs + tile_at<D>(warp * 16 + (lane & 15), 2 * i + (lane >> 4)));
      } else {
        load_queries<D>(qf, factor, qs, r0);
      }
    }
    float s[8][4];
#pragma unroll
    for (int j = 0; j < 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
    for (int i = 0; i < KC; i++)
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        u32 b[4];
        ldmatrix_x4(b, ks + tile_at<D>(j * 8 + (lane & 7) + ((lane >> 4) << 3), 2 * i + ((lane >> 3) & 1)));
        mma_keys<KV>(s[j], qf[i], b[0], b[1]);
        mma_keys<KV>(s[j + 1], qf[i], b[2], b[3]);
      }
    if constexpr (KV != KV_ELEMS)
#pragma unroll
      for (int j = 0; j < 8; j++) {
        float2 of = make_float2(1.0f, 1.0f);
        if constexpr (KV == KV_INT8) of = load_scales(scales + j * 32);
        s[j][0] = __fmul_rn(s[j][0], __fmul_rn(of.x, factor[0])); s[j][1] = __fmul_rn(s[j][1], __fmul_rn(of.y, factor[0]));
        s[j][2] = __fmul_rn(s[j][2], __fmul_rn(of.x, factor[1])); s[j][3] = __fmul_rn(s[j][3], __fmul_rn(of.y, factor[1]));
      }
    if (tile * TILE + TILE - 1 > kv_index || tile * TILE < all_from) {
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int position = tile * TILE + j * 8 + 2 * (lane & 3) + e;
          if (!visible(position, query0, window)) s[j][e] = NEG_INF;
          if (!visible(position, query1, window)) s[j][2 + e] = NEG_INF;
        }
    }
    float new0 = m0, new1 = m1;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      new0 = fmaxf(new0, fmaxf(s[j][0], s[j][1]));
      new1 = fmaxf(new1, fmaxf(s[j][2], s[j][3]));
    }
#pragma unroll
    for (int d = 1; d < 4; d <<= 1) {
      new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, d));
      new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, d));
    }
    const float scaled0 = scaled_max(new0, c), scaled1 = scaled_max(new1, c);
    const float f0 = rescale(m0, c, scaled0), f1 = rescale(m1, c, scaled1);
    m0 = new0;
    m1 = new1;
#pragma unroll
    for (int i = 0; i < NT; i++) {
      o[i][0] = __fmul_rn(o[i][0], f0); o[i][1] = __fmul_rn(o[i][1], f0);
      o[i][2] = __fmul_rn(o[i][2], f1); o[i][3] = __fmul_rn(o[i][3], f1);
    }
    l[0] = __fmul_rn(l[0], f0); l[1] = l[0]; l[2] = __fmul_rn(l[2], f1); l[3] = l[2];
#pragma unroll
    for (int i = 0; i < TILE / 16; i++) {
      float w[8];                                              // of positions 2q, 2q + 1 and, from 4 on, 8 further
#pragma unroll
      for (int e = 0; e < 8; e++) w[e] = weight(s[2 * i + e / 4][e % 4], c, e & 2 ? scaled1 : scaled0);
      u32 p[4] = {pack2(w[0], w[1]), pack2(w[2], w[3]), pack2(w[4], w[5]), pack2(w[6], w[7])};
      mma(l, p[0], p[1], p[2], p[3], ELEM_ONES, ELEM_ONES);
      if constexpr (KV == KV_INT8) {
        const float2 x = load_scales(scales + (TILE + i * 16) * 4), y = load_scales(scales + (TILE + i * 16 + 8) * 4);
        p[0] = pack2(__fmul_rn(w[0], x.x), __fmul_rn(w[1], x.y)); p[1] = pack2(__fmul_rn(w[2], x.x), __fmul_rn(w[3], x.y));
        p[2] = pack2(__fmul_rn(w[4], y.x), __fmul_rn(w[5], y.y)); p[3] = pack2(__fmul_rn(w[6], y.x), __fmul_rn(w[7], y.y));
      }
#pragma unroll
      for (int j = 0; j < NT; j += 2) {
        u32 f[4];
        ldmatrix_x4_trans(f, vs + tile_at<D>(i * 16 + (lane & 15), j + (lane >> 4)));
        mma(o[j], p[0], p[1], p[2], p[3], f[0], f[1]);
        mma(o[j + 1], p[0], p[1], p[2], p[3], f[2], f[3]);
      }
    }
    if ((tile + 1) % CHUNK_TILES == 0 || tile == end_tile - 1) {   // the chunk ends: fold it
      const float top0 = fmaxf(total_m0, m0), top1 = fmaxf(total_m1, m1), t0 = scaled_max(top0, c), t1 = scaled_max(top1, c);
      const float a0 = rescale(total_m0, c, t0), b0 = rescale(m0, c, t0), a1 = rescale(total_m1, c, t1), b1 = rescale(m1, c, t1);
      total_m0 = top0;
      total_m1 = top1;
      total_l0 = fold(total_l0, a0, l[0], b0);
      total_l1 = fold(total_l1, a1, l[2], b1);
#pragma unroll
      for (int i = 0; i < NT; i++) {
        total[i][0] = fold(total[i][0], a0, o[i][0], b0); total[i][1] = fold(total[i][1], a0, o[i][1], b0);
        total[i][2] = fold(total[i][2], a1, o[i][2], b1); total[i][3] = fold(total[i][3], a1, o[i][3], b1);
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
      }
      m0 = m1 = NEG_INF;
      l[0] = l[1] = l[2] = l[3] = 0.0f;
    }
  }
  copy_async_wait<0>();
  order_columns<KV>(total);
  const float inverse0 = __frcp_rn(total_l0), inverse1 = __frcp_rn(total_l1);
  const u64 at0 = ((u64)(first_row + r0 / group) * num_heads + head * group + r0 % group) * D;
  const u64 at1 = ((u64)(first_row + r1 / group) * num_heads + head * group + r1 % group) * D;
#pragma unroll
  for (int i = 0; i < NT; i++) {
    if (r0 < valid) *(u32*)(out + at0 + column_of<KV>(i)) = pack2(__fmul_rn(total[i][0], inverse0), __fmul_rn(total[i][1], inverse0));
    if (r1 < valid) *(u32*)(out + at1 + column_of<KV>(i)) = pack2(__fmul_rn(total[i][2], inverse1), __fmul_rn(total[i][3], inverse1));
  }
}

#define ATTENTION_PREFILL(d, name, kind)                                                                                      \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)                                                                 \
      attention_prefill##name##_d##d(const elem* q, const char* k, const char* v, elem* out, const int* block_tables,         \
                                     int max_blocks, const WorkItem* items, const int* counts, int num_heads, int kv_heads,   \
                                     int block_len, float scale, int window, const float* k_scales, const float* v_scales) {  \
    attention_prefill<d, kind>(q, k, v, out, block_tables, max_blocks, items, counts, num_heads, kv_heads, block_len, scale,   \
                               window, k_scales, v_scales);                                                                    \
  }
#define ALL(d)                                                                                                                \
  ATTENTION_PREFILL(d, , KV_ELEMS)                                                                                            \
  ATTENTION_PREFILL(d, _fp8, KV_FP8)                                                                                          \
  ATTENTION_PREFILL(d, _int8, KV_INT8)
ALL(64)
ALL(128)
