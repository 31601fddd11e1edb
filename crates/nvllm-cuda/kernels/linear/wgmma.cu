// linear for many rows on Hopper (sm_90a): y[M, N] = x[M, K] W[N, K]^T (+ bias[N]) (+ residual[M,
// N]), or with SILU y[M, N/2] = silu(x Wg^T) * (x Wu^T) where Wg = W[:N/2] and Wu = W[N/2:]. TMA
// loads, wgmma, one producer warp, C consumer warpgroups of 64 tokens each, persistent.
//
// Layout: x, W, bias, residual row-major 16-bit elements; y 16-bit or f32 (out_f32). K a multiple
//   of 64; pointers 16-byte aligned; any M, N (N/2 with SILU). residual may be y.
// A tile is 64C tokens by COLS rows of W (SILU: COLS/2 of gate and the COLS/2 of up that belong to
//   them). A copy brings STEPS times 64 columns of them, STEPS a divisor of ceil(K / 512), the
//   steps of a range: each costs the thread that asks for it the same, whatever its size.
// Tensor maps (kernel parameters by value, 64-byte aligned) of four dimensions, 128-byte swizzle,
//   out of bounds 0: 64 columns; rows (of a half); halves; steps of 64 columns. `w_map` over W:
//   dims {64, N, 1, K/64}, box {64, COLS, 1, STEPS}, SILU: dims {64, N/2, 2, K/64}, box {64,
//   COLS/2, 2, STEPS}; `x_map` over x: dims {64, rows that may be read, at least M, 1, K/64}, box
//   {64, 64C, 1, STEPS}.
// Launch: .._cC_nCOLS_sSTEPS: grid (g), 1 <= g <= tiles = ceil(M / 64C) * ceil(N / COLS) (SILU: N
//   counts gate and up together), best the number of multiprocessors. Dynamic shared memory: stages
//   * stage_bytes(C, COLS, STEPS) + staging_bytes(C, columns of y in a tile); stages at least 2.
// Bytes: each block reads COLS rows of W and 64C rows of x a tile from L2. Bound: tensor cores; in
//   a decode step what L2 gives, and latency.
// Order id: linear.split8 (linear_order.cuh). Tokens are operand A here and weights operand B; that
//   wgmma and mma.sync accumulate 16 columns alike, whichever operand holds the weights, is a
//   property of the chip that harness/linear.py (check) proves bit for bit.
#include "hopper.cuh"
#include "linear_order.cuh"
#include "linear_store.cuh"

// Shared memory: stages of W and x; rows of y on their way out, `outputs` of them in a tile; two
// barriers a stage.
constexpr int tile_tokens(int groups) { return 64 * groups; }
constexpr int operand_bytes(int groups, int cols, int steps) { return steps * (cols + tile_tokens(groups)) * 128; }
constexpr int stage_bytes(int groups, int cols, int steps) { return operand_bytes(groups, cols, steps) + 2 * 8; }
constexpr int staged(int outputs) { return outputs < 64 ? outputs : 64; }
constexpr int staging_bytes(int groups, int outputs) { return groups * 64 * (staged(outputs) + 4) * 4; }

template <int C, int COLS, int STEPS, bool SILU>
DEVICE void linear_wgmma(const TensorMap& w_map, const TensorMap& x_map, const elem* bias, const elem* residual, void* y, int m,
                         int n, int k, int out_f32, int stages) {
  constexpr int TOKENS = tile_tokens(C), J = COLS / 8, OUT = SILU ? COLS / 2 : COLS, PART = staged(OUT), PITCH = PART + 4;
  constexpr int W_BYTES = STEPS * COLS * 128, STAGE = operand_bytes(C, COLS, STEPS);
  extern __shared__ __align__(1024) char shared[];
  const u32 ring = shared_address(shared), full = ring + stages * STAGE + staging_bytes(C, OUT), empty = full + 8 * stages;
  const int group = threadIdx.x >> 7;
  const int out_n = SILU ? n / 2 : n;
  const int tiles_n = (out_n + OUT - 1) / OUT, tiles_m = (m + TOKENS - 1) / TOKENS, num_tiles = tiles_n * tiles_m;
  const int boxes = (k / 64 + STEPS - 1) / STEPS, range_boxes = range_len(k) / 64 / STEPS;
  auto place = [&](int tile, int& tm, int& tn) {               // bands of 8 token tiles, so that blocks at work share rows in L2
    int per_band = 8 * tiles_n, band = tile / per_band, in = tile % per_band;
    int height = tiles_m - band * 8 < 8 ? tiles_m - band * 8 : 8;
    tm = band * 8 + in % height;
    tn = in / height;
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; i++) { barrier_init(full + 8 * i, 1); barrier_init(empty + 8 * i, C); }
    barriers_made();
  }
  if (threadIdx.x == 32) { prefetch_map(&w_map); prefetch_map(&x_map); }
  __syncthreads();
  let_next_start();

  if (group == 0) {                                            // producer
    if constexpr (C >= 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(C == 2 ? 40 : 32));
    if (threadIdx.x == 0) {
      auto load_w = [&](int tile, int box, int slot) {
        int tm, tn;
        place(tile, tm, tn);
        barrier_expect(full + 8 * slot, STAGE);
        load_box(ring + slot * STAGE, &w_map, tn * OUT, box * STEPS, full + 8 * slot);
      };
      // The first weights do not wait for the kernel before.
      const int ahead = boxes < stages ? boxes : stages;
      for (int box = 0; box < ahead; box++) load_w(blockIdx.x, box, box);
      wait_for_inputs();
      int slot = 0;
      u32 parity = 1;
      for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
        int tm, tn;
        place(tile, tm, tn);
        for (int box = 0; box < boxes; box++) {
          if (tile != blockIdx.x || box >= ahead) {
            barrier_wait(empty + 8 * slot, parity);
            load_w(tile, box, slot);
          }
          load_box(ring + slot * STAGE + W_BYTES, &x_map, tm * TOKENS, box * STEPS, full + 8 * slot);
          if (++slot == stages) { slot = 0; parity ^= 1; }
        }
      }
    }
  } else {                                                     // consumers
    if constexpr (C >= 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(C == 2 ? 232 : 160));
    wait_for_inputs();
    const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, consumer = group - 1;
    const bool first_thread = (threadIdx.x & 127) == 0;
    float* staging = (float*)(shared + stages * STAGE) + (consumer * 4 + warp) * 16 * PITCH;
    int slot = 0;
    u32 parity = 0;
    for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
      float acc[J][4], total[J][4];
#pragma unroll
      for (int j = 0; j < J; j++) total[j][0] = total[j][1] = total[j][2] = total[j][3] = -0.0f;   // x + -0 is x
      int tm, tn;
      place(tile, tm, tn);
#pragma unroll 1
      for (int begin = 0; begin < boxes; begin += range_boxes) {
        const int end = begin + range_boxes < boxes ? begin + range_boxes : boxes;
        int before = -1;                                       // the slot of the box before
#pragma unroll 1
        for (int box = begin; box < end; box++) {
          barrier_wait(full + 8 * slot, parity);
          const u32 at = ring + slot * STAGE;
          wgmma_fence();
#pragma unroll
          for (int step = 0; step < STEPS; step++) {
            const u64 w_at = descriptor(at + step * COLS * 128), x_at = descriptor(at + W_BYTES + step * TOKENS * 128 + consumer * 8192);
#pragma unroll
            for (int c = 0; c < 4; c++) wgmma(acc, x_at + 2 * c, w_at + 2 * c, box > begin || step > 0 || c > 0);
          }
          wgmma_commit();
          if (before >= 0) {                                   // read once only this box is under way
            wgmma_wait<1>();
            if (first_thread) barrier_arrive(empty + 8 * before);
          }
          before = slot;
          if (++slot == stages) { slot = 0; parity ^= 1; }
        }
        wgmma_wait<0>();
        if (first_thread) barrier_arrive(empty + 8 * before);
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) total[j][e] = __fadd_rn(total[j][e], acc[j][e]);
      }
      const int token0 = tm * TOKENS + consumer * 64 + warp * 16;
      float* at = staging + (lane >> 2) * PITCH + 2 * (lane & 3);
#pragma unroll
      for (int part = 0; part < OUT / PART; part++) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < PART / 8; j++) {
          float v[4];
#pragma unroll
          for (int e = 0; e < 4; e++) {
            v[e] = total[part * (PART / 8) + j][e];
            if constexpr (SILU) {
              float up = total[J / 2 + j][e];
              int out = tn * OUT + j * 8 + 2 * (lane & 3) + (e & 1);
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
        store_rows<PART, PITCH>(staging, 16, token0, tn * OUT + part * PART, m, out_n, SILU ? nullptr : bias,
                                SILU ? nullptr : residual, y, out_f32);
      }
    }
  }
}

#define WGMMA(name, c, cols, steps, silu)                                                                                     \
  extern "C" __global__ void __launch_bounds__(128 * (c + 1), 1)                                                              \
      name(const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map, const elem* bias,                \
           const elem* residual, void* y, int m, int n, int k, int out_f32, int stages) {                                      \
    linear_wgmma<c, cols, steps, silu>(w_map, x_map, bias, residual, y, m, n, k, out_f32, stages);                             \
  }
#define BOTH(c, cols, steps)                                                                                                  \
  WGMMA(linear_wgmma_c##c##_n##cols##_s##steps, c, cols, steps, false)                                                         \
  WGMMA(linear_wgmma_silu_c##c##_n##cols##_s##steps, c, cols, steps, true)
BOTH(1, 32, 2)
BOTH(1, 64, 2)
BOTH(1, 128, 1)
BOTH(1, 128, 2)
BOTH(2, 64, 2)
BOTH(2, 128, 1)
BOTH(3, 128, 1)
