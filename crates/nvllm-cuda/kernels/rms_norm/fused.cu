// rms_norm, alone or after an add: y = h / sqrt(mean(h^2) + eps) * w, where h = x, or h = x + r
// rounded to 16 bits and stored.
//
// Layout: x, r, h, y [rows, n], w [n], 16-bit elements, 16-byte aligned; n a multiple of 8, at most
//   16,384. r and h null: no add. h may be x or r.
// Launch: rms_norm_1024, _4096, _16384 (the largest n each takes; all one order): grid (rows), no
//   dynamic shared memory. One block a row, read once, kept in registers.
// Bytes: 4 n a row (with the add 8 n) and w. Bound: memory bandwidth; for few rows the latency of a
//   launch.
// Order id: norm.block128 (norm_order.cuh).
#include "prelude.cuh"
#include "norm_order.cuh"

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
    sum = add_squares(sum, v[i]);
  }
  sum = add_lanes(sum);
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
  __syncthreads();
  const float factor = norm_factor(warps, n, eps);
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    if (col < n) *(uint4*)(y + row + col) = norm_run(v[i], factor, weights[i]);
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
