// linear over a coded weight: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or gated
// y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. Codes go through
// registers as bf16, in which they are exact (NF4, FP4: two numbers); a block's scale multiplies
// the fp32 sum of its columns.
//
// Layout: x [M, K] bf16; W as coded.cuh has it, K a multiple of 32 (8-bit codes: 16), blocks of
//   2^shift columns from 32 (8-bit: 16), or of all (shift 31). x_scale: f32 [M], or [M, K / 128]
//   (flag GROUPED; W without offsets). y bf16 or f32 [M, stride] of which columns first.. are
//   made, residual alike; bias f32. Gated: N/2 a multiple of 8 R, first = 0. In .._t8 every block
//   makes for itself what else coded_rows.cu makes: with norm [K] (M to 2, K to 4,096) the RMS
//   norm of x, with flag TO_I8 or TO_E4M3 the codes (`fixed` their scale, 0: that of the row; no
//   x_scale).
// Launch: grid (g, ceil(M / rows)), 1 <= g <= tiles = ceil(N / 16 R), best all that fit the device
//   at once. A block makes up to `rows` (at most .._t8, .._t16, .._t32) rows of y, from tiles of
//   16 R rows of W (.._r1_.., .._r2_..). Dynamic shared memory: shared_bytes(R, tokens, rows,
//   slots, stage, L, GROUPED, with a table (LUT4, NF4)), where slots, 2 to 4, are the stages of a
//   warp's ring; stage is stage_bytes (coded_stage.cuh) and L range_len(K).
// Bytes: W once for each `rows` rows of x from device memory or L2, M*K*2 a block from L2. Bound:
//   memory bandwidth, at 4 bits the instructions that unpack; under some 10 MB the latency of a
//   dependent launch.
// Order id: linear.coded8 (coded_order.cuh). Warp s holds range s; weights are operand A, tokens
//   operand B, so an output's sum sees only its own row of W and of x.
#include "coded_stage.cuh"
#include "input_row.cuh"

// Shared memory: rings of 8 warps; two buffers of sums of 8 ranges, padded against bank conflicts;
// from the next 128 bytes on x, its scales and the table.
constexpr int sums_pitch(int r) { return 16 * r + 4; }
constexpr int sums_bytes(int r, int tokens) { return 2 * 8 * (sums_pitch(r) * tokens) * 4; }
constexpr int x_bytes(int rows, int len) { return 8 * rows * len * 2; }
constexpr int scale_bytes(int tokens, int steps) { return 8 * steps * tokens * 4; }
constexpr int shared_bytes(int r, int tokens, int rows, int slots, int stage, int len, bool grouped, bool table) {
  return 8 * slots * stage + sums_bytes(r, tokens) + 128 + x_bytes(rows, len) + (grouped ? scale_bytes(tokens, len / COLS) : 0) +
         (table ? TABLE_BYTES : 0);
}
constexpr int STATIC_SHARED = 384;

template <Code CODE, Mode MODE, int R, int TOKENS>
DEVICE void linear_coded_few(const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table,
                             const elem* x, const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y,
                             int m, int n, int k, int shift, int blocks, int flags, int rows, int slots, int first, int stride,
                             const elem* __restrict__ norm, float eps, float fixed) {
  constexpr int ROWS = 16 * R, NT = TOKENS / 8, PAD = sums_pitch(R), PARTIAL = PAD * TOKENS;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int len = range_len(k), steps = len / COLS, k0 = range * len;
  const bool works = k0 < k, gated = flags & GATED, late = flags & LATE;
  const int row0 = blockIdx.y * rows, period = shift < 7 ? 1 << shift : COLS;
  m = m - row0 < rows ? m - row0 : rows;
  Tile<CODE, MODE, R> tiles(w, scales, n, k, shift, blocks, k0, gated);
  const int stage = tiles.bytes(), octet_bytes = tiles.octet_bytes(), out_n = tiles.out_n, out_rows = tiles.out_rows;
  float* partial = (float*)(shared + 8 * slots * stage);
  const u32 ring = shared_address(shared) + range * slots * stage, ring_end = ring + slots * stage;
  const u32 all_x = (shared_address(partial) + sums_bytes(R, TOKENS) + 127) & ~127u, xs = all_x + range * rows * len * 2;
  const u32 all_f = all_x + x_bytes(rows, len), fs = all_f + range * steps * TOKENS * 4;
  __shared__ float found[8];                                   // scales of rows whose codes are made here
  const u32 entries = all_f + (MODE == SCALED ? scale_bytes(TOKENS, steps) : 0);
  const int log_rows = (R == 1 ? 4 : 5) - gated, num_tiles = (out_n + out_rows - 1) >> log_rows;
  if (!late) let_next_start();

  int load_tile = blockIdx.x, load_step = 0;
  u32 load_at = ring;
  tiles.aim(load_tile);
  auto load_stage = [&]() {
    if (load_tile < num_tiles) {
      if (works) tiles.load(load_at, load_step);
      load_at += stage;
      if (load_at == ring_end) load_at = ring;
      if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; tiles.aim(load_tile); }
    }
    copy_async_commit();
  };
  for (int i = 0; i < slots - 1; i++) load_stage();
  if constexpr (CODE == LUT4 || CODE == NF4) fill_table((u32*)(shared + (entries - shared_address(shared))), table);

  // x in shared memory: for every range and 128 columns m rows of 256 bytes.
  const int to_codes = TOKENS > 8 ? INPUT_AS_IS : flags & TO_I8 ? INPUT_I8 : flags & TO_E4M3 ? INPUT_E4M3 : INPUT_AS_IS;
  if (TOKENS == 8 && norm) {
    __shared__ float warps[2][4];
    const int row = threadIdx.x >> 7, thread = threadIdx.x & 127;
    uint4 v[4], weight[4];
    u32 to[4];                                                 // 0 beyond the last range
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int col = (i * 128 + thread) * 8;
      weight[i] = make_uint4(0, 0, 0, 0);
      to[i] = 0;
      if (i >= steps) continue;
      const int part = col / len, step = (col - part * len) / COLS;
      if (col < k) weight[i] = *(const uint4*)(norm + col);
      if (row < m && part * len < k)
        to[i] = all_x + part * rows * len * 2 + (step * m + row) * 256 + (((col / 8 & 15) ^ turn<CODE>(row)) << 4);
    }
    wait_for_inputs();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int col = (i * 128 + thread) * 8;
      v[i] = make_uint4(0, 0, 0, 0);
      if (i < steps && row < m && col < k) v[i] = load_l2(x + (u64)(row0 + row) * k + col);
    }
    norm_of_row(v, weight, warps[row], k, eps);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (to[i]) store_shared_16(to[i], v[i]);                 // zeros beyond K
    __syncthreads();
  } else {
    wait_for_inputs();
    if (works) {
      const int c = lane & 15;
      for (int step = 0; step < steps; step++) {
        const int col = k0 + step * COLS + c * 8;
        for (int row = lane >> 4; row < m; row += 2)
          copy_async_16(xs + (step * m + row) * 256 + ((c ^ turn<CODE>(row)) << 4), x + (u64)(row0 + row) * k + col, col < k);
      }
      if (MODE == SCALED && !to_codes) {
        for (int i = lane; i < steps * m; i += 32) {
          const int row = i % m, col = k0 + i / m * COLS;
          const float factor = col < k ? load_l2_f32(x_scale + (u64)(row0 + row) * ((k + 127) / 128) + col / 128) : 0.0f;
          asm volatile("st.shared.f32 [%0], %1;" :: "r"(fs + (i / m * TOKENS + row) * 4), "f"(factor) : "memory");
        }
      }
    }
  }
  copy_async_commit();
  // What this thread's first output takes beside its sum, asked for now: it would be the last
  // latency of the chain.
  float first_residual = 0.0f, first_scale = 1.0f;
  const int first_token = threadIdx.x >> log_rows, first_out = blockIdx.x * out_rows + (threadIdx.x & out_rows - 1);
  if (first_token < m && first_out < out_n) {
    if (residual) first_residual = elem_to_f32(load_l2_elem(residual + (u64)(row0 + first_token) * stride + first + first_out));
    if (MODE != SCALED && x_scale) first_scale = load_l2_f32(x_scale + row0 + first_token);
  }
  copy_async_wait<0>();
  if constexpr (CODE == LUT4 || CODE == NF4) __syncthreads(); else __syncwarp();
  if (late) let_next_start();
  if constexpr (TOKENS == 8) {
    __shared__ float largest[64];
    if (to_codes && MODE != SCALED) codes_of_rows(xs, steps, m, range, works, to_codes, fixed, largest, found);
    if (to_codes && MODE == SCALED && works) codes_of_groups(xs, steps, m, to_codes, fs, TOKENS);
  }

  u32 x_at[NT];
#pragma unroll
  for (int t = 0; t < NT; t++) {
    int row = t * 8 + g;
    row = row < m ? row : m - 1;                               // unused columns of the product repeat the last token
    x_at[t] = xs + row * 256 + first_operand<CODE>(q, row);
  }
  const u32 center = flags & MIDPOINT ? 0xc308c308u : 0xc300c300u;
  u32 at = ring;
  int turns = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, turns++) {
    Sums<CODE, MODE, R, NT> sums;
    sums.clear();
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      if (slots == 4) copy_async_wait<2>(); else if (slots == 3) copy_async_wait<1>(); else copy_async_wait<0>();
      __syncwarp();
      load_stage();                                            // into the slot that the step before read
      if (works)
        sums.add_stage(at, [&](int t) { return x_at[t] + step * m * 256; }, period, octet_bytes, fs + (step * TOKENS + 2 * q) * 4,
                       center, flags & ZEROS, entries + lane * 4);
      at += stage;
      if (at == ring_end) at = ring;
    }
    // Sums of ranges: [range][token][row of the tile], padded against bank conflicts.
    float* sums_at = partial + (turns & 1) * 8 * PARTIAL;
    if (works) {
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < NT; t++) {
          float* to = sums_at + range * PARTIAL + (t * 8 + 2 * q) * PAD + r * 16 + g;
          to[0] = sums.acc[r][t][0]; to[PAD] = sums.acc[r][t][1];
          to[8] = sums.acc[r][t][2]; to[PAD + 8] = sums.acc[r][t][3];
        }
    }
    __syncthreads();
    // The first outputs are another warp's in every tile.
    for (int i = (threadIdx.x + 32 * turns) & 255; i < out_rows * m; i += 256) {
      const int token = i >> log_rows, row = i & out_rows - 1, out = tile * out_rows + row;
      if (out >= out_n) continue;
      const float* of = sums_at + token * PAD + (gated ? (row >> 3) * 16 + (row & 7) : row);
      float v[8], w[8], sum = of[0], upper = of[8 * gated];
#pragma unroll
      for (int s = 1; s < 8; s++) {                            // x + -0 is x
        v[s] = s * len < k ? of[s * PARTIAL] : -0.0f;
        w[s] = s * len < k ? of[s * PARTIAL + 8 * gated] : -0.0f;
      }
#pragma unroll
      for (int s = 1; s < 8; s++) { sum = __fadd_rn(sum, v[s]); upper = __fadd_rn(upper, w[s]); }
      const bool is_first = turns == 0 && i < 256;
      float scale = first_scale, added = first_residual;
      const u64 to = (u64)(row0 + token) * stride + first + out;
      if (!is_first) {
        if (MODE != SCALED && x_scale) scale = load_l2_f32(x_scale + row0 + token);
        if (residual) added = elem_to_f32(load_l2_elem(residual + to));
      }
      if (MODE != SCALED && to_codes) scale = found[token];
      sum = finish(sum, upper, scale, bias, first + out, out_n, gated);
      if (residual) sum = __fadd_rn(sum, added);
      if (flags & OUT_F32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
  }
  copy_async_wait<0>();
}

#define FEW(name, code, mode, r, tokens)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256, tokens * r > 16 ? 1 : 2) linear_coded_few_##name##_r##r##_t##tokens(      \
      const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table, const elem* x,             \
      const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y, int m, int n, int k, int shift,     \
      int blocks, int flags, int rows, int slots, int first, int stride, const elem* __restrict__ norm, float eps,             \
      float fixed) {                                                                                                          \
    linear_coded_few<code, mode, r, tokens>(w, scales, table, x, x_scale, bias, residual, y, m, n, k, shift, blocks, flags,   \
                                            rows, slots, first, stride, norm, eps, fixed);                                           \
  }
#define ALL(name, code, mode)                                                                                                 \
  FEW(name, code, mode, 1, 8)                                                                                                 \
  FEW(name, code, mode, 1, 16)                                                                                                \
  FEW(name, code, mode, 1, 32)                                                                                                \
  FEW(name, code, mode, 2, 8)                                                                                                 \
  FEW(name, code, mode, 2, 16)
ALL(i8, I8, PLAIN)
ALL(i8_sums, I8, SUMS)
ALL(e4m3, E4M3, PLAIN)
ALL(e4m3_scaled, E4M3, SCALED)
ALL(u4, U4, PLAIN)
ALL(u4_sums, U4, SUMS)
ALL(lut4, LUT4, PLAIN)
ALL(nf4, NF4, PLAIN)
