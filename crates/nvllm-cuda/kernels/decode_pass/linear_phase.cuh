// A linear layer of one row as a phase: y = x W^T with bias, residual or SILU as linear/small_m.cu
// has them, and in its order (linear.split8: warp s holds range s). Norms of x are made by every
// block for itself (norm.block128).
#pragma once

#include "packet.cuh"
#include "weight_ring.cuh"
#include "linear_order.cuh"
#include "norm_order.cuh"

// Partial sums of up to 8 tiles, in two buffers by turns: [tile][range][16, padded against bank
// conflicts].
constexpr int TILES = 8, SUMS_PITCH = 20, SUMS_BYTES = TILES * RANGES * SUMS_PITCH * 4;

// The tags of a launch: those of its phases follow each other.
struct Tags {
  u32 base;
  DEVICE_MEMBER u32 of(int phase) const { return base + phase; }
};

// A run of 8 columns of x from element `at` on: asked for, then waited for.
struct Run {
  ulonglong2 v[2] = {};
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

// The first element of x: the row of the step's output begins where the phase gathers.
DEVICE int first_element(const Phase& in, const int* outputs) { return in.flags & PHASE_GATHER ? load_l2_i32(outputs) * in.k : 0; }

// x in shared memory at `xs`. Each warp takes its own range. One lane asks for its begin until that
// is there, then all ask: questions that come too early are in the way of what they wait for.
DEVICE void load_row(const Phase& in, const int* outputs, Tags tags, u32 xs) {
  const int lane = threadIdx.x & 31, k0 = (threadIdx.x >> 5) * in.len, runs = in.len / 8, from = first_element(in, outputs);
  if (in.x_tag != NO_TAG && lane == 0 && k0 < in.k) wait_pair(in.x + (u64)(u32)(from + k0) * 4, tags.of(in.x_tag));
  __syncwarp();
  for (int base = lane; base < runs; base += 64) {
    Run asked[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int col = k0 + (base + j * 32) * 8;
      if (base + j * 32 < runs && col < in.k) asked[j].ask(in, from + col);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int run = base + j * 32, col = k0 + run * 8;
      if (run < runs) store_shared_16(xs + col * 2, col < in.k ? asked[j].wait(in, tags, from + col) : make_uint4(0, 0, 0, 0));
    }
  }
  __syncwarp();
}

// The same of the row's norm. Half of the workers take the row, a thread RUNS runs of 8 columns.
template <int RUNS>
DEVICE void norm_row(const Phase& in, const int* outputs, Tags tags, u32 xs) {
  __shared__ float squares[4];
  const int thread = threadIdx.x;
  uint4 v[RUNS], scale[RUNS];
  if (thread < 128) {
    Run asked[RUNS];
    float sum = 0.0f;
    const int from = first_element(in, outputs) + thread * 8;
    if (in.x_tag != NO_TAG && (thread & 31) == 0 && thread * 8 < in.k) wait_pair(in.x + (u64)(u32)from * 4, tags.of(in.x_tag));
    __syncwarp();
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
      const int col = (i * 128 + thread) * 8;
      scale[i] = make_uint4(0, 0, 0, 0);
      if (col < in.k) {
        asked[i].ask(in, from + i * 1024);
        scale[i] = *(const uint4*)(in.norm + col);
      }
    }
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
      v[i] = (i * 128 + thread) * 8 < in.k ? asked[i].wait(in, tags, from + i * 1024) : make_uint4(0, 0, 0, 0);
      sum = add_squares(sum, v[i]);
    }
    sum = add_lanes(sum);
    if ((thread & 31) == 0) squares[thread >> 5] = sum;
    asm volatile("bar.sync 2, 128;" ::: "memory");
    const float factor = norm_factor(squares, in.k, in.eps);
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
      const int run = i * 128 + thread;
      if (run < in.len) store_shared_16(xs + run * 16, norm_run(v[i], factor, scale[i]));   // columns beyond K are zeros
    }
  }
  workers_sync();
}

// What a pair of stages holds of a warp's range of W as the tensor core takes it, and x to it: 16
// rows of W over 128 columns as the first factor, or 8 rows over 256 as the second. All 8 rows of
// the other factor are x; one of them counts.
struct Wide {
  static constexpr int ROWS = TILE_ROWS, STEPS = 1;
  u32 w[2][4][4];
  DEVICE_MEMBER void load(int second, u32 stage) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int c = 0; c < 4; c++) ldmatrix_x4(w[second][c], stage + (lane & 15) * 128 + (((2 * c + (lane >> 4)) ^ (lane & 7)) << 4));
  }
  DEVICE_MEMBER void multiply(int second, float (&acc)[4], const u32 (&x)[2 * STEPS][2][4]) const {
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const u32* of_x = x[second][c / 2] + c % 2 * 2;
      mma(acc, w[second][c][0], w[second][c][1], w[second][c][2], w[second][c][3], of_x[0], of_x[1]);
    }
  }
  DEVICE_MEMBER static void store(float* to, const float (&acc)[4]) {
    const int lane = threadIdx.x & 31;
    if ((lane & 3) == 0) { to[lane >> 2] = acc[0]; to[8 + (lane >> 2)] = acc[2]; }
  }
};
struct Narrow {
  static constexpr int ROWS = NARROW_ROWS, STEPS = 2;
  u32 w[2][4][4];
  DEVICE_MEMBER void load(int second, u32 stage) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int c = 0; c < 4; c++)
      ldmatrix_x4(w[second][c], stage + c / 2 * (STAGE_BYTES / 2) + (lane & 7) * 128 + (((4 * (c & 1) + (lane >> 3)) ^ (lane & 7)) << 4));
  }
  DEVICE_MEMBER void multiply(int second, float (&acc)[4], const u32 (&x)[2 * STEPS][2][4]) const {
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const u32* of_x = x[2 * second + c / 2][c % 2];
      mma(acc, of_x[0], 0, of_x[1], 0, w[second][c][0], w[second][c][1]);
      mma(acc, of_x[2], 0, of_x[3], 0, w[second][c][2], w[second][c][3]);
    }
  }
  DEVICE_MEMBER static void store(float* to, const float (&acc)[4]) {
    const int lane = threadIdx.x & 31;
    if (lane < 4) *(float2*)(to + 2 * lane) = make_float2(acc[0], acc[1]);
  }
};

// Sums over this warp's range of `num` tiles, of `copies` stages each, to `to`.
template <typename F> DEVICE void multiply_tiles(float* to, WeightRing& ring, u32 xs, int num, int copies) {
  const u32 part = (threadIdx.x >> 5) * (F::ROWS * 128);
  F a = {}, b = {};
  u32 x[2 * F::STEPS][2][4] = {};
  int done = 0, asked = 0;                                     // copies of the tile at hand
  float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  auto load = [&](F& pair) {
    pair.load(0, ring.wait(0) + part);
    if (asked + 1 < copies) pair.load(1, ring.wait(1) + part);
    ring.leave();
    asked = asked + 2 < copies ? asked + 2 : 0;
  };
  auto load_x = [&]() {
    const u32 at = xs + done * (F::STEPS * 128) + ((threadIdx.x & 31) >> 3) * 16;
#pragma unroll
    for (int step = 0; step < 2 * F::STEPS; step++) {
      ldmatrix_x4(x[step][0], at + step * 128);
      ldmatrix_x4(x[step][1], at + step * 128 + 64);
    }
  };
  auto multiply = [&](const F& pair) {
    pair.multiply(0, acc, x);
    if (done + 1 < copies) pair.multiply(1, acc, x);
    done += 2;
    if (done < copies) return;
    F::store(to, acc);
    acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
    to += RANGES * SUMS_PITCH;
    done = 0;
  };
  if constexpr (F::STEPS > 1) {                                // few tiles a block
#pragma unroll 1
    for (int pairs = num * ((copies + 1) >> 1); pairs > 0; pairs--) {
      load_x();
      load(a);
      multiply(a);
    }
    return;
  }
  load_x();
  if (copies <= 2) {
    // A tile is one pair, and x is the same for all: two tiles at once, whose chains of sums do not
    // wait for each other.
    int tile = 0;
#pragma unroll 1
    for (; tile + 1 < num; tile += 2) {
      load(a);
      load(b);
      float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f}, more[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      a.multiply(0, sums, x);
      b.multiply(0, more, x);
      if (copies > 1) { a.multiply(1, sums, x); b.multiply(1, more, x); }
      F::store(to, sums);
      F::store(to + RANGES * SUMS_PITCH, more);
      to += 2 * RANGES * SUMS_PITCH;
    }
    if (tile < num) { load(a); multiply(a); }
    return;
  }
  // The factors of a pair are read while those of the one before are multiplied.
  load(a);
  const int pairs = num * ((copies + 1) >> 1);
  int i = 1;
#pragma unroll 1
  for (; i + 1 < pairs; i += 2) {
    load(b);
    multiply(a);
    load_x();
    load(a);
    multiply(b);
    load_x();
  }
  if (i < pairs) load(b);
  multiply(a);
  if (i < pairs) {
    load_x();
    multiply(b);
  }
}

// Two elements of y, in columns out and out + 1. The sums of a range are next to each other at
// `from`. `residual`: what is added.
DEVICE void finish(const Phase& in, Tags tags, const float* from, int out, u32 residual) {
  const int ranges = in.ranges;
  auto sum_at = [&](const float* at) {
    float2 v[8], sum = *(const float2*)at;
#pragma unroll
    for (int s = 1; s < 8; s++) v[s] = s < ranges ? *(const float2*)(at + s * SUMS_PITCH) : make_float2(-0.0f, -0.0f);   // x + -0 is x
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
    store_packet(in.y + (u64)(u32)out * 4, pack2(sum.x, sum.y), tags.of(in.y_tag));
  } else if (in.flags & PHASE_OUT_F32) {
    ((float*)in.y)[out] = sum.x;
    if (both) ((float*)in.y)[out + 1] = sum.y;
  } else {
    ((elem*)in.y)[out] = elem_from_f32(sum.x);
    if (both) ((elem*)in.y)[out + 1] = elem_from_f32(sum.y);
  }
}

// Two elements of the residual: asked for, and as they are when they have been waited for. An
// earlier phase than the one that makes x made them, so that the first answer mostly has them.
struct Residual {
  u64 asked;
  DEVICE_MEMBER void ask(const Phase& in, int at) {
    asked = in.residual_tag == NO_TAG ? load_l2_u32(in.residual + (u64)(u32)at * 2) : load_packet(in.residual + (u64)(u32)at * 4);
  }
  DEVICE_MEMBER u32 wait(const Phase& in, Tags tags, int at) const {
    if (in.residual_tag == NO_TAG || (u32)(asked >> 32) == tags.of(in.residual_tag)) return (u32)asked;
    return wait_pair(in.residual + (u64)(u32)at * 4, tags.of(in.residual_tag));
  }
};

// `row`: shared memory for x, 8 ranges * range_len * 2 bytes; `sums`: two buffers of partial sums,
// of which `buffer` is the next.
template <int RUNS>
DEVICE void linear_phase(const Phase& phase, const int* outputs, Tags tags, WeightRing& ring, u32 row, float* sums, int& buffer) {
  const Phase in = phase;
  const int range = threadIdx.x >> 5, first = first_of_block(in.first_block);
  const int pair_bits = in.flags & (PHASE_SILU | PHASE_NARROW) ? 2 : 3;   // pairs of outputs of a tile
  // The first output of the pair that thread i finishes.
  auto output = [&](int i, int base) {
    return ((base + (i >> pair_bits) * (int)gridDim.x) << (pair_bits + 1)) + (i & ((1 << pair_bits) - 1)) * 2;
  };
  // This thread's first pair: its residual would be the last latency of the chain.
  const int mine = output(threadIdx.x, first);
  Residual residual = {};
  if (in.residual && (int)threadIdx.x < TILES << pair_bits && mine < in.outputs) residual.ask(in, mine);
  if (in.norm) norm_row<RUNS>(in, outputs, tags, row);
  else load_row(in, outputs, tags, row);
  MARK(1);

  const u32 xs = row + range * in.len * 2;
  const int steps = in.len / 64;
  for (int tile = first; tile < in.tiles; buffer ^= 1) {
    const int base = tile, left = (in.tiles - tile + (int)gridDim.x - 1) / (int)gridDim.x, num = left < TILES ? left : TILES;
    float* const group = sums + buffer * (SUMS_BYTES / 4);
    if (in.flags & PHASE_NARROW) multiply_tiles<Narrow>(group + range * SUMS_PITCH, ring, xs, num, steps / 2);
    else multiply_tiles<Wide>(group + range * SUMS_PITCH, ring, xs, num, steps);
    tile += num * gridDim.x;
    MARK(2);
    workers_sync();
    MARK(3);
    for (int i = threadIdx.x; i < num << pair_bits; i += WORKERS) {
      const int out = output(i, base);
      if (out >= in.outputs) continue;
      u32 add = 0;
      if (in.residual) {
        if (base != first) residual.ask(in, out);
        add = residual.wait(in, tags, out);
      }
      finish(in, tags, group + (i >> pair_bits) * (RANGES * SUMS_PITCH) + (i & ((1 << pair_bits) - 1)) * 2, out, add);
    }
  }
}
