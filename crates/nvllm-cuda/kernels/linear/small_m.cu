// linear for few rows: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or with SILU the
// gated product y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:].
//
// .._norm1_.. and .._norm4_.. take the rows before their RMS norm: x is replaced by x /
// sqrt(mean(x^2) + eps) * norm (rounded to 16 bits), the same bits as rms_norm/fused.cu, made by
// every block for itself; K at most 1,024 and 4,096.
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32. K a multiple of 8;
//   pointers 16-byte aligned; M at most 8 (.._t8), 16 (.._t16) or 32 (.._t32); N any (N/2 any with
//   SILU). residual may be y.
// Two ways through W, both in tiles of R rows (16, 32 or 48; SILU: R/2 of gate and the R/2 of up
// that belong to them):
//   resident (.._rR_..): one tile a block, all of it asked for at once, before the wait for x: a
//     matrix that one tile a multiprocessor covers is on its way while the kernel before still runs
//     (programmatic dependent launch);
//   stream (.._stream_..): R = 16, a ring of 6 stages of 64 columns a warp (4 where TIGHT), a block
//     takes every gridDim-th tile.
// Launch: resident: grid (tiles), dynamic shared memory shared_bytes(R, tokens, steps, 1, M, L),
//   tokens 8, 16 or 32; stream: grid (g), 1 <= g <= tiles, best all that fit the device at once,
//   shared_bytes(16, tokens, RING, 2, M, L). There tiles = ceil(N / R), SILU ceil(N / R) of N/2
//   outputs by R/2; L = range_len(K), steps = L / 64. The device's limit bounds M * K. Parameters:
//   w, x, bias, residual, y, m, n, k, flags, norm [K], eps (the last two are read by the norm
//   kernels alone); flags: y is f32 (OUT_F32); the next kernel may start only when x is
//   here, so that its weights do not queue before x (LATE).
// Bytes: N*K*2 once from device memory, M*K*2 a block from L2, M*N out. Bound: memory bandwidth;
//   under some 10 MB by the latency of a dependent launch (wait, x from L2, 4 to 24 dependent mma,
//   merge).
// Order id: linear.split8 (linear_order.cuh). Warp s holds range s; weights are operand A, tokens
//   operand B (n = 8), so an output's sum sees only its own row of W and of x; ranges meet in
//   shared memory in ascending order.
#include "prelude.cuh"
#include "linear_order.cuh"
#include "norm_order.cuh"

enum Flags { OUT_F32 = 1, LATE = 2 };

constexpr int ring(bool tight) { return tight ? 4 : 6; }
constexpr int RING = ring(TIGHT);

// Shared memory: W of all warps, `slots` stages of 64 columns each; sums of 8 ranges (two buffers
// where tiles follow each other), padded against bank conflicts; x of all ranges.
constexpr int stage_bytes(int rows) { return rows * 128; }
constexpr int sums_pitch(int rows) { return rows + 4; }
constexpr int x_at(int rows, int tokens, int slots, int buffers) {
  return 8 * slots * stage_bytes(rows) + buffers * 8 * (sums_pitch(rows) * tokens) * 4;
}
constexpr int shared_bytes(int rows, int tokens, int slots, int buffers, int m, int len) {
  return x_at(rows, tokens, slots, buffers) + 8 * m * len * 2;
}
constexpr int STATIC_SHARED = 1024;                            // of the kernels with a norm, and to spare

// Tiles of ROWS rows of W, TOKENS (a multiple of 8) columns of the product, NORM runs of 8 columns
// a thread in the norm (0: none).
template <int ROWS, int TOKENS, bool SILU, bool STREAM, int NORM>
DEVICE void linear_small_m(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y,
                           int m, int n, int k, int flags, const elem* __restrict__ norm, float eps) {
  constexpr int STAGE = stage_bytes(ROWS), NT = TOKENS / 8, RT = ROWS / 16, PAD = sums_pitch(ROWS), PARTIAL = PAD * TOKENS;
  constexpr int OUT_ROWS = SILU ? ROWS / 2 : ROWS;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5;
  const int len = range_len(k), ranges = num_ranges(k), steps = len / 64, slots = STREAM ? RING : steps;
  float* partial = (float*)(shared + 8 * slots * STAGE);
  const u32 ring = shared_address(shared) + range * slots * STAGE;
  const u32 xs = shared_address(shared) + x_at(ROWS, TOKENS, slots, STREAM ? 2 : 1) + range * m * len * 2;
  const int out_n = SILU ? n / 2 : n, num_tiles = (out_n + OUT_ROWS - 1) / OUT_ROWS;
  const bool works = range < ranges;
  const int k0 = range * len;
  const bool out_f32 = flags & OUT_F32, late = flags & LATE;
  if (!late) let_next_start();

  // One stage: ROWS x 64 columns of this warp's range; 16-byte pieces, swizzled so that ldmatrix
  // meets no bank conflict. With SILU, every 8 rows of gate lie above the 8 matching rows of up:
  // rows g and g + 8 of one mma, in one thread.
  int load_tile = blockIdx.x, load_step = 0, load_slot = 0;
  auto load_stage = [&]() {
    if (works && load_tile < num_tiles) {
      const int piece = lane & 7, col = k0 + load_step * 64 + piece * 8;
#pragma unroll
      for (int i = 0; i < ROWS / 4; i++) {
        int row = i * 4 + (lane >> 3);
        int out = load_tile * OUT_ROWS + (SILU ? (row >> 4) * 8 + (row & 7) : row);
        out = out < out_n ? out : out_n - 1;
        int wrow = SILU && (row & 8) ? out_n + out : out;
        copy_async_16(ring + load_slot * STAGE + row * 128 + ((piece ^ (row & 7)) << 4), w + (u64)wrow * k + col, col < k);
      }
    }
    if (STREAM) copy_async_commit();
    if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; }
    if (++load_slot == slots) load_slot = 0;
  };
  if constexpr (STREAM) {
#pragma unroll
    for (int i = 0; i < RING - 1; i++) load_stage();
  } else {
    for (int i = 0; i < steps; i++) load_stage();
  }

  // x in shared memory: for every range and 64 columns m rows of 128 bytes, swizzled like W.
  if constexpr (NORM > 0) {
    constexpr int MINE = TOKENS / 2;                           // rows half a block takes
    __shared__ float squares[2][MINE][4];
    const int half = threadIdx.x >> 7, thread = threadIdx.x & 127;
    const u32 all = xs - range * m * len * 2;
    uint4 v[MINE][NORM], scale[NORM];
#pragma unroll
    for (int i = 0; i < NORM; i++) {
      const int col = (i * 128 + thread) * 8;
      scale[i] = col < k ? *(const uint4*)(norm + col) : make_uint4(0, 0, 0, 0);
    }
    wait_for_inputs();
#pragma unroll
    for (int r = 0; r < MINE; r++)
#pragma unroll
      for (int i = 0; i < NORM; i++) {
        const int col = (i * 128 + thread) * 8;
        v[r][i] = make_uint4(0, 0, 0, 0);
        if (2 * r + half < m && col < k) v[r][i] = load_l2(x + (u64)(2 * r + half) * k + col);
      }
#pragma unroll
    for (int r = 0; r < MINE; r++) {
      if (2 * r >= m) break;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < NORM; i++) sum = add_squares(sum, v[r][i]);
      sum = add_lanes(sum);
      if (lane == 0) squares[half][r][(threadIdx.x >> 5) & 3] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < MINE; r++) {
      const int row = 2 * r + half;
      if (row >= m) break;
      const float factor = norm_factor(squares[half][r], k, eps);
#pragma unroll
      for (int i = 0; i < NORM; i++) {
        const int piece = i * 128 + thread, part = piece * 8 / len, step = (piece * 8 - part * len) / 64;
        if (part < ranges)
          store_shared_16(all + (part * m * len * 2) + (step * m + row) * 128 + (((piece & 7) ^ (row & 7)) << 4),
                          norm_run(v[r][i], factor, scale[i]));
      }
    }
    __syncthreads();
  } else {
    wait_for_inputs();
    if (works) {
      const int piece = lane & 7;
      for (int step = 0; step < steps; step++) {
        const int col = k0 + step * 64 + piece * 8;
        for (int row = lane >> 3; row < m; row += 4)
          copy_async_16(xs + (step * m + row) * 128 + ((piece ^ (row & 7)) << 4), x + (u64)row * k + col, col < k);
      }
    }
  }
  copy_async_commit();
  // The residual of this thread's first output, asked for now: it would be the last latency of the
  // chain.
  float early = 0.0f;
  if (!STREAM && residual && threadIdx.x < OUT_ROWS * m) {
    const int out = blockIdx.x * OUT_ROWS + threadIdx.x % OUT_ROWS;
    if (out < out_n) early = elem_to_f32(load_l2_elem(residual + (u64)(threadIdx.x / OUT_ROWS) * out_n + out));
  }
  copy_async_wait<0>();
  __syncwarp();
  if (late) let_next_start();

  const int piece = lane >> 3;                                 // ldmatrix: lanes 0-7 address matrix 0, and so on
  int slot = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, buffer ^= 1) {
    float acc[RT][NT][4];
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int t = 0; t < NT; t++) acc[r][t][0] = acc[r][t][1] = acc[r][t][2] = acc[r][t][3] = 0.0f;
#pragma unroll(STREAM ? 1 : 2)
    for (int step = 0; step < steps; step++) {
      if constexpr (STREAM) {
        copy_async_wait<RING - 2>();
        __syncwarp();
        load_stage();                                          // into the slot that the step before read
      }
      if (works) {
        u32 a[RT][4][4];
        const u32 stage = ring + slot * STAGE;
#pragma unroll
        for (int r = 0; r < RT; r++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            ldmatrix_x4(a[r][c], stage + (r * 16 + (lane & 15)) * 128 + (((2 * c + (lane >> 4)) ^ (lane & 7)) << 4));
#pragma unroll
        for (int t = 0; t < NT; t++) {
          int row = t * 8 + (lane & 7);
          row = row < m ? row : m - 1;                         // unused columns of the product repeat the last token
          const u32 at = xs + (step * m + row) * 128;
          u32 b[2][4];
          ldmatrix_x4(b[0], at + ((piece ^ (row & 7)) << 4));
          ldmatrix_x4(b[1], at + (((4 + piece) ^ (row & 7)) << 4));
#pragma unroll
          for (int c = 0; c < 4; c++)
#pragma unroll
            for (int r = 0; r < RT; r++)
              mma(acc[r][t], a[r][c][0], a[r][c][1], a[r][c][2], a[r][c][3], b[c / 2][c % 2 * 2], b[c / 2][c % 2 * 2 + 1]);
        }
      }
      if (++slot == slots) slot = 0;
    }
    // Partial sums: [range][token][row of the tile], padded against bank conflicts.
    float* sums = partial + buffer * 8 * PARTIAL;
    if (works) {
#pragma unroll
      for (int r = 0; r < RT; r++)
#pragma unroll
        for (int t = 0; t < NT; t++) {
          float* at = sums + range * PARTIAL + (t * 8 + 2 * (lane & 3)) * PAD + r * 16 + (lane >> 2);
          at[0] = acc[r][t][0]; at[PAD] = acc[r][t][1];
          at[8] = acc[r][t][2]; at[PAD + 8] = acc[r][t][3];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_ROWS * m; i += 256) {
      const int token = i / OUT_ROWS, row = i % OUT_ROWS, out = tile * OUT_ROWS + row;
      if (out >= out_n) continue;
      const float* at = sums + token * PAD + (SILU ? (row >> 3) * 16 + (row & 7) : row);
      float v[8], sum = at[0];
#pragma unroll
      for (int s = 1; s < 8; s++) v[s] = s < ranges ? at[s * PARTIAL] : -0.0f;   // x + -0 is x
#pragma unroll
      for (int s = 1; s < 8; s++) sum = __fadd_rn(sum, v[s]);
      const u64 to = (u64)token * out_n + out;
      if constexpr (SILU) {
        float up = at[8];
#pragma unroll
        for (int s = 1; s < 8; s++) v[s] = s < ranges ? at[s * PARTIAL + 8] : -0.0f;
#pragma unroll
        for (int s = 1; s < 8; s++) up = __fadd_rn(up, v[s]);
        if (bias) { sum = __fadd_rn(sum, elem_to_f32(bias[out])); up = __fadd_rn(up, elem_to_f32(bias[out_n + out])); }
        sum = __fmul_rn(silu(sum), up);
      } else if (!STREAM && i < 256) {
        if (bias) sum = __fadd_rn(sum, elem_to_f32(bias[out]));
        if (residual) sum = __fadd_rn(sum, early);
      } else {
        sum = epilogue(sum, bias, residual, out, to);
      }
      if (out_f32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
  }
  copy_async_wait<0>();
}

#define SMALL_M(name, rows, tokens, silu, stream, norm_runs)                                                                  \
  extern "C" __global__ void __launch_bounds__(256, (tokens == 32) + 1)                                                                     \
      linear_small_m_##name##_t##tokens(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias,             \
                                        const elem* residual, void* y, int m, int n, int k, int flags,                        \
                                        const elem* __restrict__ norm, float eps) {                                            \
    linear_small_m<rows, tokens, silu, stream, norm_runs>(w, x, bias, residual, y, m, n, k, flags, norm, eps);                \
  }
#define ALL(name, rows, silu, stream)                                                                                         \
  SMALL_M(name, rows, 8, silu, stream, 0)                                                                                     \
  SMALL_M(name, rows, 16, silu, stream, 0)                                                                                    \
  SMALL_M(name, rows, 32, silu, stream, 0)                                                                                    \
  SMALL_M(name##_norm1, rows, 8, silu, stream, 1)                                                                             \
  SMALL_M(name##_norm4, rows, 8, silu, stream, 4)
ALL(r16, 16, false, false)
ALL(r32, 32, false, false)
ALL(r48, 48, false, false)
ALL(stream, 16, false, true)
ALL(silu_r16, 16, true, false)
ALL(silu_r32, 32, true, false)
ALL(silu_r48, 48, true, false)
ALL(silu_stream, 16, true, true)
