// linear for many rows on Hopper (sm_90a): y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M,
// N]), or with SILU y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. TMA
// loads, wgmma, one producer warp, C consumer warpgroups of 64 tokens each, persistent.
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K a multiple
//   of 8; pointers 16-byte aligned; any M, N (N/2 with SILU). residual may be y.
// Tensor maps (kernel parameters by value, 64-byte aligned): `w_map` over W: dims {K, N}, row pitch
//   2K bytes, box {64, 64}, swizzle 128 B, out of bounds 0; `x_map` over x alike, dims {K, rows
//   that may be read, at least M}.
// Launch: .._cC: block (128 * (C + 1)), grid (g), 1 <= g <= tiles = ceil(M / 64C) * ceil(N / 128)
//   (SILU: N counts gate and up together), best the number of multiprocessors. Dynamic shared
//   memory: 1,024 + STAGES * (64C + 128) * 128 + C * 17,408 bytes, STAGES = 6, 5, 4 for C = 1, 2, 3
//   (c1: 165,888; c2: 199,680; c3: 217,088).
// Bytes: each block reads 128 rows of W and 64C rows of x a tile from L2. Bound: tensor cores; at C
//   = 1 the shared-memory reads.
// Order id: linear.split8 (linear_order.cuh). Tokens are operand A here and weights operand B; that
//   wgmma and mma.sync accumulate 16 columns alike, whichever operand holds the weights, is a
//   property of the chip that harness/linear.py (check) proves bit for bit.
#include "prelude.cuh"
#include "linear_order.cuh"
#include "linear_store.cuh"

struct alignas(64) TensorMap { u64 opaque[16]; };

constexpr int PITCH = 68;      // floats a staging row

DEVICE void barrier_init(u32 at, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(at), "r"(count) : "memory"); }
DEVICE void barrier_expect(u32 at, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(at), "r"(bytes) : "memory"); }
DEVICE void barrier_arrive(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(at) : "memory"); }
DEVICE void barrier_wait(u32 at, u32 parity) {
  asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ready;\nbra again;\nready:\n}"
               :: "r"(at), "r"(parity) : "memory");
}
DEVICE void load_box(u32 to, const TensorMap* map, int col, int row, u32 barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
               :: "r"(to), "l"(map), "r"(col), "r"(row), "r"(barrier) : "memory");
}
// Rows of 128 bytes, 128-byte swizzle, 8 rows every 1,024 bytes.
DEVICE u64 descriptor(u32 at) { return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62; }

#define F(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
// d (+)= a[64 x 16] b[128 x 16]^T; the old d is dropped when `add` is 0.
DEVICE void wgmma(float (&d)[16][4], u64 a, u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." MMA_TYPES " "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"
      "%62,%63}, %64, %65, p, 1, 1, 0, 0;\n}"
      : F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7), F(8), F(9), F(10), F(11), F(12), F(13), F(14), F(15)
      : "l"(a), "l"(b), "r"(add));
}
#undef F

template <int C, bool SILU>
DEVICE void linear_wgmma(const TensorMap& w_map, const TensorMap& x_map, const elem* bias, const elem* residual, void* y, int m,
                         int n, int k, int out_f32) {
  constexpr int TOKENS = 64 * C, STAGE = (TOKENS + 128) * 128, STAGES = C == 1 ? 6 : C == 2 ? 5 : 4;
  extern __shared__ __align__(1024) char shared[];
  __shared__ __align__(8) u64 barriers[2 * STAGES];
  const u32 ring = (shared_address(shared) + 1023) & ~1023u;
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  const int group = threadIdx.x >> 7;
  const int out_n = SILU ? n / 2 : n, tile_n = SILU ? 64 : 128;
  const int tiles_n = (out_n + tile_n - 1) / tile_n, tiles_m = (m + TOKENS - 1) / TOKENS, num_tiles = tiles_n * tiles_m;
  const int steps = (k + 63) / 64, range_steps = range_len(k) / 64;
  auto place = [&](int tile, int& tm, int& tn) {               // bands of 8 token tiles, so that blocks at work share rows in L2
    int per_band = 8 * tiles_n, band = tile / per_band, in = tile % per_band;
    int height = tiles_m - band * 8 < 8 ? tiles_m - band * 8 : 8;
    tm = band * 8 + in % height;
    tn = in / height;
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) { barrier_init(full + 8 * i, 1); barrier_init(empty + 8 * i, C); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  let_next_start();

  if (group == 0) {                                            // producer
    if constexpr (C >= 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(C == 2 ? 40 : 32));
    if (threadIdx.x == 0) {
      auto load_w = [&](int tile, int step, int slot) {
        int tm, tn;
        place(tile, tm, tn);
        const u32 to = ring + slot * STAGE, barrier = full + 8 * slot;
        barrier_expect(barrier, STAGE);
        load_box(to, &w_map, step * 64, tn * tile_n, barrier);
        load_box(to + 8192, &w_map, step * 64, SILU ? out_n + tn * tile_n : tn * tile_n + 64, barrier);
      };
      // The first weights do not wait for the kernel before.
      const int ahead = steps < STAGES ? steps : STAGES;
      for (int step = 0; step < ahead; step++) load_w(blockIdx.x, step, step);
      wait_for_inputs();
      int slot = 0;
      u32 parity = 1;
      for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
        int tm, tn;
        place(tile, tm, tn);
        for (int step = 0; step < steps; step++) {
          if (tile != blockIdx.x || step >= ahead) {
            barrier_wait(empty + 8 * slot, parity);
            load_w(tile, step, slot);
          }
          const u32 to = ring + slot * STAGE + 16384, barrier = full + 8 * slot;
#pragma unroll
          for (int i = 0; i < C; i++) load_box(to + i * 8192, &x_map, step * 64, tm * TOKENS + i * 64, barrier);
          if (++slot == STAGES) { slot = 0; parity ^= 1; }
        }
      }
    }
  } else {                                                     // consumers
    if constexpr (C >= 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(C == 2 ? 232 : 160));
    wait_for_inputs();
    const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, consumer = group - 1;
    const bool first_thread = (threadIdx.x & 127) == 0;
    float* staging = (float*)(shared + (ring - shared_address(shared)) + STAGES * STAGE) + (consumer * 4 + warp) * 16 * PITCH;
    int slot = 0;
    u32 parity = 0;
    for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
      float acc[16][4], total[16][4];
#pragma unroll
      for (int j = 0; j < 16; j++) total[j][0] = total[j][1] = total[j][2] = total[j][3] = -0.0f;   // x + -0 is x
      int tm, tn;
      place(tile, tm, tn);
#pragma unroll 1
      for (int begin = 0; begin < steps; begin += range_steps) {
        const int end = begin + range_steps < steps ? begin + range_steps : steps;
#pragma unroll 1
        for (int step = begin; step < end; step++) {
          barrier_wait(full + 8 * slot, parity);
          const u64 w_at = descriptor(ring + slot * STAGE);
          const u64 x_at = descriptor(ring + slot * STAGE + 16384 + consumer * 8192);
          asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
          for (int c = 0; c < 4; c++) wgmma(acc, x_at + 2 * c, w_at + 2 * c, step > begin || c > 0);
          asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
          // The slot before this one has been read once at most one group is under way.
          asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
          if (step > begin && first_thread) barrier_arrive(empty + 8 * (slot == 0 ? STAGES - 1 : slot - 1));
          if (++slot == STAGES) { slot = 0; parity ^= 1; }
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (first_thread) barrier_arrive(empty + 8 * (slot == 0 ? STAGES - 1 : slot - 1));
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) total[j][e] = __fadd_rn(total[j][e], acc[j][e]);
      }
      const int token0 = tm * TOKENS + consumer * 64 + warp * 16;
      float* at = staging + (lane >> 2) * PITCH + 2 * (lane & 3);
#pragma unroll
      for (int part = 0; part < (SILU ? 1 : 2); part++) {      // 64 columns at a time
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 8; j++) {
          float v[4];
#pragma unroll
          for (int e = 0; e < 4; e++) {
            v[e] = total[part * 8 + j][e];
            if constexpr (SILU) {
              float up = total[8 + j][e];
              int out = tn * 64 + j * 8 + 2 * (lane & 3) + (e & 1);
              if (bias && out < out_n) {
                v[e] = __fadd_rn(v[e], elem_to_f32(bias[out]));
                up = __fadd_rn(up, elem_to_f32(bias[out_n + out]));
              }
              v[e] = __fmul_rn(silu(v[e]), up);
            }
          }
          *(float2*)(at + j * 8) = make_float2(v[0], v[1]);
          *(float2*)(at + 8 * PITCH + j * 8) = make_float2(v[2], v[3]);
        }
        __syncwarp();
        store_rows<64, PITCH>(staging, 16, token0, tn * tile_n + part * 64, m, out_n, SILU ? nullptr : bias,
                              SILU ? nullptr : residual, y, out_f32);
      }
    }
  }
}

#define WGMMA(name, c, silu)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128 * (c + 1), 1)                                                              \
      name(const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map, const elem* bias,                \
           const elem* residual, void* y, int m, int n, int k, int out_f32) {                                                  \
    linear_wgmma<c, silu>(w_map, x_map, bias, residual, y, m, n, k, out_f32);                                                  \
  }
WGMMA(linear_wgmma_c1, 1, false)
WGMMA(linear_wgmma_c2, 2, false)
WGMMA(linear_wgmma_c3, 3, false)
WGMMA(linear_wgmma_silu_c1, 1, true)
WGMMA(linear_wgmma_silu_c2, 2, true)
WGMMA(linear_wgmma_silu_c3, 3, true)
