// linear for few rows: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or with SILU the gated product
// y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:].
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K a multiple of 8; pointers 16-byte aligned;
//   M at most 8 (.._t8), 16 (.._t16) or 32 (.._t32); N any (even, and N/2 a multiple of 8, with SILU). residual may be y.
// Launch: block (256). grid (g), 1 <= g <= number of tiles: N/8 tiles rounded up for .._r8.. and .._silu.. (N/16 there), N/16 for
//   .._r16..; a block takes every g-th tile. Dynamic shared memory: 6144 * rows (8 or 16; SILU 16) + 1280 * tokens (8, 16, 32)
//   + ranges * M * L * 2 bytes, L = 64 * ceil(K/512), ranges = ceil(K/L): the device's limit bounds M * K.
//   Small N (1,024): .._r8, one tile a block. Large N: .._r16, as many blocks as fit the device at once.
// Works with programmatic dependent launch: weights are on their way before the wait for x and residual.
// Bytes: N*K*2 once from device memory, M*K*2 a block from L2, M*N out. Bound: memory bandwidth; a matrix under about 8 MB by the
//   latency of one launch.
// Order id: linear.split8 (order.cuh). Warp s holds range s; weights are operand A (16 rows, or 8 and 8 unused), tokens operand
//   B (n = 8), so an output's sum sees only its own row of W and of x; ranges meet in shared memory in ascending order.
#include "../prelude.cuh"
#include "order.cuh"

constexpr int STAGES = 6;      // of 64 columns, per warp
constexpr int STAGE_K = 64;

// ROWS of W a tile (8 or 16), TOKENS a multiple of 8. With SILU, ROWS is 16: 8 rows of gate above the 8 matching rows of up.
template <int ROWS, int TOKENS, bool SILU>
DEVICE void linear_small_m(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y,
                           int m, int n, int k, int out_f32) {
  constexpr int STAGE = ROWS * 128, TILES = TOKENS / 8, PAD = 20, PARTIAL = PAD * TOKENS;
  constexpr int OUT_ROWS = SILU ? 8 : ROWS;
  extern __shared__ __align__(1024) char shared[];
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5;
  const int len = range_len(k), ranges = num_ranges(k), steps = len / STAGE_K;
  // Shared memory: rings of all warps, partial sums (two buffers of 8 ranges), x of all ranges.
  float* partial = (float*)(shared + 8 * STAGES * STAGE);
  const u32 ring = shared_address(shared) + range * STAGES * STAGE;
  const u32 xs = shared_address(shared) + 8 * STAGES * STAGE + 2 * 8 * PARTIAL * 4 + range * m * len * 2;
  const int out_n = SILU ? n / 2 : n, num_tiles = (out_n + OUT_ROWS - 1) / OUT_ROWS;
  const bool works = range < ranges;
  const int k0 = range * len;
  let_next_start();

  // One stage: ROWS x 64 columns of this warp's range; 16-byte pieces, swizzled so that ldmatrix meets no bank conflict.
  int load_tile = blockIdx.x, load_step = 0, load_slot = 0;
  auto load_stage = [&]() {
    if (works && load_tile < num_tiles) {
#pragma unroll
      for (int i = 0; i < ROWS / 4; i++) {
        int row = i * 4 + (lane >> 3), piece = lane & 7;
        int out = load_tile * OUT_ROWS + (SILU ? (row & 7) : row);
        out = out < out_n ? out : out_n - 1;
        int wrow = SILU && row >= 8 ? out_n + out : out;
        int col = k0 + load_step * STAGE_K + piece * 8;
        copy_async_16(ring + load_slot * STAGE + row * 128 + ((piece ^ (row & 7)) << 4), w + (u64)wrow * k + col, col < k);
      }
    }
    copy_async_commit();
    if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; }
    if (++load_slot == STAGES) load_slot = 0;
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load_stage();

  wait_for_inputs();
  if (works) {   // x: 64 columns a block of m rows of 128 bytes, swizzled alike
    int pieces = m * (len / 8);
    for (int i = lane; i < pieces; i += 32) {
      int row = i / (len / 8), piece = i % (len / 8), col = k0 + piece * 8;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (col < k) v = load_l2(x + (u64)row * k + col);
      store_shared_16(xs + (piece >> 3) * m * 128 + row * 128 + (((piece & 7) ^ (row & 7)) << 4), v);
    }
  }
  __syncwarp();

  const int b_row = lane & 7, b_piece = lane >> 3;             // ldmatrix: lanes 0-7 address matrix 0, and so on
  int slot = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, buffer ^= 1) {
    float acc[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0f;
    for (int step = 0; step < steps; step++) {
      copy_async_wait<STAGES - 2>();
      __syncwarp();
      load_stage();                                            // into the slot that the step before read
      if (works) {
        u32 a[4][4];
        const u32 stage = ring + slot * STAGE;
        if constexpr (ROWS == 16) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            int row = lane & 15, piece = 2 * c + (lane >> 4);
            ldmatrix_x4(a[c], stage + row * 128 + ((piece ^ (row & 7)) << 4));
          }
        } else {
#pragma unroll
          for (int c = 0; c < 4; c += 2) {
            u32 r[4];
            int row = lane & 7, piece = 2 * c + (lane >> 3);
            ldmatrix_x4(r, stage + row * 128 + ((piece ^ row) << 4));
            a[c][0] = r[0]; a[c][1] = 0; a[c][2] = r[1]; a[c][3] = 0;
            a[c + 1][0] = r[2]; a[c + 1][1] = 0; a[c + 1][2] = r[3]; a[c + 1][3] = 0;
          }
        }
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          int row = t * 8 + b_row;
          row = row < m ? row : m - 1;                         // unused columns of the product repeat the last token
          const u32 at = xs + step * m * 128 + row * 128;
          u32 b01[4], b23[4];
          ldmatrix_x4(b01, at + ((b_piece ^ (row & 7)) << 4));
          ldmatrix_x4(b23, at + (((4 + b_piece) ^ (row & 7)) << 4));
          mma(acc[t], a[0][0], a[0][1], a[0][2], a[0][3], b01[0], b01[1]);
          mma(acc[t], a[1][0], a[1][1], a[1][2], a[1][3], b01[2], b01[3]);
          mma(acc[t], a[2][0], a[2][1], a[2][2], a[2][3], b23[0], b23[1]);
          mma(acc[t], a[3][0], a[3][1], a[3][2], a[3][3], b23[2], b23[3]);
        }
      }
      if (++slot == STAGES) slot = 0;
    }
    // Partial sums: [range][token][row], rows padded against bank conflicts.
    float* sums = partial + buffer * 8 * PARTIAL;
    if (works) {
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        float* at = sums + range * PARTIAL + (t * 8 + 2 * (lane & 3)) * PAD + (lane >> 2);
        at[0] = acc[t][0]; at[PAD] = acc[t][1];
        if (ROWS == 16) { at[8] = acc[t][2]; at[PAD + 8] = acc[t][3]; }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_ROWS * m; i += 256) {
      int token = i / OUT_ROWS, row = i % OUT_ROWS, out = tile * OUT_ROWS + row;
      if (out >= out_n) continue;
      const float* at = sums + token * PAD + row;
      float sum = at[0];
      for (int s = 1; s < ranges; s++) sum = __fadd_rn(sum, at[s * PARTIAL]);
      u64 to = (u64)token * out_n + out;
      if constexpr (SILU) {
        float up = at[8];
        for (int s = 1; s < ranges; s++) up = __fadd_rn(up, at[s * PARTIAL + 8]);
        if (bias) { sum = __fadd_rn(sum, elem_to_f32(bias[out])); up = __fadd_rn(up, elem_to_f32(bias[out_n + out])); }
        sum = __fmul_rn(silu(sum), up);
      } else {
        sum = epilogue(sum, bias, residual, out, to);
      }
      if (out_f32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
  }
  copy_async_wait<0>();
}

#define SMALL_M(name, rows, tokens, silu)                                                                                     \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      name(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y, int m,   \
           int n, int k, int out_f32) {                                                                                        \
    linear_small_m<rows, tokens, silu>(w, x, bias, residual, y, m, n, k, out_f32);                                             \
  }
SMALL_M(linear_small_m_r8_t8, 8, 8, false)
SMALL_M(linear_small_m_r8_t16, 8, 16, false)
SMALL_M(linear_small_m_r8_t32, 8, 32, false)
SMALL_M(linear_small_m_r16_t8, 16, 8, false)
SMALL_M(linear_small_m_r16_t16, 16, 16, false)
SMALL_M(linear_small_m_r16_t32, 16, 32, false)
SMALL_M(linear_small_m_silu_t8, 16, 8, true)
SMALL_M(linear_small_m_silu_t16, 16, 16, true)
SMALL_M(linear_small_m_silu_t32, 16, 32, true)
