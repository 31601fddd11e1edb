// rms_norm, alone or after an add: y = h / sqrt(mean(h^2) + eps) * w, where h = x, or h = x + r rounded to 16 bits and stored.
//
// Layout: x, r, h, y [rows, n], w [n], 16-bit elements, 16-byte aligned; n a multiple of 8, at most 16,384. r and h null: no add. h may
//   be x or r.
// Launch: rms_norm_1024, _4096, _16384 (the largest n each takes; all one order): block (128), grid (rows), no dynamic shared memory. One block a row, read once, kept in registers.
// Bytes: 4 n a row (with the add 8 n) and w. Bound: memory bandwidth; for few rows the latency of a launch.
// Order id: norm.block128: thread i adds the squares of the runs of 8 columns i, i + 128, ... in ascending order, lanes meet by
//   exchanges at distance 16, 8, 4, 2, 1, the four warps in ascending order. A function of n alone.
#include "../prelude.cuh"

// RUNS of 8 columns a thread.
template <int RUNS>
DEVICE void norm_row(const elem* x, const elem* r, elem* h, const elem* __restrict__ w, elem* y, int n, float eps) {
  __shared__ float warps[4];
  const u64 row = (u64)blockIdx.x * n;
  uint4 v[RUNS], add[RUNS], weights[RUNS];
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    weights[i] = v[i] = add[i] = make_uint4(0, 0, 0, 0);
    if (col < n) weights[i] = *(const uint4*)(w + col);
  }
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    if (col < n) {
      v[i] = load_l2(x + row + col);
      if (r) add[i] = load_l2(r + row + col);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    if (r && col < n) {
      v[i] = make_uint4(pack2(low(v[i].x) + low(add[i].x), high(v[i].x) + high(add[i].x)),
                        pack2(low(v[i].y) + low(add[i].y), high(v[i].y) + high(add[i].y)),
                        pack2(low(v[i].z) + low(add[i].z), high(v[i].z) + high(add[i].z)),
                        pack2(low(v[i].w) + low(add[i].w), high(v[i].w) + high(add[i].w)));
      *(uint4*)(h + row + col) = v[i];
    }
    const u32 part[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      sum = __fmaf_rn(low(part[j]), low(part[j]), sum);
      sum = __fmaf_rn(high(part[j]), high(part[j]), sum);
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
  __syncthreads();
  sum = __fadd_rn(__fadd_rn(__fadd_rn(warps[0], warps[1]), warps[2]), warps[3]);
  const float factor = __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, (float)n), eps));
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    if (col >= n) break;
    const u32 part[4] = {v[i].x, v[i].y, v[i].z, v[i].w}, scale[4] = {weights[i].x, weights[i].y, weights[i].z, weights[i].w};
    u32 out[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
      out[j] = pack2(__fmul_rn(__fmul_rn(low(part[j]), factor), low(scale[j])), __fmul_rn(__fmul_rn(high(part[j]), factor), high(scale[j])));
    *(uint4*)(y + row + col) = make_uint4(out[0], out[1], out[2], out[3]);
  }
}

#define RMS_NORM(most, runs)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128)                                                                           \
      rms_norm_##most(const elem* x, const elem* r, elem* h, const elem* __restrict__ w, elem* y, int n, float eps) {          \
    let_next_start();                                                                                                          \
    norm_row<runs>(x, r, h, w, y, n, eps);                                                                                     \
  }
RMS_NORM(1024, 1)
RMS_NORM(4096, 4)
RMS_NORM(16384, 16)
