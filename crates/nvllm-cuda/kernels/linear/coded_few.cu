// linear over a coded weight: y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M, N]), or gated
// y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. Codes go through
// registers as bf16, in which they are exact (NF4: two numbers); a block's scale multiplies the fp32
// sum of its columns.
//
// Layout: x [M, K] bf16; W as coded.cuh has it, rows of exactly K codes, K a multiple of 32 (8-bit
//   codes: 16), blocks of 2^shift columns from 32 (8-bit: 16), or of all; scales f32, f16 or bf16;
//   offsets of 4- and 8-bit integers as zero points or values. x_scale: f32 [M], or [M, K / 128]
//   (flag GROUPED, blocks of 128 alone). y bf16 or f32 [M, stride] of which columns first.. are
//   made, residual alike; bias f32. Gated: N/2 a multiple of 8, first = 0.
// Launch: block 256, grid (g, ceil(M / rows)), 1 <= g <= tiles = ceil(N / 16), gated N/2 / 8, best
//   all that fit the device at once; a block makes up to `rows` (at most .._t8, .._t16, .._t32) rows
//   of y. Dynamic shared memory: 8 * RING * stage + 2 * PARTIAL + X + F + T, where stage = 16 * 128 *
//   bits / 8 + scales and offsets of a stage; PARTIAL = 640 * tokens; X = 8 * rows * L * 2; F = 32 * L
//   / period * tokens where W has offsets or x scales of groups (period = min(block, 128)); T = 2,048
//   with a table (LUT4, NF4); L = 128 * ceil(K / 1024).
// Bytes: W once for each `rows` rows of x from device memory or L2, M*K*2 a block from L2. Bound:
//   memory bandwidth, at 4 bits also the instructions that unpack; under some 10 MB the latency of a
//   dependent launch.
// Order id: linear.coded8 (coded_order.cuh). Warp s holds range s; weights are operand A, tokens
//   operand B, so an output's sum sees only its own row of W and of x.
#include "prelude.cuh"
#include "codes.cuh"
#include "coded_order.cuh"

template <Code CODE, int TOKENS>
DEVICE void linear_coded_few(const char* __restrict__ w, const char* __restrict__ scales, const char* __restrict__ offsets,
                             const float* __restrict__ table, const elem* x, const float* x_scale, const float* __restrict__ bias,
                             const elem* residual, void* y, int m, int n, int k, int shift, int blocks, int flags, int rows,
                             int first, int stride) {
  constexpr int BITS_ = BITS<CODE>, W_STAGE = 16 * COLS * BITS_ / 8, RING = BITS_ == 4 ? TIGHT ? 4 : 6 : TIGHT ? 3 : 4;
  constexpr int NT = TOKENS / 8, PAD = 20, PARTIAL = PAD * TOKENS, PER_ROW = BITS_, PIECES = 16 * PER_ROW / 32;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x & 31, range = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int len = range_len(k), ranges = num_ranges(k), steps = len / COLS, k0 = range * len;
  const bool works = range < ranges, gated = flags & GATED, late = flags & LATE;
  const int row0 = blockIdx.y * rows;
  m = m - row0 < rows ? m - row0 : rows;
  // Blocks of scales in a stage, bytes of one octet of them, and of those of a stage.
  const int in_stage = shift < 7 ? COLS >> shift : 1, size = flags & WIDE ? 4 : 2;
  const int scale_bytes = in_stage * 16 * size, zero_bytes = flags & ZEROS ? in_stage * 32 : flags & VALUES ? scale_bytes : 0;
  const int stage = W_STAGE + scale_bytes + zero_bytes, period = shift < 7 ? 1 << shift : COLS;
  const bool factors = flags & (ZEROS | VALUES | GROUPED);
  float* partial = (float*)(shared + 8 * RING * stage);
  const u32 ring = shared_address(shared) + range * RING * stage;
  const u32 all_x = shared_address(shared) + 8 * RING * stage + 2 * 8 * PARTIAL * 4, xs = all_x + range * rows * len * 2;
  const u32 fs = all_x + 8 * rows * len * 2 + range * (len / period) * TOKENS * 4;
  u32* entries = (u32*)(shared + 8 * RING * stage + 2 * 8 * PARTIAL * 4 + 8 * rows * len * 2 +
                        (factors ? 8 * (len / period) * TOKENS * 4 : 0));
  const u32 my_table = shared_address(entries) + lane * 4;
  const int out_n = gated ? n / 2 : n, out_rows = gated ? 8 : 16, num_tiles = (out_n + out_rows - 1) / out_rows;
  if (!late) let_next_start();

  // One stage: 16 rows x 128 columns of this warp's range in swizzled pieces of 16 bytes, so that
  // ldmatrix meets no bank conflict, and the scales and offsets of both octets of rows. Gated, the
  // octets are 8 rows of gate and the matching ones of up.
  const u64 pitch = (u64)k * BITS_ / 8;
  const char* from[PIECES];
  const int piece = lane % PER_ROW;
  int load_tile = blockIdx.x, load_step = 0, load_slot = 0;
  auto aim = [&]() {
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const int row = i * (32 / PER_ROW) + lane / PER_ROW;
      int at = load_tile * out_rows + (gated ? row & 7 : row);
      at = at < out_n ? at : out_n - 1;
      from[i] = w + (u64)(gated && row >= 8 ? out_n + at : at) * pitch + (k0 * BITS_ / 8 + piece * 16);
    }
  };
  aim();
  // `bytes` of one octet's blocks of a stage, from block `block` on; zeros beyond the last.
  auto load_blocks = [&](u32 to, const char* all, int item) {
    const int pieces = in_stage * item / 2, block = (k0 + load_step * COLS) >> shift;
    for (int i = lane; i < 2 * pieces; i += 32) {
      const int half = i >= pieces, in = i - half * pieces;
      int octet = gated ? load_tile + half * (out_n / 8) : load_tile * 2 + half;
      octet = octet < (n + 7) / 8 ? octet : (n + 7) / 8 - 1;
      const bool valid = block + (item == 4 ? in >> 1 : in) < blocks;
      copy_async_16(to + i * 16, all + ((u64)octet * blocks + block) * 8 * item + in * 16, valid);
    }
  };
  auto load_stage = [&]() {
    if (works && load_tile < num_tiles) {
      const u32 to = ring + load_slot * stage;
      const bool valid = k0 + load_step * COLS + piece * (128 / BITS_) < k;
#pragma unroll
      for (int i = 0; i < PIECES; i++) {
        const int row = i * (32 / PER_ROW) + lane / PER_ROW, turned = BITS_ == 4 ? piece ^ (row >> 1 & 3) : piece ^ (row & 7);
        copy_async_16(to + row * (BITS_ * 16) + (turned << 4), from[i] + load_step * (COLS * BITS_ / 8), valid);
      }
      load_blocks(to + W_STAGE, scales, size);
      if (zero_bytes) load_blocks(to + W_STAGE + scale_bytes, offsets, flags & ZEROS ? 2 : size);
    }
    copy_async_commit();
    if (++load_step == steps) { load_step = 0; load_tile += gridDim.x; aim(); }
    if (++load_slot == RING) load_slot = 0;
  };
#pragma unroll
  for (int i = 0; i < RING - 1; i++) load_stage();
  if constexpr (CODE == LUT4 || CODE == NF4) fill_table(entries, table);

  // x in shared memory, in the order of codes; for every period of columns the sum of x, or the
  // scale of its group.
  wait_for_inputs();
  if (works) {
    const int lanes = period / 8;
    for (int i0 = 0; i0 < steps * m * 16; i0 += 32) {
      const int i = i0 + lane, c = i & 15, row = (i >> 4) % m, step = (i >> 4) / m, col = k0 + step * COLS + c * 8;
      const bool here = i < steps * m * 16;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (here && col < k) v = load_l2(x + (u64)(row0 + row) * k + col);
      if (here) arrange<CODE>(xs + (step * m + row) * 256, c, (row & 1) << 2, v);
      if (factors) {
        float factor = 0.0f;
        if (flags & GROUPED) {
          if (here && col < k) factor = load_l2_f32(x_scale + (u64)(row0 + row) * ((k + 127) / 128) + col / 128);
        } else {
          factor = __fadd_rn(__fadd_rn(__fadd_rn(low(v.x), high(v.x)), __fadd_rn(low(v.y), high(v.y))),
                             __fadd_rn(__fadd_rn(low(v.z), high(v.z)), __fadd_rn(low(v.w), high(v.w))));
          for (int d = 1; d < lanes; d <<= 1) factor = __fadd_rn(factor, __shfl_xor_sync(0xffffffffu, factor, d));
        }
        if (here && c % lanes == 0)
          asm volatile("st.shared.f32 [%0], %1;" :: "r"(fs + ((step * in_stage + c / lanes) * TOKENS + row) * 4), "f"(factor) : "memory");
      }
    }
  }
  if constexpr (CODE == LUT4 || CODE == NF4) __syncthreads(); else __syncwarp();
  if (late) let_next_start();

  // A bit for each of a stage's 8 mma: whether a block of scales ends behind it.
  const u32 ends = period == 16 ? 0xff : period == 32 ? 0xaa : period == 64 ? 0x88 : 0x80;
  const u32 center = flags & MIDPOINT ? 0xc308c308u : 0xc300c300u;
  int slot = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, buffer ^= 1) {
    float acc[NT][4], part[NT][4];
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[t][e] = part[t][e] = 0.0f;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      copy_async_wait<RING - 2>();
      __syncwarp();
      load_stage();                                            // into the slot that the step before read
      if (works) {
        const u32 at = ring + slot * stage;
        int block = 0;
        auto end_block = [&]() {
          const u32 of = at + W_STAGE;
          const int lower = block * 8 + g, upper = (in_stage + block) * 8 + g;
          const float s0 = load_scale(of, lower, flags), s1 = load_scale(of, upper, flags);
          if (factors) {
            float z0 = 0.0f, z1 = 0.0f;
            const int kind = flags & ZEROS ? 0 : flags;        // zero points are bf16
            if (!(flags & GROUPED)) { z0 = load_scale(of + scale_bytes, lower, kind); z1 = load_scale(of + scale_bytes, upper, kind); }
#pragma unroll
            for (int t = 0; t < NT; t++) {
              float f[2];
              asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(f[0]), "=f"(f[1])
                           : "r"(fs + ((step * in_stage + block) * TOKENS + t * 8 + 2 * q) * 4) : "memory");
#pragma unroll
              for (int e = 0; e < 4; e++) {
                const float z = e < 2 ? z0 : z1, s = e < 2 ? s0 : s1;
                float v = part[t][e];
                if (flags & ZEROS) v = __fmaf_rn(-z, f[e & 1], v);
                if (flags & GROUPED) v = __fmul_rn(v, f[e & 1]);
                v = __fmaf_rn(s, v, acc[t][e]);
                if (flags & VALUES) v = __fmaf_rn(z, f[e & 1], v);
                acc[t][e] = v;
                part[t][e] = 0.0f;
              }
            }
          } else {
#pragma unroll
            for (int t = 0; t < NT; t++)
#pragma unroll
              for (int e = 0; e < 4; e++) { acc[t][e] = __fmaf_rn(e < 2 ? s0 : s1, part[t][e], acc[t][e]); part[t][e] = 0.0f; }
          }
          block++;
        };
        u32 a[4];
#pragma unroll
        for (int unit = 0; unit < 4; unit++) {                 // 32 columns
          u32 b[NT][4];
#pragma unroll
          for (int t = 0; t < NT; t++) {
            int row = t * 8 + g;
            row = row < m ? row : m - 1;                       // unused columns of the product repeat the last token
            const uint4 v = load_shared_16(xs + (step * m + row) * 256 + (((unit * 4 + q) ^ ((row & 1) << 2)) << 4));
            b[t][0] = v.x; b[t][1] = v.y; b[t][2] = v.z; b[t][3] = v.w;
          }
          const int r = lane & 15;
          if constexpr (BITS_ == 8) {
            ldmatrix_x4(a, at + r * 128 + (((2 * unit + (lane >> 4)) ^ (lane & 7)) << 4));
#pragma unroll
            for (int h = 0; h < 2; h++) {
              u32 lower[2], upper[2];
              pairs8<CODE>(a[2 * h], lower);
              pairs8<CODE>(a[2 * h + 1], upper);
#pragma unroll
              for (int t = 0; t < NT; t++) mma(part[t], lower[0], upper[0], lower[1], upper[1], b[t][2 * h], b[t][2 * h + 1]);
              if (ends >> (2 * unit + h) & 1) end_block();
            }
          } else {
            if (unit % 2 == 0) ldmatrix_x4(a, at + r * 64 + (((unit + (lane >> 4)) ^ (r >> 1 & 3)) << 4));
            u32 lower[4], upper[4], rest[2][4];
            if constexpr (CODE == U4) {
              pairs_u4(a[unit % 2 * 2], center, lower);
              pairs_u4(a[unit % 2 * 2 + 1], center, upper);
            } else {
              pairs_table(a[unit % 2 * 2], my_table, lower, rest[0]);
              pairs_table(a[unit % 2 * 2 + 1], my_table, upper, rest[1]);
            }
#pragma unroll
            for (int h = 0; h < 4; h += 2)
#pragma unroll
              for (int t = 0; t < NT; t++) {
                mma(part[t], lower[h], upper[h], lower[h + 1], upper[h + 1], b[t][h], b[t][h + 1]);
                if constexpr (CODE == NF4)
                  mma(part[t], rest[0][h], rest[1][h], rest[0][h + 1], rest[1][h + 1], b[t][h], b[t][h + 1]);
              }
            if (ends >> (2 * unit + 1) & 1) end_block();
          }
        }
      }
      if (++slot == RING) slot = 0;
    }
    // Sums of ranges: [range][token][row of the tile], padded against bank conflicts.
    float* sums = partial + buffer * 8 * PARTIAL;
    if (works) {
#pragma unroll
      for (int t = 0; t < NT; t++) {
        float* to = sums + range * PARTIAL + (t * 8 + 2 * q) * PAD + g;
        to[0] = acc[t][0]; to[PAD] = acc[t][1];
        to[8] = acc[t][2]; to[PAD + 8] = acc[t][3];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < out_rows * m; i += 256) {
      const int token = i / out_rows, row = i % out_rows, out = tile * out_rows + row;
      if (out >= out_n) continue;
      const float* of = sums + token * PAD + row;
      float sum = of[0];
#pragma unroll
      for (int s = 1; s < 8; s++) if (s < ranges) sum = __fadd_rn(sum, of[s * PARTIAL]);
      const float scale = x_scale && !(flags & GROUPED) ? load_l2_f32(x_scale + row0 + token) : 1.0f;
      sum = __fmul_rn(sum, scale);
      if (bias) sum = __fadd_rn(sum, bias[first + out]);
      const u64 to = (u64)(row0 + token) * stride + first + out;
      if (gated) {
        float up = of[8];
#pragma unroll
        for (int s = 1; s < 8; s++) if (s < ranges) up = __fadd_rn(up, of[s * PARTIAL + 8]);
        up = __fmul_rn(up, scale);
        if (bias) up = __fadd_rn(up, bias[out_n + out]);
        sum = __fmul_rn(silu(sum), up);
      }
      if (residual) sum = __fadd_rn(sum, elem_to_f32(load_l2_elem(residual + to)));
      if (flags & OUT_F32) ((float*)y)[to] = sum; else ((elem*)y)[to] = elem_from_f32(sum);
    }
  }
  copy_async_wait<0>();
}

#define FEW(name, code, tokens)                                                                                               \
  extern "C" __global__ void __launch_bounds__(256, tokens == 32 ? 1 : 2) linear_coded_few_##name##_t##tokens(                \
      const char* __restrict__ w, const char* __restrict__ scales, const char* __restrict__ offsets,                           \
      const float* __restrict__ table, const elem* x, const float* x_scale, const float* __restrict__ bias,                    \
      const elem* residual, void* y, int m, int n, int k, int shift, int blocks, int flags, int rows, int first, int stride) { \
    linear_coded_few<code, tokens>(w, scales, offsets, table, x, x_scale, bias, residual, y, m, n, k, shift, blocks, flags,   \
                                   rows, first, stride);                                                                      \
  }
#define ALL(name, code) FEW(name, code, 8) FEW(name, code, 16) FEW(name, code, 32)
ALL(i8, I8)
ALL(e4m3, E4M3)
ALL(u4, U4)
ALL(lut4, LUT4)
ALL(nf4, NF4)
