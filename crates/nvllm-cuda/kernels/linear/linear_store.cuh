// The end of the tensor-core kernels: fp32 sums in shared memory, one warp's own, to rows of y.
#pragma once

// Writes `tokens` rows of COLS sums (row pitch `PITCH` floats, `sums` 16-byte aligned) to y[token0
// + i, n0 + j], with bias and residual (`epilogue` of linear_order.cuh), rounded once. Rows from m
// and columns from n on are left alone. Called by a whole warp.
template <int COLS, int PITCH>
DEVICE void store_rows(const float* sums, int tokens, int token0, int n0, int m, int n, const elem* bias, const elem* residual,
                       void* y, int out_f32) {
  constexpr int RUNS = COLS / 8;                               // of 8 columns, in a row
  const bool whole = (n & 7) == 0 && !out_f32;
  for (int run = threadIdx.x & 31; run < tokens * RUNS; run += 32) {
    const int i = run / RUNS, token = token0 + i, col = n0 + run % RUNS * 8;
    if (token >= m || col >= n) continue;
    const float* at = sums + i * PITCH + run % RUNS * 8;
    const u64 to = (u64)token * n + col;
    float v[8];
    *(float4*)v = *(const float4*)at;
    *(float4*)(v + 4) = *(const float4*)(at + 4);
    if (whole) {
      if (bias) {
        uint4 b = *(const uint4*)(bias + col);
        v[0] = __fadd_rn(v[0], low(b.x)); v[1] = __fadd_rn(v[1], high(b.x)); v[2] = __fadd_rn(v[2], low(b.y)); v[3] = __fadd_rn(v[3], high(b.y));
        v[4] = __fadd_rn(v[4], low(b.z)); v[5] = __fadd_rn(v[5], high(b.z)); v[6] = __fadd_rn(v[6], low(b.w)); v[7] = __fadd_rn(v[7], high(b.w));
      }
      if (residual) {
        uint4 r = load_l2(residual + to);
        v[0] = __fadd_rn(v[0], low(r.x)); v[1] = __fadd_rn(v[1], high(r.x)); v[2] = __fadd_rn(v[2], low(r.y)); v[3] = __fadd_rn(v[3], high(r.y));
        v[4] = __fadd_rn(v[4], low(r.z)); v[5] = __fadd_rn(v[5], high(r.z)); v[6] = __fadd_rn(v[6], low(r.w)); v[7] = __fadd_rn(v[7], high(r.w));
      }
      *(uint4*)((elem*)y + to) = make_uint4(pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
    } else if (out_f32 && (n & 7) == 0 && !bias && !residual) {
      *(float4*)((float*)y + to) = *(float4*)v;
      *(float4*)((float*)y + to + 4) = *(float4*)(v + 4);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (col + j >= n) break;
        float sum = epilogue(v[j], bias, residual, col + j, to + j);
        if (out_f32) ((float*)y)[to + j] = sum; else ((elem*)y)[to + j] = elem_from_f32(sum);
      }
    }
  }
}
