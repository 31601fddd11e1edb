// One head's RMS norm and rotation by 16 lanes. Order id `norm.half_warp`: lane i of 16 adds the squares of columns D/32 i.. and
// D/2 + D/32 i.., in turns, then lanes meet by exchanges at distance 8, 4, 2, 1. A head's result depends on that head alone.
#pragma once

// What one lane of 16 holds of a head: columns col.. in `a` and D/2 + col.. in `b`, where col = D/32 times the lane.
template <int D> struct HeadPart {
  static constexpr int PAIRS = D / 32, WORDS = D / 64;
  u32 a[WORDS], b[WORDS];
  // Reads it from a row's head at `from`.
  DEVICE_MEMBER void load(const elem* from, int col) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) { a[i] = load_l2_u32(from + col + 2 * i); b[i] = load_l2_u32(from + D / 2 + col + 2 * i); }
  }
  // Writes it to global memory.
  DEVICE_MEMBER void store(elem* to, int col) const {
#pragma unroll
    for (int i = 0; i < WORDS; i++) { *(u32*)(to + col + 2 * i) = a[i]; *(u32*)(to + D / 2 + col + 2 * i) = b[i]; }
  }
};

// cos and sin of the lane's pairs at one position.
template <int D> struct Turn {
  float at[D / 16];
  DEVICE_MEMBER void load(const float* rotation, int position, int col) {
    const float* from = rotation + ((u64)position * (D / 2) + col) * 2;
#pragma unroll
    for (int i = 0; i < D / 64; i++) *(float4*)(at + 4 * i) = *(const float4*)(from + 4 * i);
  }
};

// y = x / sqrt(mean(x^2) + eps) * norm (left out where norm is null), then rotated; fp32 within, rounded once. Called by whole warps.
template <int D> DEVICE void norm_and_turn(HeadPart<D>& part, const elem* norm, const Turn<D>& turn, int col, float eps) {
  constexpr int PAIRS = HeadPart<D>::PAIRS, WORDS = HeadPart<D>::WORDS;
  float x[PAIRS], y[PAIRS], sum = 0.0f;
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    x[2 * i] = low(part.a[i]); x[2 * i + 1] = high(part.a[i]);
    y[2 * i] = low(part.b[i]); y[2 * i + 1] = high(part.b[i]);
  }
#pragma unroll
  for (int i = 0; i < PAIRS; i++) sum = __fmaf_rn(y[i], y[i], __fmaf_rn(x[i], x[i], sum));
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
  if (norm) {
    const float factor = __frsqrt_rn(__fmaf_rn(sum, 1.0f / D, eps));
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      x[i] = __fmul_rn(__fmul_rn(x[i], factor), elem_to_f32(norm[col + i]));
      y[i] = __fmul_rn(__fmul_rn(y[i], factor), elem_to_f32(norm[col + i + D / 2]));
    }
  }
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    const float cosine = turn.at[2 * i], sine = turn.at[2 * i + 1];
    const float p = __fmaf_rn(-y[i], sine, __fmul_rn(x[i], cosine)), q = __fmaf_rn(x[i], sine, __fmul_rn(y[i], cosine));
    x[i] = p;
    y[i] = q;
  }
#pragma unroll
  for (int i = 0; i < WORDS; i++) { part.a[i] = pack2(x[2 * i], x[2 * i + 1]); part.b[i] = pack2(y[2 * i], y[2 * i + 1]); }
}
