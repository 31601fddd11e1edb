// linear over a coded weight: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or gated
// y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. Codes go through
// registers as bf16, in which they are exact (NF4: two numbers); a block's scale multiplies the fp32
// sum of its columns.
//
// Layout: x [M, K] bf16; W as coded.cuh has it, K a multiple of 32 (8-bit codes: 16), blocks of
//   2^shift columns from 32 (8-bit: 16), or of all (shift 31). x_scale: f32 [M], or [M, K / 128] (flag
//   GROUPED; W without offsets). y bf16 or f32 [M, stride] of which columns first.. are made, residual
//   alike; bias f32. Gated: N/2 a multiple of 8 R (below), first = 0.
// Launch: block 256, grid (g, ceil(M / rows)), 1 <= g <= tiles = ceil(N / 16 R), best all that fit
//   the device at once; a block makes up to `rows` (at most .._t8, .._t16, .._t32) rows of y. R is 1 or
//   2 (.._r1_.., .._r2_..). Dynamic shared memory: 8 * RING * stage + 2 * PARTIAL + X + F + T, where stage
//   = R * (256 * bits + 64 * 128 / period, twice that with offsets); PARTIAL = 32 * (16 R + 4) * tokens;
//   X = 8 * rows * L * 2; F = 32 * L / 128 * tokens if GROUPED; T = 2,048 with a table (LUT4, NF4);
//   period = min(block, 128), L = 128 * ceil(K / 1024).
// Bytes: W once for each `rows` rows of x from device memory or L2, M*K*2 a block from L2. Bound:
//   memory bandwidth, at 4 bits the instructions that unpack; under some 10 MB the latency of a
//   dependent launch.
// Order id: linear.coded8 (coded_order.cuh). Warp s holds range s; weights are operand A, tokens
//   operand B, so an output's sum sees only its own row of W and of x.
#include "prelude.cuh"
#include "codes.cuh"
#include "coded_order.cuh"

constexpr int RING = TIGHT ? 3 : 4;

// What a block's end needs beside its scale: nothing, the sums of x for offsets, x's own scales.
enum Mode { PLAIN, SUMS, SCALED };

template <Code CODE, Mode MODE, int R, int TOKENS>
DEVICE void linear_coded_few(const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table,
                             const elem* x, const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y,
                             int m, int n, int k, int shift, int blocks, int flags, int rows, int first, int stride) {
  constexpr int WIDTH = BITS<CODE>, ROWS = 16 * R, W_STAGE = ROWS * COLS * WIDTH / 8;
  constexpr int NT = TOKENS / 8, PAD = ROWS + 4, PARTIAL = PAD * TOKENS, PIECES = ROWS * WIDTH / 32, STEP = 32 / WIDTH;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int len = range_len(k), ranges = num_ranges(k), steps = len / COLS, k0 = range * len;
  const bool works = range < ranges, gated = flags & GATED, late = flags & LATE;
  constexpr bool sums = MODE == SUMS;
  const int row0 = blockIdx.y * rows;
  m = m - row0 < rows ? m - row0 : rows;
  // Columns that share a scale in a stage, their number there, and bytes of an octet's block.
  const int period = shift < 7 ? 1 << shift : COLS, in_stage = shift < 7 ? COLS >> shift : 1, block_bytes = sums ? 64 : 32;
  const int stage = W_STAGE + 2 * R * in_stage * block_bytes;
  float* partial = (float*)(shared + 8 * RING * stage);
  const u32 ring = shared_address(shared) + range * RING * stage;
  const u32 all_x = (shared_address(partial) + 2 * 8 * PARTIAL * 4 + 127) & ~127u, xs = all_x + range * rows * len * 2;
  const u32 all_f = all_x + 8 * rows * len * 2, fs = all_f + range * steps * TOKENS * 4;
  const u32 entries = all_f + (MODE == SCALED ? 8 * steps * TOKENS * 4 : 0), my_table = entries + lane * 4;
  const int out_n = gated ? n / 2 : n, out_rows = gated ? ROWS / 2 : ROWS, num_tiles = (out_n + out_rows - 1) / out_rows;
  if (!late) let_next_start();

  // One stage: ROWS x 128 columns of this warp's range in swizzled pieces of 16 bytes, so that
  // ldmatrix meets no bank conflict; then the scales of its octets of rows. Gated, each octet of gate
  // is followed by the matching one of up.
  const u64 pitch = (u64)k * WIDTH / 8, up = gated ? (u64)(out_n - 8) * pitch : 0;
  const int piece = lane % WIDTH, my_row = lane / WIDTH, last_octet = (n - 1) / 8;
  int load_tile = blockIdx.x, load_step = 0, rows_left;
  u32 load_at = ring;
  // Where this lane's pieces of rows my_row and, of 8-bit codes, my_row + 4 go in a stage.
  const u32 place = my_row * (WIDTH * 16) + ((WIDTH == 4 ? piece ^ (my_row >> 1 & 3) : piece ^ my_row) << 4);
  const u32 place4 = WIDTH == 4 ? place : (my_row + 4) * 128 + ((piece ^ (my_row + 4)) << 4);
  const char *from, *scales_from[R];
  const int shift_octet = (sums ? 2 : 1) + (shift < 7 ? 7 - shift : 0), mask = (1 << shift_octet) - 1;   // pieces of an octet
  auto aim = [&]() {
    const int row = load_tile * out_rows + my_row;
    rows_left = out_n - row;
    from = w + (u64)row * pitch + (k0 * WIDTH / 8 + piece * 16);
#pragma unroll
    for (int i = 0; i < R; i++) {
      const int octet = (lane + 32 * i) >> shift_octet, in = (lane + 32 * i) & mask;
      int at = gated ? load_tile * R + (octet >> 1) + (octet & 1) * (out_n / 8) : load_tile * 2 * R + octet;
      at = at < last_octet ? at : last_octet;
      scales_from[i] = scales + (u64)at * blocks * block_bytes + in * 16;
    }
  };
  aim();
  auto load_stage = [&]() {
    if (works && load_tile < num_tiles) {
      const int col = k0 + load_step * COLS, block = col >> shift;
      const bool valid = col + piece * (128 / WIDTH) < k;
      const char* at = from;
#pragma unroll
      for (int i = 0; i < PIECES; i++) {
        // Row my_row + STEP i; of 16 the upper 8 are `up` further where gated.
        const int row = STEP * i, out = gated ? (row >> 4) * 8 + (row & 7) : row;
        const u32 to = WIDTH == 4 ? place + row * 64 : (i & 1 ? place4 : place) + (row & ~7) * 128;
        copy_async_16(load_at + to, at, valid && out < rows_left);
        at += STEP * pitch;
        if (STEP * (i + 1) % 16 == 8) at += up;
        if (STEP * (i + 1) % 16 == 0 && gated) at -= up + 8 * pitch;
      }
#pragma unroll
      for (int i = 0; i < R; i++)
        if (lane + 32 * i < 2 * R << shift_octet)
          copy_async_16(load_at + W_STAGE + (lane + 32 * i) * 16, scales_from[i] + block * block_bytes,
                        block + (((lane + 32 * i) & mask) >> (sums ? 2 : 1)) < blocks);
    }
    copy_async_commit();
    load_at += stage;
    if (load_at == ring + RING * stage) load_at = ring;
    from += COLS * WIDTH / 8;
    if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; aim(); }
  };
#pragma unroll
  for (int i = 0; i < RING - 1; i++) load_stage();
  if constexpr (CODE == LUT4 || CODE == NF4) fill_table((u32*)(shared + (entries - shared_address(shared))), table);

  // x in shared memory: for every range and 128 columns m rows of 256 bytes.
  wait_for_inputs();
  if (works) {
    const int c = lane & 15;
    for (int step = 0; step < steps; step++) {
      const int col = k0 + step * COLS + c * 8;
      for (int row = lane >> 4; row < m; row += 2)
        copy_async_16(xs + (step * m + row) * 256 + ((c ^ turn<CODE>(row)) << 4), x + (u64)(row0 + row) * k + col, col < k);
    }
    if constexpr (MODE == SCALED) {
      for (int i = lane; i < steps * m; i += 32) {
        const int row = i % m, col = k0 + i / m * COLS;
        const float factor = col < k ? load_l2_f32(x_scale + (u64)(row0 + row) * ((k + 127) / 128) + col / 128) : 0.0f;
        asm volatile("st.shared.f32 [%0], %1;" :: "r"(fs + (i / m * TOKENS + row) * 4), "f"(factor) : "memory");
      }
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
  if constexpr (CODE == LUT4 || CODE == NF4) __syncthreads(); else __syncwarp();
  if (late) let_next_start();

  // Where blocks end in a stage beside its end: after every 16, 32 and 64 columns.
  const bool every16 = WIDTH == 8 && period == 16, every32 = period <= 32, every64 = period <= 64;
  const u32 center = flags & MIDPOINT ? 0xc308c308u : 0xc300c300u;
  const u32 w_at = (lane & 15) * (WIDTH * 16) + (((lane >> 4) ^ (WIDTH == 8 ? lane & 7 : lane >> 1 & 3)) << 4);
  const u32 my_scale = W_STAGE + g * (sums ? 8 : 4), octet_bytes = in_stage * block_bytes;
  u32 x_at[NT];
#pragma unroll
  for (int t = 0; t < NT; t++) {
    int row = t * 8 + g;
    row = row < m ? row : m - 1;                               // unused columns of the product repeat the last token
    x_at[t] = xs + row * 256 + first_operand<CODE>(q, row);
  }
  u32 at = ring;
  int turns = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, turns++) {
    float acc[R][NT][4], part[R][NT][4], ones[NT][4];
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        ones[t][e] = 0.0f;
#pragma unroll
        for (int r = 0; r < R; r++) acc[r][t][e] = part[r][t][e] = 0.0f;
      }
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      copy_async_wait<RING - 2>();
      __syncwarp();
      load_stage();                                            // into the slot that the step before read
      if (works) {
        u32 scale_at = at + my_scale;
        auto end_block = [&]() {
          float f[NT][2];
          if constexpr (MODE == SCALED) {
#pragma unroll
            for (int t = 0; t < NT; t++)
              asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(f[t][0]), "=f"(f[t][1])
                           : "r"(fs + (step * TOKENS + t * 8 + 2 * q) * 4) : "memory");
          }
#pragma unroll
          for (int r = 0; r < R; r++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const u32 of = scale_at + (2 * r + half) * octet_bytes;
              float s, z = 0.0f;
              if constexpr (sums) asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(s), "=f"(z) : "r"(of) : "memory");
              else asm volatile("ld.shared.f32 %0, [%1];" : "=f"(s) : "r"(of) : "memory");
              const float zero = flags & ZEROS ? -z : 0.0f, value = flags & ZEROS ? 0.0f : z;
#pragma unroll
              for (int t = 0; t < NT; t++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                  float v = part[r][t][e];
                  if constexpr (sums) v = __fmaf_rn(zero, ones[t][e & 1], v);
                  if constexpr (MODE == SCALED) v = __fmul_rn(v, f[t][e & 1]);
                  v = __fmaf_rn(s, v, acc[r][t][e]);
                  if constexpr (sums) v = __fmaf_rn(value, ones[t][e & 1], v);
                  acc[r][t][e] = v;
                  part[r][t][e] = 0.0f;
                }
            }
#pragma unroll
          for (int t = 0; t < NT; t++) ones[t][0] = ones[t][1] = ones[t][2] = ones[t][3] = 0.0f;
          scale_at += block_bytes;
        };
        u32 a[R][4];
#pragma unroll
        for (int unit = 0; unit < 4; unit++) {                 // 32 columns
          u32 b[NT][4];
#pragma unroll
          for (int t = 0; t < NT; t++) load_unit<CODE>(b[t], x_at[t] + step * m * 256, unit);
          if (WIDTH == 8 || unit % 2 == 0)
#pragma unroll
            for (int r = 0; r < R; r++) {
              ldmatrix_x4(a[r], at + r * (W_STAGE / R) + (w_at ^ (WIDTH == 8 ? 32 * unit : 16 * unit)));
            }
#pragma unroll
          for (int h = 0; h < 2; h++) {                        // 16 of them: an mma
            if constexpr (sums)
#pragma unroll
              for (int t = 0; t < NT; t++)
                mma(ones[t], ELEM_ONES, ELEM_ONES, ELEM_ONES, ELEM_ONES, b[t][2 * h], b[t][2 * h + 1]);
#pragma unroll
            for (int r = 0; r < R; r++) {
              u32 lower[2], upper[2], rest[2][2];
              if constexpr (WIDTH == 8) {
                pairs8<CODE>(a[r][2 * h], lower);
                pairs8<CODE>(a[r][2 * h + 1], upper);
              } else if constexpr (CODE == U4) {
                pairs_u4(a[r][unit % 2 * 2], h, center, lower);
                pairs_u4(a[r][unit % 2 * 2 + 1], h, center, upper);
              } else {
                pairs_table(a[r][unit % 2 * 2], h, my_table, lower, rest[0]);
                pairs_table(a[r][unit % 2 * 2 + 1], h, my_table, upper, rest[1]);
              }
#pragma unroll
              for (int t = 0; t < NT; t++) {
                mma(part[r][t], lower[0], upper[0], lower[1], upper[1], b[t][2 * h], b[t][2 * h + 1]);
                if constexpr (CODE == NF4)
                  mma(part[r][t], rest[0][0], rest[1][0], rest[0][1], rest[1][1], b[t][2 * h], b[t][2 * h + 1]);
              }
            }
            if (WIDTH == 8 && h == 0 && every16) end_block();
          }
          if (unit == 3 || (unit == 1 ? every64 : every32)) end_block();
        }
      }
      at += stage;
      if (at == ring + RING * stage) at = ring;
    }
    // Sums of ranges: [range][token][row of the tile], padded against bank conflicts.
    float* sums_at = partial + (turns & 1) * 8 * PARTIAL;
    if (works) {
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < NT; t++) {
          float* to = sums_at + range * PARTIAL + (t * 8 + 2 * q) * PAD + r * 16 + g;
          to[0] = acc[r][t][0]; to[PAD] = acc[r][t][1];
          to[8] = acc[r][t][2]; to[PAD + 8] = acc[r][t][3];
        }
    }
    __syncthreads();
    // The first outputs are another warp's in every tile.
    for (int i = (threadIdx.x + 32 * turns) & 255; i < out_rows * m; i += 256) {
      const int token = i / out_rows, row = i % out_rows, out = tile * out_rows + row;
      if (out >= out_n) continue;
      const float* of = sums_at + token * PAD + (gated ? (row >> 3) * 16 + (row & 7) : row);
      float sum = of[0];
#pragma unroll
      for (int s = 1; s < 8; s++) if (s < ranges) sum = __fadd_rn(sum, of[s * PARTIAL]);
      const float scale = MODE != SCALED && x_scale ? load_l2_f32(x_scale + row0 + token) : 1.0f;
      sum = __fmul_rn(sum, scale);
      if (bias) sum = __fadd_rn(sum, bias[first + out]);
      const u64 to = (u64)(row0 + token) * stride + first + out;
      if (gated) {
        float upper = of[8];
#pragma unroll
        for (int s = 1; s < 8; s++) if (s < ranges) upper = __fadd_rn(upper, of[s * PARTIAL + 8]);
        upper = __fmul_rn(upper, scale);
        if (bias) upper = __fadd_rn(upper, bias[out_n + out]);
        sum = __fmul_rn(silu(sum), upper);
      }
      if (residual) sum = __fadd_rn(sum, elem_to_f32(load_l2_elem(residual + to)));
      if (flags & OUT_F32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
  }
  copy_async_wait<0>();
}

#define FEW(name, code, mode, r, tokens)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256, tokens * r > 16 ? 1 : 2) linear_coded_few_##name##_r##r##_t##tokens(      \
      const char* __restrict__ w, const char* __restrict__ scales, const float* __restrict__ table, const elem* x,             \
      const float* x_scale, const float* __restrict__ bias, const elem* residual, void* y, int m, int n, int k, int shift,     \
      int blocks, int flags, int rows, int first, int stride) {                                                                \
    linear_coded_few<code, mode, r, tokens>(w, scales, table, x, x_scale, bias, residual, y, m, n, k, shift, blocks, flags,   \
                                            rows, first, stride);                                                             \
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
