// linear over a coded weight for many rows: the formula, layout and order of coded_few.cu, in tiles
// of 128 rows of W by 64 tokens.
//
// Launch: grid (ceil(N / TILE_ROWS), ceil(M / TOKENS)). A warp holds 16 rows of W for all tokens of
//   the tile: it unpacks a code once for 64 products. Dynamic shared memory: shared_bytes(stage,
//   ceil(K / 128), GROUPED, with a table (LUT4, NF4)), stage as stage_bytes of coded_stage.cuh.
//   Parameters are those of coded_few.cu to `stride`; `rows` and `slots` are not read.
// Bytes: W once for each 64 tokens, x once for each 128 rows of W, mostly from L2. Bound: reading x
//   from shared memory for mma.sync.
// Order id: linear.coded8 (coded_order.cuh).
#include "coded_stage.cuh"

constexpr int TILE_ROWS = 8 * 16, STAGES = 3, TOKENS = 64, X_STAGE = TOKENS * 256;

// Shared memory, from the next 128 bytes on: rings of x and of 8 warps' W; x's scales; the table.
constexpr int ring_bytes(int stage) { return STAGES * (8 * stage + X_STAGE); }
constexpr int scale_bytes(int steps) { return steps * TOKENS * 4; }
constexpr int shared_bytes(int stage, int steps, bool grouped, bool table) {
  return 128 + ring_bytes(stage) + (grouped ? scale_bytes(steps) : 0) + (table ? TABLE_BYTES : 0);
}

template <Code CODE, Mode MODE>
DEVICE void linear_coded_many(const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table,
                              const elem* x, const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y,
                              int m, int n, int k, int shift, int blocks, int flags, int first, int stride) {
  constexpr int NT = TOKENS / 8;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, row0 = blockIdx.y * TOKENS;
  const int range_steps = range_len(k) / COLS, steps = (k + COLS - 1) / COLS, period = shift < 7 ? 1 << shift : COLS;
  const bool gated = flags & GATED;
  m = m - row0 < TOKENS ? m - row0 : TOKENS;
  Tile<CODE, MODE, 1> tiles(w, scales, n, k, shift, blocks, 0, gated);
  const int stage = tiles.bytes(), octet_bytes = tiles.octet_bytes(), out_n = tiles.out_n, out_rows = tiles.out_rows;
  const u32 base = (shared_address(shared) + 127) & ~127u, fs = base + ring_bytes(stage);
  const u32 entries = fs + (MODE == SCALED ? scale_bytes(steps) : 0), w_ring = base + STAGES * X_STAGE + warp * STAGES * stage;
  const int tile = blockIdx.x * 8 + warp;
  const bool works = tile * out_rows < out_n;
  tiles.aim(tile);
  let_next_start();
  if constexpr (CODE == LUT4 || CODE == NF4) fill_table((u32*)(shared + (entries - shared_address(shared))), table);
  wait_for_inputs();
  if constexpr (MODE == SCALED) {
    for (int i = threadIdx.x; i < steps * m; i += 256) {
      const int row = i / steps, step = i % steps;
      const float factor = load_l2_f32(x_scale + (u64)(row0 + row) * steps + step);
      asm volatile("st.shared.f32 [%0], %1;" :: "r"(fs + (step * TOKENS + row) * 4), "f"(factor) : "memory");
    }
  }
  auto load = [&](int step, int slot) {
    if (step < steps) {
      if (works) tiles.load(w_ring + slot * stage, step);
      const int c = threadIdx.x & 15, col = step * COLS + c * 8;
#pragma unroll
      for (int i = 0; i < TOKENS / 16; i++) {
        const int row = i * 16 + (threadIdx.x >> 4);
        copy_async_16(base + slot * X_STAGE + row * 256 + ((c ^ turn<CODE>(row)) << 4), x + (u64)(row0 + row) * k + col,
                      row < m && col < k);
      }
    }
    copy_async_commit();
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i, i);

  const u32 center = flags & MIDPOINT ? 0xc308c308u : 0xc300c300u, x_at = g * 256 + first_operand<CODE>(q, g);
  Sums<CODE, MODE, 1, NT> sums;
  sums.clear();
  float total[NT][4];
#pragma unroll
  for (int t = 0; t < NT; t++) total[t][0] = total[t][1] = total[t][2] = total[t][3] = -0.0f;   // x + -0 is x
  int slot = 0, next = STAGES - 1, left = range_steps;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    load(step + STAGES - 1, next);                             // into the slot that the step before read
    const u32 xs = base + slot * X_STAGE + x_at;
    if (works)
      sums.add_stage(w_ring + slot * stage, [&](int t) { return xs + t * 2048; }, period, octet_bytes,
                     fs + (step * TOKENS + 2 * q) * 4, center, flags & ZEROS, entries + lane * 4);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next = next + 1 == STAGES ? 0 : next + 1;
    if (--left == 0 || step + 1 == steps) {                    // a range ends
      left = range_steps;
#pragma unroll
      for (int t = 0; t < NT; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          total[t][e] = __fadd_rn(total[t][e], sums.acc[0][t][e]);
          sums.acc[0][t][e] = 0.0f;
        }
    }
  }
  copy_async_wait<0>();
  if (!works) return;
#pragma unroll
  for (int t = 0; t < NT; t++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int token = t * 8 + 2 * q + (e & 1), out = tile * out_rows + g + (gated ? 0 : e & 2) * 4;
      if (token >= m || out >= out_n || gated && e >= 2) continue;
      const float scale = MODE != SCALED && x_scale ? load_l2_f32(x_scale + row0 + token) : 1.0f;
      float sum = finish(total[t][e], total[t][e | 2], scale, bias, first + out, out_n, gated);
      const u64 to = (u64)(row0 + token) * stride + first + out;
      if (residual) sum = __fadd_rn(sum, elem_to_f32(load_l2_elem(residual + to)));
      if (flags & OUT_F32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
}

#define MANY(name, code, mode)                                                                                                \
  extern "C" __global__ void __launch_bounds__(256, 1) linear_coded_many_##name(                                              \
      const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table, const elem* x,             \
      const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y, int m, int n, int k, int shift,     \
      int blocks, int flags, int rows, int slots, int first, int stride) {                                                                \
    linear_coded_many<code, mode>(w, scales, table, x, x_scale, bias, residual, y, m, n, k, shift, blocks, flags, first,      \
                                  stride);                                                                                    \
  }
MANY(i8, I8, PLAIN)
MANY(i8_sums, I8, SUMS)
MANY(e4m3, E4M3, PLAIN)
MANY(e4m3_scaled, E4M3, SCALED)
MANY(u4, U4, PLAIN)
MANY(u4_sums, U4, SUMS)
MANY(lut4, LUT4, PLAIN)
MANY(nf4, NF4, PLAIN)
