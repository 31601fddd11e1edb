// linear for many rows: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or with SILU
// y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. mma.sync and cp.async:
// sm_80 and later.
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K a multiple
//   of 8; pointers 16-byte aligned; M and N any (N even with SILU; N a multiple of 8 for 16-byte
//   stores). residual may be y.
// Launch: grid (g), 1 <= g <= tiles = ceil(M / tokens) * ceil(N / TILE_ROWS), best the number of
//   multiprocessors (SILU: ceil(N / TILE_ROWS) counts gate and up rows together); .._t128 takes 128
//   tokens a tile, .._t64 64. Dynamic shared memory: shared_bytes(tokens, TIGHT).
// Bytes: each block reads 128 rows of W and `tokens` rows of x a tile from L2. Bound: tensor cores
//   (mma.sync), then L2.
// Order id: linear.split8 (linear_order.cuh). Weights are operand A, tokens B, as in small_m.cu; a
//   second set of accumulators takes each range's sum as it ends.
#include "prelude.cuh"
#include "linear_order.cuh"
#include "linear_store.cuh"

constexpr int TILE_ROWS = 128, PITCH = 68;
constexpr int stages(bool tight) { return tight ? 2 : 4; }
constexpr int STAGES = stages(TIGHT);

// Shared memory: stages of 64 columns of W and x, then staging rows of 8 warps.
constexpr int stage_bytes(int tokens) { return (TILE_ROWS + tokens) * 128; }
constexpr int shared_bytes(int tokens, bool tight) { return stages(tight) * stage_bytes(tokens) + 8 * 16 * PITCH * 4; }

template <int TOKENS, bool SILU>
DEVICE void linear_tensor_core(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual,
                               void* y, int m, int n, int k, int out_f32) {
  constexpr int STAGE = stage_bytes(TOKENS), WARP_TOKENS = TOKENS / 4, NT = WARP_TOKENS / 8;
  extern __shared__ __align__(1024) char shared[];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, warp_n = warp & 1, warp_m = warp >> 1;
  const u32 ring = shared_address(shared);
  float* staging = (float*)(shared + STAGES * STAGE) + warp * 16 * PITCH;
  const int out_n = SILU ? n / 2 : n, tile_n = SILU ? TILE_ROWS / 2 : TILE_ROWS;
  const int tiles_n = (out_n + tile_n - 1) / tile_n, tiles_m = (m + TOKENS - 1) / TOKENS, num_tiles = tiles_n * tiles_m;
  const int steps = (k + 63) / 64, range_steps = range_len(k) / 64;
  let_next_start();
  wait_for_inputs();

  // Tiles go down 8 token tiles before the next weight tile, so that blocks at work share rows in
  // L2.
  auto place = [&](int tile, int& tm, int& tn) {
    int per_band = 8 * tiles_n, band = tile / per_band, in = tile % per_band;
    int height = tiles_m - band * 8 < 8 ? tiles_m - band * 8 : 8;
    tm = band * 8 + in % height;
    tn = in / height;
  };
  int load_tile = blockIdx.x, load_step = 0, load_slot = 0;
  const int piece = tid & 7, load_row = tid >> 3;              // 32 rows at a time
  u32 w_row[4], x_row[TOKENS / 32];                            // rows this thread loads in the tile being loaded
  auto aim = [&]() {
    int tm, tn;
    place(load_tile, tm, tn);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = i * 32 + load_row, out = SILU ? tn * 64 + (row >> 4) * 8 + (row & 7) : tn * 128 + row;
      out = out < out_n ? out : out_n - 1;
      w_row[i] = SILU && (row & 8) ? out_n + out : out;
    }
#pragma unroll
    for (int i = 0; i < TOKENS / 32; i++) {
      int row = tm * TOKENS + i * 32 + load_row;
      x_row[i] = row < m ? row : ~0u;                          // zeros
    }
  };
  auto load_stage = [&]() {
    if (load_tile < num_tiles) {
      if (load_step == 0) aim();
      const int col = load_step * 64 + piece * 8;
      const bool inside = col < k;
      const u32 to = ring + load_slot * STAGE + load_row * 128 + ((piece ^ (load_row & 7)) << 4);
#pragma unroll
      for (int i = 0; i < 4; i++) copy_async_16(to + i * 4096, w + (u64)w_row[i] * k + col, inside);
#pragma unroll
      for (int i = 0; i < TOKENS / 32; i++) {
        const bool row = x_row[i] != ~0u;
        copy_async_16(to + (4 + i) * 4096, x + (row ? (u64)x_row[i] * k + col : 0), inside && row);
      }
    }
    copy_async_commit();
    if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; }
    if (++load_slot == STAGES) load_slot = 0;
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load_stage();

  int slot = 0;
  const int a_row = warp_n * 64 + (lane & 15), a_piece = lane >> 4;
  const int b_row = warp_m * WARP_TOKENS + (lane & 7) + ((lane >> 4) << 3), b_piece = (lane >> 3) & 1;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    float acc[4][NT][4], total[4][NT][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < NT; j++) total[i][j][0] = total[i][j][1] = total[i][j][2] = total[i][j][3] = -0.0f;   // x + -0 is x
    int in_range = 0;
    for (int step = 0; step < steps; step++) {
      copy_async_wait<STAGES - 2>();
      __syncthreads();
      load_stage();
      if (in_range == 0) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < NT; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f;
      }
      const u32 ws = ring + slot * STAGE, xs = ws + 128 * 128;
      u32 a[2][4][4], b[2][NT / 2][4];
      auto fragments = [&](int c, u32 (&a)[4][4], u32 (&b)[NT / 2][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) ldmatrix_x4(a[i], ws + (a_row + i * 16) * 128 + (((2 * c + a_piece) ^ (a_row & 7)) << 4));
#pragma unroll
        for (int j = 0; j < NT / 2; j++) ldmatrix_x4(b[j], xs + (b_row + j * 16) * 128 + (((2 * c + b_piece) ^ (b_row & 7)) << 4));
      };
      fragments(0, a[0], b[0]);
#pragma unroll
      for (int c = 0; c < 4; c++) {
        if (c < 3) fragments(c + 1, a[(c + 1) & 1], b[(c + 1) & 1]);
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            u32(&f)[4] = a[c & 1][i];
            mma(acc[i][j], f[0], f[1], f[2], f[3], b[c & 1][j / 2][j % 2 * 2], b[c & 1][j / 2][j % 2 * 2 + 1]);
          }
      }
      if (++slot == STAGES) slot = 0;
      if (++in_range == range_steps || step == steps - 1) {
        in_range = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) total[i][j][e] = __fadd_rn(total[i][j][e], acc[i][j][e]);
      }
    }
    int tm, tn;
    place(tile, tm, tn);
    // 16 tokens at a time through this warp's staging rows: [token][row of W].
#pragma unroll
    for (int j = 0; j < NT; j += 2) {
      __syncwarp();
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* v = total[i][j + h];
          float* at = staging + (h * 8 + 2 * (lane & 3)) * PITCH + (lane >> 2);
          if constexpr (SILU) {
            float g0 = v[0], g1 = v[1], u0 = v[2], u1 = v[3];
            int out = tn * 64 + warp_n * 32 + i * 8 + (lane >> 2);
            if (bias && out < out_n) {
              float bg = elem_to_f32(bias[out]), bu = elem_to_f32(bias[out_n + out]);
              g0 = __fadd_rn(g0, bg); g1 = __fadd_rn(g1, bg); u0 = __fadd_rn(u0, bu); u1 = __fadd_rn(u1, bu);
            }
            at[i * 8] = __fmul_rn(silu(g0), u0);
            at[i * 8 + PITCH] = __fmul_rn(silu(g1), u1);
          } else {
            at[i * 16] = v[0]; at[i * 16 + PITCH] = v[1];
            at[i * 16 + 8] = v[2]; at[i * 16 + 8 + PITCH] = v[3];
          }
        }
      __syncwarp();
      const int token0 = tm * TOKENS + warp_m * WARP_TOKENS + j * 8;
      if constexpr (SILU)
        store_rows<32, PITCH>(staging, 16, token0, tn * 64 + warp_n * 32, m, out_n, nullptr, nullptr, y, out_f32);
      else
        store_rows<64, PITCH>(staging, 16, token0, tn * 128 + warp_n * 64, m, n, bias, residual, y, out_f32);
    }
  }
  copy_async_wait<0>();
}

#define TENSOR_CORE(name, tokens, silu)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256, 1)                                                                        \
      name(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y, int m,   \
           int n, int k, int out_f32) {                                                                                        \
    linear_tensor_core<tokens, silu>(w, x, bias, residual, y, m, n, k, out_f32);                                               \
  }
TENSOR_CORE(linear_tensor_core_t64, 64, false)
TENSOR_CORE(linear_tensor_core_t128, 128, false)
TENSOR_CORE(linear_tensor_core_silu_t64, 64, true)
TENSOR_CORE(linear_tensor_core_silu_t128, 128, true)
