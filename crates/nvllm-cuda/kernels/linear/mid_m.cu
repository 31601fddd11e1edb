// linear for some 17 to 512 rows, where 128-row tiles are too few to fill the device (sm_90 and later: clusters):
// y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or with SILU y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and
// Wu = W[N/2:].
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K and N multiples of 8 (SILU: N of 16); pointers
//   16-byte aligned. residual may be y.
// Launch: linear_mid_m / _silu: block (128), cluster (8, 1, 1) (fixed in the kernel), grid (8 * ceil(N / 64), ceil(M / 64)), dynamic
//   shared memory 65,536. The 8 blocks of a cluster hold the 8 ranges of K of one tile of 64 rows of W by 64 tokens.
// Works with programmatic dependent launch: the first weights are on their way before the wait.
// Bytes: N*K*2 a token tile (once from device memory), M*K*2 a tile of W from L2. Bound: memory bandwidth up to some 128 rows, then
//   L2 and mma.sync.
// Order id: linear.split8 (order.cuh): block s of the cluster sums range s as small_m.cu's warp s does; each block then adds an eighth
//   of the tile over the ranges, ascending, through distributed shared memory.
#include "../prelude.cuh"
#include "order.cuh"

#if __CUDA_ARCH__ >= 900
constexpr int STAGES = 4, STAGE = 128 * 128, PITCH = 68;

DEVICE float4 load_cluster(u32 at, int block) {
  u32 there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(block));
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there) : "memory");
  return v;
}
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <bool SILU>
DEVICE void linear_mid_m(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y,
                         int m, int n, int k, int out_f32) {
  extern __shared__ __align__(1024) char shared[];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, warp_n = warp & 1, warp_m = warp >> 1;
  const int range = blockIdx.x & 7, tile_n = blockIdx.x >> 3, token0 = blockIdx.y * 64;
  const int ranges = num_ranges(k), k0 = range * range_len(k), out_n = SILU ? n / 2 : n;
  const int left = (k - k0 + 63) / 64, most = range_len(k) / 64, steps = left < most ? left < 0 ? 0 : left : most;
  const u32 ring = shared_address(shared);
  let_next_start();

  const int piece = tid & 7, load_row = tid >> 3;              // 16 rows at a time
  u32 w_row[4], x_row[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = i * 16 + load_row, token = token0 + row;
    int out = SILU ? tile_n * 32 + (row >> 4) * 8 + (row & 7) : tile_n * 64 + row;
    out = out < out_n ? out : out_n - 1;
    w_row[i] = SILU && (row & 8) ? out_n + out : out;
    x_row[i] = token < m ? token : m - 1;
  }
  auto load = [&](int step, const elem* from, const u32 (&rows)[4], int half) {
    if (step >= steps) return;
    const int col = k0 + step * 64 + piece * 8;
    const u32 to = ring + step % STAGES * STAGE + half * 8192 + load_row * 128 + ((piece ^ (load_row & 7)) << 4);
#pragma unroll
    for (int i = 0; i < 4; i++) copy_async_16(to + i * 2048, from + (u64)rows[i] * k + col, col < k);
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i, w, w_row, 0);
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    load(i, x, x_row, 1);
    copy_async_commit();
  }

  float acc[2][4][4];
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f;
  const int a_row = warp_n * 32 + (lane & 15), a_piece = lane >> 4;
  const int b_row = warp_m * 32 + (lane & 7) + ((lane >> 4) << 3), b_piece = (lane >> 3) & 1;
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
  }
  copy_async_wait<0>();
  __syncthreads();
  // This range's sums: [token][row of W], over the ring.
  float* sums = (float*)shared;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float* at = sums + (warp_m * 32 + j * 8 + 2 * (lane & 3)) * PITCH + warp_n * 32 + i * 16 + (lane >> 2);
      at[0] = acc[i][j][0]; at[PITCH] = acc[i][j][1];
      at[8] = acc[i][j][2]; at[PITCH + 8] = acc[i][j][3];
    }
  cluster_sync();
  // 4 outputs a thread, next to each other in a row of y.
  const int rank = range, token = SILU ? tid : tid >> 1;
  const int row = SILU ? (rank >> 1) * 16 + (rank & 1) * 4 : rank * 8 + (tid & 1) * 4;
  const int out = SILU ? tile_n * 32 + rank * 4 : tile_n * 64 + row;
  const bool stores = token < 64 && token0 + token < m && out < out_n;
  if (stores) {
    const u32 at = ring + (token * PITCH + row) * 4;
    float4 v[8];
    auto total = [&](u32 at, float (&sum)[4]) {
#pragma unroll
      for (int s = 0; s < 8; s++) v[s] = s < ranges ? load_cluster(at, s) : make_float4(-0.0f, -0.0f, -0.0f, -0.0f);   // x + -0 is x
      sum[0] = v[0].x; sum[1] = v[0].y; sum[2] = v[0].z; sum[3] = v[0].w;
#pragma unroll
      for (int s = 1; s < 8; s++) {
        sum[0] = __fadd_rn(sum[0], v[s].x); sum[1] = __fadd_rn(sum[1], v[s].y);
        sum[2] = __fadd_rn(sum[2], v[s].z); sum[3] = __fadd_rn(sum[3], v[s].w);
      }
    };
    float sum[4];
    total(at, sum);
    const u64 to = (u64)(token0 + token) * out_n + out;
    if constexpr (SILU) {
      float up[4];
      total(at + 32, up);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (bias) { sum[j] = __fadd_rn(sum[j], elem_to_f32(bias[out + j])); up[j] = __fadd_rn(up[j], elem_to_f32(bias[out_n + out + j])); }
        sum[j] = __fmul_rn(silu(sum[j]), up[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) sum[j] = epilogue(sum[j], bias, residual, out + j, to + j);
    }
    if (out_f32) *(float4*)((float*)y + to) = make_float4(sum[0], sum[1], sum[2], sum[3]);
    else *(uint2*)((elem*)y + to) = make_uint2(pack2(sum[0], sum[1]), pack2(sum[2], sum[3]));
  }
  cluster_sync();                                              // nobody leaves while another still reads its sums
}

#define MID_M(name, silu)                                                                                                     \
  extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(128)                                                 \
      name(const elem* __restrict__ w, const elem* x, const elem* __restrict__ bias, const elem* residual, void* y, int m,   \
           int n, int k, int out_f32) {                                                                                        \
    linear_mid_m<silu>(w, x, bias, residual, y, m, n, k, out_f32);                                                             \
  }
MID_M(linear_mid_m, false)
MID_M(linear_mid_m_silu, true)
#endif
