// linear for some tens of rows on Hopper (sm_90a), for matrices with few rows (o, down): a cluster
// of 8 blocks a tile, a range of K a block, the ranges' sums exchanged through distributed shared
// memory. y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]).
//
// A tile is 64 tokens by 64 rows of W. Block r of the cluster makes the sums of range r, gives
// tokens 8d to 8d + 7 of them to block d, and adds those of all ranges for its own 8 tokens.
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K a multiple
//   of 64, N of 4; pointers 16-byte aligned; any M. residual may be y.
// Tensor maps as wgmma.cu has them, for 64 rows of W, 64 tokens and `box_steps` steps of 64 columns
//   a copy; box_steps divides ceil(K / 512), the steps of a range.
// Launch: grid (8 * ceil(N / TILE), ceil(M / TILE)), dynamic shared memory shared_bytes(steps),
//   steps those of a range.
// Bytes: W once from device memory for each 64 tokens, x from L2 for every 64 rows of W, 16 KB a
//   block through distributed shared memory. Bound: latency.
// Order id: linear.split8 (linear_order.cuh), as wgmma.cu.
#include "hopper.cuh"
#include "linear_order.cuh"

constexpr int TILE = 64, STEP = TILE * 128;                    // rows of W, and tokens; bytes of 64 columns of them
// Shared memory: the whole range of W and x; sums; a barrier a box.
constexpr int shared_bytes(int steps) { return steps * 2 * STEP + 2 * STEP + 8 * steps; }

extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(160)
    linear_cluster_split(const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map, const elem* bias,
                         const elem* residual, void* y, int m, int n, int k, int out_f32, int box_steps) {
  extern __shared__ __align__(1024) char shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, range = cluster_rank();
  const int out0 = (blockIdx.x >> 3) * TILE, token0 = blockIdx.y * TILE;
  const int range_steps = range_len(k) / 64, box_bytes = 2 * box_steps * STEP, all = range_steps / box_steps;
  const int left = k / 64 - range * range_steps, steps = left < 0 ? 0 : left < range_steps ? left : range_steps;
  const int boxes = (steps + box_steps - 1) / box_steps;
  // A box holds W, then x.
  const u32 ring = shared_address(shared), sums = ring + all * box_bytes, full = sums + 2 * STEP;
  if (threadIdx.x == 0) {
    for (int i = 0; i < all; i++) barrier_init(full + 8 * i, 1);
    barriers_made();
  }
  if (threadIdx.x == 128) { prefetch_map(&w_map); prefetch_map(&x_map); }
  __syncthreads();
  cluster_arrive();                                            // sums may be written to a block that has begun
  let_next_start();
  if (warp == 4) {                                             // producer
    if (lane == 0) {
      const int step0 = range * range_steps;
      for (int box = 0; box < boxes; box++) {                  // weights do not wait for the kernel before
        barrier_expect(full + 8 * box, box_bytes);
        load_box(ring + box * box_bytes, &w_map, out0, step0 + box * box_steps, full + 8 * box);
      }
      wait_for_inputs();
      for (int box = 0; box < boxes; box++)
        load_box(ring + box * box_bytes + box_bytes / 2, &x_map, token0, step0 + box * box_steps, full + 8 * box);
    }
    __syncwarp();
    cluster_wait();
    cluster_arrive();
    cluster_wait();
    return;
  }
  float acc[8][4];
#pragma unroll 1
  for (int box = 0; box < boxes; box++) {
    barrier_wait(full + 8 * box, 0);
    const u32 at = ring + box * box_bytes;
    wgmma_fence();
    for (int step = 0; step < box_steps; step++) {
      const u64 w_at = descriptor(at + step * STEP), x_at = descriptor(at + box_bytes / 2 + step * STEP);
#pragma unroll
      for (int c = 0; c < 4; c++) wgmma(acc, x_at + 2 * c, w_at + 2 * c, box > 0 || step > 0 || c > 0);
    }
    wgmma_commit();
  }
  // The residual of this thread's 4 outputs, asked for before the sums are here.
  const int mine = threadIdx.x >> 4, token = token0 + range * 8 + mine, col = (threadIdx.x & 15) * 4, out = out0 + col;
  const bool inside = token < m && out < n;
  const u64 to = (u64)token * n + out;
  wait_for_inputs();
  uint2 add = make_uint2(0, 0);
  if (residual && inside) add = load_l2_8(residual + to);
  wgmma_wait<0>();
  cluster_wait();
  if (steps > 0) {
    // [range][token of 8][column ^ 8 token], without bank conflicts either way.
    const int row = lane >> 2;
    const u32 at = sums + range * 2048 + row * 256;
    const u32 low_block = in_block(at, 2 * warp), high_block = in_block(at, 2 * warp + 1);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int place = 4 * ((j * 8 + 2 * (lane & 3)) ^ row * 8);
      store_there_f32x2(low_block + place, acc[j][0], acc[j][1]);
      store_there_f32x2(high_block + place, acc[j][2], acc[j][3]);
    }
  }
  cluster_arrive();
  cluster_wait();
  if (!inside) return;
  const u32 from = sums + mine * 256 + 4 * (col ^ mine * 8);
  const int ranges = num_ranges(k);
  uint4 v[8];
#pragma unroll
  for (int s = 0; s < 8; s++)
    v[s] = s < ranges ? load_shared_16(from + s * 2048) : make_uint4(1u << 31, 1u << 31, 1u << 31, 1u << 31);   // x + -0 is x
  float sum[4] = {__uint_as_float(v[0].x), __uint_as_float(v[0].y), __uint_as_float(v[0].z), __uint_as_float(v[0].w)};
#pragma unroll
  for (int s = 1; s < 8; s++) {
    sum[0] = __fadd_rn(sum[0], __uint_as_float(v[s].x)); sum[1] = __fadd_rn(sum[1], __uint_as_float(v[s].y));
    sum[2] = __fadd_rn(sum[2], __uint_as_float(v[s].z)); sum[3] = __fadd_rn(sum[3], __uint_as_float(v[s].w));
  }
  const float added[4] = {low(add.x), high(add.x), low(add.y), high(add.y)};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    if (bias) sum[j] = __fadd_rn(sum[j], elem_to_f32(bias[out + j]));
    if (residual) sum[j] = __fadd_rn(sum[j], added[j]);
  }
  if (out_f32) *(float4*)((float*)y + to) = make_float4(sum[0], sum[1], sum[2], sum[3]);
  else *(uint2*)((elem*)y + to) = make_uint2(pack2(sum[0], sum[1]), pack2(sum[2], sum[3]));
}
