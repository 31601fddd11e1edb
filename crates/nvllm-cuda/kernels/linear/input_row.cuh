// Rows of x on their way into a linear layer: their RMS norm, with the bits of rms_norm/fused.cu,
// and their codes (input_quant.cuh) in bf16, in which they are exact. A launch runs this once, so
// that fetching its instructions costs more than they do: loops are not unrolled.
#pragma once

#include "prelude.cuh"
#include "norm_order.cuh"
#include "input_quant.cuh"

// The norm of a row in the registers of 128 threads: thread i holds runs of 8 columns i, i + 128,
// .. `warps`: 4 floats of shared memory. Whole blocks call it.
template <int RUNS> DEVICE void norm_of_row(uint4 (&v)[RUNS], const uint4 (&weight)[RUNS], float* warps, int k, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < RUNS; i++)
    if (i * 1024 < k) sum = add_squares(sum, v[i]);
  sum = add_lanes(sum);
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5 & 3] = sum;
  __syncthreads();
  const float factor = norm_factor(warps, k, eps);
#pragma unroll
  for (int i = 0; i < RUNS; i++)
    if (i * 1024 < k) v[i] = norm_run(v[i], factor, weight[i]);
}

DEVICE float largest_of(u32 pair) { return fmaxf(fabsf(low(pair)), fabsf(high(pair))); }
DEVICE float largest_of(uint4 v) {
  return fmaxf(fmaxf(largest_of(v.x), largest_of(v.y)), fmaxf(largest_of(v.z), largest_of(v.w)));
}
// Of a warp. Magnitudes are ordered as their bits are.
DEVICE float largest_of_warp(float most) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most))); }

DEVICE float f16_to_f32(u32 bits) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((u16)bits)); return f; }
template <int KIND, bool USUAL> DEVICE u32 codes_of(u32 v, const InputQuant& quant) {
  if (USUAL) {
    const float first = quant.usual_quotient(low(v)), second = quant.usual_quotient(high(v));
#if __CUDA_ARCH__ >= 890
    if (KIND == INPUT_E4M3) {                                  // the same roundings in one instruction
      u16 codes;
      u32 halves;
      asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
      asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
      return pack2(f16_to_f32(halves), f16_to_f32(halves >> 16));
    }
#endif
    return pack2(nearest_code(first, KIND), nearest_code(second, KIND));
  }
  return pack2(quant.code(low(v), KIND), quant.code(high(v), KIND));
}
template <int KIND, bool USUAL> DEVICE uint4 codes_of(uint4 v, const InputQuant& quant) {
  return make_uint4(codes_of<KIND, USUAL>(v.x, quant), codes_of<KIND, USUAL>(v.y, quant), codes_of<KIND, USUAL>(v.z, quant),
                    codes_of<KIND, USUAL>(v.w, quant));
}
DEVICE uint4 codes_of(uint4 v, const InputQuant& quant, int kind) {
  if (quant.inverse == 0.0f) return kind == INPUT_I8 ? codes_of<INPUT_I8, false>(v, quant) : codes_of<INPUT_E4M3, false>(v, quant);
  return kind == INPUT_I8 ? codes_of<INPUT_I8, true>(v, quant) : codes_of<INPUT_E4M3, true>(v, quant);
}
// Codes of a run of 8 columns, where the 128 columns of 16 lanes share a scale, which it returns.
DEVICE float codes_of_group(uint4& v, int kind) {
  float most = largest_of(v);
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
  const InputQuant quant(most, 0.0f, kind);
  v = codes_of(v, quant, kind);
  return quant.scale;
}

// Codes of x in shared memory, in its place. At `xs` a warp has its columns, 256 bytes for each of
// its `steps` times m rows, row by row; `range` is which warp of the 8, `works` whether it has any.
// `largest`: [8 warps][8 rows] of shared memory; `found`: the rows' scales. Whole blocks call it.
DEVICE void codes_of_rows(u32 xs, int steps, int m, int range, bool works, int kind, float fixed, float* largest, float* found) {
  const int lane = threadIdx.x & 31;
  const u32 mine = xs + (lane & 15) * 16;
#pragma unroll 1
  for (int row = 0; row < m; row++) {
    float most = 0.0f;
#pragma unroll 1
    for (int step = lane >> 4; works && step < steps; step += 2) 
      most = fmaxf(most, largest_of(load_shared_16(mine + (step * m + row) * 256)));
    most = largest_of_warp(most);
    if (lane == 0) largest[range * 8 + row] = most;
  }
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < m; row++) {
    const InputQuant quant(largest_of_warp(largest[(lane & 7) * 8 + row]), fixed, kind);
    if (threadIdx.x == 0) found[row] = quant.scale;
#pragma unroll 1
    for (int step = lane >> 4; works && step < steps; step += 2) {
      const u32 at = mine + (step * m + row) * 256;
      store_shared_16(at, codes_of(load_shared_16(at), quant, kind));
    }
  }
  __syncwarp();
}
// The same where 128 columns of a row share a scale: that of a step and row goes to `factors`,
// `pitch` of them a step.
DEVICE void codes_of_groups(u32 xs, int steps, int m, int kind, u32 factors, int pitch) {
  const int lane = threadIdx.x & 31, lines = steps * m;
#pragma unroll 1
  for (int line = lane >> 4; line < lines + (lines & 1); line += 2) {   // both halves of a warp go on
    const u32 at = xs + line * 256 + (lane & 15) * 16;
    uint4 v = line < lines ? load_shared_16(at) : make_uint4(0, 0, 0, 0);
    const float scale = codes_of_group(v, kind);
    if (line >= lines) continue;
    store_shared_16(at, v);
    if ((lane & 15) == 0) asm volatile("st.shared.f32 [%0], %1;" :: "r"(factors + (line / m * pitch + line % m) * 4), "f"(scale) : "memory");
  }
  __syncwarp();
}
