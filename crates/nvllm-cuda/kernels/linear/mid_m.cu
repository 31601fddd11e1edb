// linear for some 17 to 128 rows, where tiles of 128 rows of W are too few to fill the device: 64 x
// 64 tiles, mma.sync, sm_80 and later. y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]),
// or with SILU y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:].
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K and N
//   multiples of 8 (SILU: N of 16); pointers 16-byte aligned. residual may be y.
// Two ways:
//   whole: linear_mid_m / linear_mid_m_silu, one block a tile: grid (ceil(N / TILE), ceil(M /
//     TILE)), dynamic shared memory SHARED. For N of some 4,096 and more.
//   split: linear_mid_m_split, one block a tile and range of K: grid (8 * ceil(N / TILE), ceil(M /
//     TILE)), dynamic shared memory SHARED, parameters (w, x, partial f32 [8, M, N], m, n, k); then
//     linear_merge or linear_merge_silu: grid (ceil(M * outputs / MERGED)), outputs = N (SILU:
//     N/2), no dynamic shared memory, parameters (partial, bias, residual, y, m, n, k, out_f32).
//     For small N and long K (o, down).
// Works with programmatic dependent launch: the first weights are on their way before the wait.
// Bytes: N*K*2 a token tile (once from device memory), M*K*2 a tile of W from L2; split: 64*M*N
//   more through L2. Bound: latency and L2.
// Order id: linear.split8 (linear_order.cuh); weights are operand A, tokens operand B as in
//   small_m.cu.
#include "prelude.cuh"
#include "linear_order.cuh"
#include "linear_store.cuh"

// A tile's rows of W, and its tokens; shared memory is a ring of stages of 64 columns of both.
constexpr int TILE = 64, STAGES = 4, STAGE = 2 * TILE * 128, SHARED = STAGES * STAGE, PITCH = 68;
constexpr int MERGED = 4 * 256;                                // outputs of a block of linear_merge

template <bool SILU, bool SPLIT>
DEVICE void linear_mid_m(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y,
                         float* partial, int m, int n, int k, int out_f32) {
  extern __shared__ __align__(1024) char shared[];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, warp_n = warp & 1, warp_m = warp >> 1;
  const int tile_n = SPLIT ? blockIdx.x >> 3 : blockIdx.x, token0 = blockIdx.y * TILE, range = SPLIT ? blockIdx.x & 7 : 0;
  const int k0 = range * range_len(k), out_n = SILU ? n / 2 : n, range_steps = range_len(k) / 64;
  const int left = k > k0 ? (k - k0 + 63) / 64 : 0, steps = SPLIT && left > range_steps ? range_steps : left;
  const u32 ring = shared_address(shared);
  let_next_start();
  if (steps == 0) return;

  const int piece = tid & 7, load_row = tid >> 3;              // 16 rows at a time
  u32 w_row[4], x_row[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = i * 16 + load_row, token = token0 + row;
    int out = SILU ? tile_n * 32 + (row >> 4) * 8 + (row & 7) : tile_n * TILE + row;
    out = out < out_n ? out : out_n - 1;
    w_row[i] = SILU && (row & 8) ? out_n + out : out;
    x_row[i] = token < m ? token : m - 1;
  }
  // Rows beyond M are zeros: reading the last row again and again would hold up all blocks at one
  // place of L2.
  auto load = [&](int step, const elem* from, const u32 (&rows)[4], int half) {
    if (step >= steps) return;
    const int col = k0 + step * 64 + piece * 8;
    const u32 to = ring + step % STAGES * STAGE + half * 8192 + load_row * 128 + ((piece ^ (load_row & 7)) << 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool inside = col < k && (half == 0 || token0 + i * 16 + load_row < m);
      copy_async_16(to + i * 2048, from + (u64)rows[i] * k + col, inside);
    }
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i, w, w_row, 0);
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    load(i, x, x_row, 1);
    copy_async_commit();
  }

  float acc[2][4][4], total[2][4][4];
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) { acc[i][j][e] = 0.0f; total[i][j][e] = -0.0f; }   // x + -0 is x
  const int a_row = warp_n * 32 + (lane & 15), a_piece = lane >> 4;
  const int b_row = warp_m * 32 + (lane & 7) + ((lane >> 4) << 3), b_piece = (lane >> 3) & 1;
  int in_range = 0;
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    load(step + STAGES - 1, w, w_row, 0);                      // into the stage that the step before read
    load(step + STAGES - 1, x, x_row, 1);
    copy_async_commit();
    const u32 ws = ring + step % STAGES * STAGE, xs = ws + 8192;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      u32 a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ldmatrix_x4(a[i], ws + (a_row + i * 16) * 128 + (((2 * c + a_piece) ^ (a_row & 7)) << 4));
        ldmatrix_x4(b[i], xs + (b_row + i * 16) * 128 + (((2 * c + b_piece) ^ (b_row & 7)) << 4));
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(acc[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
    if (!SPLIT && (++in_range == range_steps || step == steps - 1)) {
      in_range = 0;
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) { total[i][j][e] = __fadd_rn(total[i][j][e], acc[i][j][e]); acc[i][j][e] = 0.0f; }
    }
  }
  copy_async_wait<0>();
  __syncthreads();
  float* sums = (float*)shared;                                // [token][row of W or output], over the ring
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float* v = SPLIT ? acc[i][j] : total[i][j];
      float* at = sums + (warp_m * 32 + j * 8 + 2 * (lane & 3)) * PITCH + (lane >> 2);
      if constexpr (SILU) {
        float g0 = v[0], g1 = v[1], u0 = v[2], u1 = v[3];
        const int in = warp_n * 16 + i * 8, out = tile_n * 32 + in + (lane >> 2);
        if (bias && out < out_n) {
          const float bg = elem_to_f32(bias[out]), bu = elem_to_f32(bias[out_n + out]);
          g0 = __fadd_rn(g0, bg); g1 = __fadd_rn(g1, bg); u0 = __fadd_rn(u0, bu); u1 = __fadd_rn(u1, bu);
        }
        at[in] = __fmul_rn(silu(g0), u0);
        at[in + PITCH] = __fmul_rn(silu(g1), u1);
      } else {
        at += warp_n * 32 + i * 16;
        at[0] = v[0]; at[PITCH] = v[1];
        at[8] = v[2]; at[PITCH + 8] = v[3];
      }
    }
  __syncthreads();
  if constexpr (SPLIT)
    store_rows<64, PITCH>(sums + warp * 16 * PITCH, 16, token0 + warp * 16, tile_n * 64, m, n, nullptr, nullptr,
                          partial + (u64)range * m * n, 1);
  else if constexpr (SILU)
    store_rows<32, PITCH>(sums + warp * 16 * PITCH, 16, token0 + warp * 16, tile_n * 32, m, out_n, nullptr, nullptr, y, out_f32);
  else
    store_rows<64, PITCH>(sums + warp * 16 * PITCH, 16, token0 + warp * 16, tile_n * 64, m, n, bias, residual, y, out_f32);
}

template <bool SILU>
DEVICE void linear_merge(const float* partial, const elem* __restrict__ bias, const elem* residual, void* y, int m, int n, int k,
                         int out_f32) {
  let_next_start();
  wait_for_inputs();
  const int out_n = SILU ? n / 2 : n, ranges = num_ranges(k);
  const u64 i = ((u64)blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= (u64)m * out_n) return;
  const int token = i / out_n, out = i % out_n;
  auto total = [&](u64 at, float (&sum)[4]) {
    uint4 v[8];
#pragma unroll
    for (int s = 0; s < 8; s++)
      v[s] = s < ranges ? load_l2(partial + at + (u64)s * m * n) : make_uint4(1u << 31, 1u << 31, 1u << 31, 1u << 31);   // x + -0 is x
    sum[0] = __uint_as_float(v[0].x); sum[1] = __uint_as_float(v[0].y); sum[2] = __uint_as_float(v[0].z); sum[3] = __uint_as_float(v[0].w);
#pragma unroll
    for (int s = 1; s < 8; s++) {
      sum[0] = __fadd_rn(sum[0], __uint_as_float(v[s].x)); sum[1] = __fadd_rn(sum[1], __uint_as_float(v[s].y));
      sum[2] = __fadd_rn(sum[2], __uint_as_float(v[s].z)); sum[3] = __fadd_rn(sum[3], __uint_as_float(v[s].w));
    }
  };
  float sum[4], up[4];
  total((u64)token * n + out, sum);
  if constexpr (SILU) {
    total((u64)token * n + out_n + out, up);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (bias) { sum[j] = __fadd_rn(sum[j], elem_to_f32(bias[out + j])); up[j] = __fadd_rn(up[j], elem_to_f32(bias[out_n + out + j])); }
      sum[j] = __fmul_rn(silu(sum[j]), up[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] = epilogue(sum[j], bias, residual, out + j, i + j);
  }
  if (out_f32) *(float4*)((float*)y + i) = make_float4(sum[0], sum[1], sum[2], sum[3]);
  else *(uint2*)((elem*)y + i) = make_uint2(pack2(sum[0], sum[1]), pack2(sum[2], sum[3]));
}

#define MID_M(name, silu)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(128)                                                                           \
      name(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y, int m,   \
           int n, int k, int out_f32) {                                                                                        \
    linear_mid_m<silu, false>(w, x, bias, residual, y, nullptr, m, n, k, out_f32);                                             \
  }
MID_M(linear_mid_m, false)
MID_M(linear_mid_m_silu, true)
extern "C" __global__ void __launch_bounds__(128)
    linear_mid_m_split(const elem* __restrict__ w, const elem* x, float* partial, int m, int n, int k) {
  linear_mid_m<false, true>(w, x, nullptr, nullptr, nullptr, partial, m, n, k, 0);
}
#define MERGE(name, silu)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      name(const float* partial, const elem* __restrict__ bias, const elem* residual, void* y, int m, int n, int k,          \
           int out_f32) {                                                                                                      \
    linear_merge<silu>(partial, bias, residual, y, m, n, k, out_f32);                                                          \
  }
MERGE(linear_merge, false)
MERGE(linear_merge_silu, true)
