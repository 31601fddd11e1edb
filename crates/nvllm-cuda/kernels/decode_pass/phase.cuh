// What a decode pass does, phase by phase: data that the host makes at load (src/lower/decode_pass)
// and every block reads. Each phase reads all that the phase before it made.
#pragma once

#include "prelude.cuh"

enum PhaseKind { PHASE_LINEAR = 0, PHASE_ATTENTION = 1, PHASE_FOLD = 2 };
enum PhaseFlags {
  PHASE_SILU = 1,
  PHASE_OUT_F32 = 2,     // y is f32, else 16-bit elements; only where y_tag is NO_TAG
  PHASE_GATHER = 4,      // x is of the row of the step's output
  PHASE_NARROW = 8,      // tiles of NARROW_ROWS rows of W, else of TILE_ROWS
};
constexpr int NO_TAG = -1;

// As `Phase` in src/lower/decode_pass/phase.rs. Activations are packets (packet.cuh) of
// the phase whose number their tag names, or, with NO_TAG, plain rows that other launches share.
struct Phase {
  int kind, flags;
  int k, outputs;         // linear: columns of x; of y
  int len, ranges;        // range_len(k), num_ranges(k) (linear_order.cuh)
  int first_block, tiles; // the block that takes the first tile (linear) or unit; tiles of W
  int x_tag, y_tag, residual_tag;
  float eps;              // of the norms
  const char* x;          // linear: [k]; attention: merged queries, keys, values
  char* y;
  const char* residual;   // linear: added to y, or null
  const elem* norm;       // linear: of x, or null; attention: of queries, or null
  const elem* bias;       // linear: [N], or null; attention: norm of keys, or null
  char* keys;             // attention: pages of the layer
  char* values;
  int padding[6];
};
constexpr int PHASE_BYTES = 128;
static_assert(sizeof(Phase) == PHASE_BYTES);

// Rows of the step's outputs: as `Output` in step.cuh, of which a pass reads the first word, the
// row.
constexpr int OUTPUT_WORDS = 8;

// The first tile or unit of this block; it takes every gridDim-th from there.
DEVICE int first_of_block(int first_block) {
  const int at = (int)blockIdx.x - first_block;
  return at < 0 ? at + (int)gridDim.x : at;
}

// How many blocks take part in a phase of so many tiles or units.
DEVICE u32 blocks_with(int tiles) { return tiles < (int)gridDim.x ? tiles : gridDim.x; }

// The warps that go through the phases; of two more one asks for weights (weight_ring.cuh) and one
// for keys and values (chunks.cuh).
constexpr int WORKERS = 256, THREADS = WORKERS + 64;
// A barrier of the workers.
DEVICE void workers_sync() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// harness/decode_pass.py's stopwatch: when a block was where in each phase, in nanoseconds. Nothing
// in the product.
#ifdef TIMELINE
__device__ long long timeline[132 * 256 * 8];
__shared__ int timed_phase;
DEVICE long long now() { long long t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t)); return t; }
#define MARK(what) do { if (threadIdx.x == 0) timeline[(blockIdx.x * 256 + timed_phase) * 8 + what] = now(); } while (0)
#else
#define MARK(what)
#endif
