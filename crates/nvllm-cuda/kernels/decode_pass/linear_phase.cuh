// A linear layer as a phase: y = x W^T with bias, residual or SILU as linear/small_m.cu has them,
// of few rows, and in its order (linear.split8: warp s holds range s). Norms of x are made by every
// block for itself (norm.block128).
#pragma once

#include "packet.cuh"
#include "weight_ring.cuh"
#include "linear_order.cuh"
#include "norm_order.cuh"

// Partial sums of up to 4 tiles, in two buffers by turns: [tile][range][row of x][16, padded
// against bank conflicts].
constexpr int TILES = 4, SUMS_PITCH = 20, SUMS_BYTES = TILES * 8 * MOST_ROWS * SUMS_PITCH * 4;

// The tags of a launch: those of its phases follow each other.
struct Tags {
  u32 base;
  DEVICE_MEMBER u32 of(int phase) const { return base + phase; }
};

// Row of x that row `row` of the phase reads.
DEVICE int source_row(const Phase& in, const int* outputs, int row) {
  return in.flags & PHASE_GATHER ? load_l2_i32(outputs + row * OUTPUT_WORDS) : row;
}

// A run of 8 columns of x from element `at` on: asked for, then waited for.
struct Run {
  ulonglong2 v[2];
  DEVICE_MEMBER void ask(const Phase& in, int at) {
    if (in.x_tag == NO_TAG) {
      const uint4 plain = load_l2(in.x + (u64)(u32)at * 2);
      v[0].x = (u64)plain.y << 32 | plain.x;
      v[0].y = (u64)plain.w << 32 | plain.z;
    } else {
      v[0] = load_packets(in.x + (u64)(u32)at * 4);
      v[1] = load_packets(in.x + (u64)(u32)at * 4 + 16);
    }
  }
  DEVICE_MEMBER uint4 wait(const Phase& in, Tags tags, int at) {
    if (in.x_tag == NO_TAG) return make_uint4((u32)v[0].x, (u32)(v[0].x >> 32), (u32)v[0].y, (u32)(v[0].y >> 32));
    const Watchdog watchdog;
    while (!has_tag(v[0], tags.of(in.x_tag)) || !has_tag(v[1], tags.of(in.x_tag))) {
      watchdog.check();
      ask(in, at);
    }
    return make_uint4((u32)v[0].x, (u32)v[0].y, (u32)v[1].x, (u32)v[1].y);
  }
};

// x in shared memory: for every range and 64 columns m rows of 128 bytes, swizzled for ldmatrix.
// Each warp takes its own range, at `xs`.
DEVICE void load_rows(const Phase& in, const int* outputs, Tags tags, u32 xs, int m, int len) {
  const int lane = threadIdx.x & 31, k0 = (threadIdx.x >> 5) * len, pieces = m * (len / 8);
  for (int base = lane; base < pieces; base += 64) {
    Run runs[2];
    int at[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int i = base + j * 32, line = i >> 3, row = m == 2 ? line & 1 : 0, col = k0 + (line >> (m - 1)) * 64 + (i & 7) * 8;
      at[j] = i < pieces && col < in.k ? source_row(in, outputs, row) * in.k + col : -1;
      if (at[j] >= 0) runs[j].ask(in, at[j]);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int i = base + j * 32, line = i >> 3, row = m == 2 ? line & 1 : 0;
      const uint4 v = at[j] >= 0 ? runs[j].wait(in, tags, at[j]) : make_uint4(0, 0, 0, 0);
      if (i < pieces) store_shared_16(xs + line * 128 + (((i & 7) ^ row) << 4), v);
    }
  }
  __syncwarp();
}

// The same of the rows' norms; `all`: x of range 0. Half a block takes a row, a thread RUNS runs of
// 8 columns of it.
template <int RUNS>
DEVICE void norm_rows(const Phase& in, const int* outputs, Tags tags, u32 all, int m, int len) {
  __shared__ float squares[MOST_ROWS][4];
  const int row = threadIdx.x >> 7, thread = threadIdx.x & 127;
  uint4 v[RUNS], scale[RUNS];
  Run runs[RUNS];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < RUNS; i++) {
    const int col = (i * 128 + thread) * 8;
    scale[i] = col < in.k ? *(const uint4*)(in.norm + col) : make_uint4(0, 0, 0, 0);
  }
  if (row < m) {
    const int at = source_row(in, outputs, row) * in.k + thread * 8;
#pragma unroll
    for (int i = 0; i < RUNS; i++)
      if ((i * 128 + thread) * 8 < in.k) runs[i].ask(in, at + i * 1024);
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
      v[i] = (i * 128 + thread) * 8 < in.k ? runs[i].wait(in, tags, at + i * 1024) : make_uint4(0, 0, 0, 0);
      sum = add_squares(sum, v[i]);
    }
    sum = add_lanes(sum);
    if ((thread & 31) == 0) squares[row][thread >> 5] = sum;
  }
  __syncthreads();
  if (row < m) {
    const float factor = norm_factor(squares[row], in.k, in.eps);
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
      const int piece = i * 128 + thread, part = (piece >> 3) * in.per_step >> 16, step = (piece >> 3) - part * (len / 64);
      if (part < 8)                                            // columns beyond K are zeros
        store_shared_16(all + part * m * len * 2 + (step * m + row) * 128 + (((piece & 7) ^ row) << 4), norm_run(v[i], factor, scale[i]));
    }
  }
  __syncthreads();
}

// 16 rows of W and the rows of x over 64 columns, as the tensor core takes them.
struct Factors {
  u32 w[4][4], x[2][4];
  DEVICE_MEMBER void load(u32 stage, u32 xs, int m) {
    const int lane = threadIdx.x & 31;
    int row = lane & 7;
    row = row < m ? row : m - 1;                               // unused columns of the product repeat the last row
    const u32 at = xs + row * 128;
#pragma unroll
    for (int c = 0; c < 4; c++) ldmatrix_x4(w[c], stage + (lane & 15) * 128 + (((2 * c + (lane >> 4)) ^ (lane & 7)) << 4));
    ldmatrix_x4(x[0], at + (((lane >> 3) ^ (row & 7)) << 4));
    ldmatrix_x4(x[1], at + (((4 + (lane >> 3)) ^ (row & 7)) << 4));
  }
  DEVICE_MEMBER void multiply(float (&acc)[4]) const {
#pragma unroll
    for (int c = 0; c < 4; c++) mma(acc, w[c][0], w[c][1], w[c][2], w[c][3], x[c / 2][c % 2 * 2], x[c / 2][c % 2 * 2 + 1]);
  }
};

// Two elements of y, in columns out and out + 1, from element `to` on. The sums of a range are next
// to each other at `from`, those of the next range `next` further. `residual`: what is added.
DEVICE void finish(const Phase& in, Tags tags, const float* from, int next, int out, u64 to, u32 residual) {
  const int ranges = in.ranges;
  auto sum_at = [&](const float* at) {
    float2 v[8], sum = *(const float2*)at;
#pragma unroll
    for (int s = 1; s < 8; s++) v[s] = s < ranges ? *(const float2*)(at + s * next) : make_float2(-0.0f, -0.0f);   // x + -0 is x
#pragma unroll
    for (int s = 1; s < 8; s++) { sum.x = __fadd_rn(sum.x, v[s].x); sum.y = __fadd_rn(sum.y, v[s].y); }
    return sum;
  };
  const bool both = out + 1 < in.outputs;
  auto add_bias = [&](float2 sum, const elem* bias) {
    return make_float2(__fadd_rn(sum.x, elem_to_f32(bias[0])), both ? __fadd_rn(sum.y, elem_to_f32(bias[1])) : 0.0f);
  };
  float2 sum = sum_at(from);
  if (in.bias) sum = add_bias(sum, in.bias + out);
  if (in.flags & PHASE_SILU) {
    float2 up = sum_at(from + 8);
    if (in.bias) up = add_bias(up, in.bias + in.outputs + out);
    sum = make_float2(__fmul_rn(silu(sum.x), up.x), __fmul_rn(silu(sum.y), up.y));
  } else if (in.residual) {
    sum = make_float2(__fadd_rn(sum.x, low(residual)), __fadd_rn(sum.y, high(residual)));
  }
  if (in.y_tag != NO_TAG) {
    store_packet(in.y + to * 4, pack2(sum.x, sum.y), tags.of(in.y_tag));
  } else if (in.flags & PHASE_OUT_F32) {
    ((float*)in.y)[to] = sum.x;
    if (both) ((float*)in.y)[to + 1] = sum.y;
  } else {
    ((elem*)in.y)[to] = elem_from_f32(sum.x);
    if (both) ((elem*)in.y)[to + 1] = elem_from_f32(sum.y);
  }
}

// Two elements of the residual: asked for, and as they are when they have been waited for. An
// earlier phase than the one that makes x made them, so that the first answer mostly has them.
struct Residual {
  u64 asked;
  DEVICE_MEMBER void ask(const Phase& in, u64 at) {
    asked = in.residual_tag == NO_TAG ? load_l2_u32(in.residual + at * 2) : load_packet(in.residual + at * 4);
  }
  DEVICE_MEMBER u32 wait(const Phase& in, Tags tags, u64 at) const {
    if (in.residual_tag == NO_TAG || (u32)(asked >> 32) == tags.of(in.residual_tag)) return (u32)asked;
    return wait_pair(in.residual + at * 4, tags.of(in.residual_tag));
  }
};

// `side`: shared memory for x, m * 8 ranges * range_len * 2 bytes; `sums`: two buffers of partial
// sums, of which `buffer` is the next.
template <int RUNS>
DEVICE void linear_phase(const Phase& in, const int* outputs, Tags tags, int m, WeightRing& ring, u32 side, float* sums, int& buffer) {
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5;
  const int len = in.len, steps = len / 64;
  const int pair_bits = in.flags & PHASE_SILU ? 2 : 3;         // pairs of outputs of a tile and row
  const int first = first_of_block(in.first_block);
  const u32 xs = side + range * m * len * 2;
  // Which pair of outputs thread i finishes: tile, row, column in the tile, column.
  auto place = [&](int i, int base) {
    const int line = i >> pair_bits, tile = line >> (m - 1), pair = i & ((1 << pair_bits) - 1);
    return make_int4(tile, line - tile * m, pair * 2, ((base + tile * (int)gridDim.x) << (pair_bits + 1)) + pair * 2);
  };
  const int pairs = m << pair_bits;
  // This thread's first pair: its residual would be the last latency of the chain.
  const int4 mine = place(threadIdx.x, first);
  const bool early = in.residual && mine.x < TILES && mine.w < in.outputs;
  Residual residual = {};
  if (early) residual.ask(in, (u64)mine.y * in.outputs + mine.w);
  if (in.norm) norm_rows<RUNS>(in, outputs, tags, side, m, len);
  else load_rows(in, outputs, tags, xs, m, len);
  MARK(1);

  for (int tile = first; tile < in.tiles; buffer ^= 1) {
    const int base = tile;
    float* const group = sums + buffer * (SUMS_BYTES / 4);
    int num = 0;
#pragma unroll 1
    for (; num < TILES && tile < in.tiles; num++, tile += gridDim.x) {
      float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      // The factors of a stage are read while those of the one before are multiplied.
      Factors one, two;
      one.load(ring.use(), xs, m);
      int step = 1;
#pragma unroll 1
      for (; step + 1 < steps; step += 2) {
        two.load(ring.use(), xs + step * m * 128, m);
        one.multiply(acc);
        one.load(ring.use(), xs + (step + 1) * m * 128, m);
        two.multiply(acc);
      }
      if (step < steps) {
        two.load(ring.use(), xs + step * m * 128, m);
        one.multiply(acc);
        two.multiply(acc);
      } else {
        one.multiply(acc);
      }
      const int row = 2 * (lane & 3);
      float* to = group + ((num * 8 + range) * m + row) * SUMS_PITCH + (lane >> 2);
      if (row < m) { to[0] = acc[0]; to[8] = acc[2]; }
      if (row + 1 < m) { to[SUMS_PITCH] = acc[1]; to[SUMS_PITCH + 8] = acc[3]; }
    }
    MARK(2);
    __syncthreads();
    MARK(3);
    for (int i = threadIdx.x; i < num * pairs; i += 256) {
      const int4 at = place(i, base);
      if (at.w >= in.outputs) continue;
      const u64 to = (u64)at.y * in.outputs + at.w;
      u32 add = 0;
      if (in.residual) {
        if (base != first || i >= 256) residual.ask(in, to);
        add = residual.wait(in, tags, to);
      }
      finish(in, tags, group + (at.x * 8 * m + at.y) * SUMS_PITCH + at.z, m * SUMS_PITCH, at.w, to, add);
    }
  }
}
