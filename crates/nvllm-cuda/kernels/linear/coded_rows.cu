// The input of a linear layer as its coded weight sees it, of whole rows: quantised
// (input_quant.cuh), after its RMS norm where that comes before the layer. coded_input.cu takes
// what this does not.
//
// Layout: x, y [rows, k], norm [k] or null, 16-bit elements, 16-byte aligned; k a multiple of 8, at
//   most 16,384. y: codes, exact in bf16; scales f32 [rows], or [rows, ceil(k / 128)] where
//   `grouped`: 128 columns share one.
// Launch: linear_coded_rows_1024, _4096, _16384 (the largest k each takes): grid (rows), no dynamic
//   shared memory. kind: InputKind; fixed: the scale, 0 for that of the row.
// Bytes: 4 k a row. Bound: memory bandwidth; for few rows the latency of a launch.
// Order id: norm.block128 (norm_order.cuh).
#include "prelude.cuh"
#include "input_row.cuh"

template <int RUNS>
DEVICE void coded_row(const elem* x, const elem* __restrict__ norm, float eps, int kind, float fixed, int grouped, elem* y,
                      float* scales, int k) {
  __shared__ float warps[2][4];
  __shared__ uint4 stage[RUNS * 128];                          // a thread's runs, so that one piece of code makes codes of all
  const u64 row = (u64)blockIdx.x * k;
  uint4 v[RUNS], weight[RUNS];
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    weight[i] = norm && col < k ? *(const uint4*)(norm + col) : make_uint4(0, 0, 0, 0);
  }
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + threadIdx.x) * 8;
    v[i] = col < k ? load_l2(x + row + col) : make_uint4(0, 0, 0, 0);
  }
  if (norm) norm_of_row(v, weight, warps[0], k, eps);
  float most = 0.0f;
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    if (i * 1024 < k && !grouped) most = fmaxf(most, largest_of(v[i]));
    stage[i * 128 + threadIdx.x] = v[i];
  }
  if (!grouped) {
    most = largest_of_warp(most);
    if ((threadIdx.x & 31) == 0) warps[1][threadIdx.x >> 5] = most;
    __syncthreads();
    most = fmaxf(fmaxf(warps[1][0], warps[1][1]), fmaxf(warps[1][2], warps[1][3]));
  }
  const InputQuant quant(most, fixed, kind);
  if (!grouped && threadIdx.x == 0) scales[blockIdx.x] = quant.scale;
#pragma unroll 1
  for (int base = 0; base < k; base += 1024) {
    const int col = base + threadIdx.x * 8;
    uint4 run = stage[col / 8];
    if (grouped) {
      const float scale = codes_of_group(run, kind);
      if (col < k && threadIdx.x % 16 == 0) scales[(u64)blockIdx.x * ((k + 127) / 128) + col / 128] = scale;
    } else {
      run = codes_of(run, quant, kind);
    }
    if (col < k) *(uint4*)(y + row + col) = run;
  }
}

#define CODED_ROWS(most, runs)                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                           \
      linear_coded_rows_##most(const elem* x, const elem* __restrict__ norm, float eps, int kind, float fixed, int grouped,   \
                               elem* y, float* scales, int k) {                                                                \
    let_next_start();                                                                                                          \
    coded_row<runs>(x, norm, eps, kind, fixed, grouped, y, scales, k);                                                         \
  }
CODED_ROWS(1024, 1)
CODED_ROWS(4096, 4)
CODED_ROWS(16384, 16)
