// The input of a linear layer as its coded weight sees it: columns in the weight's stored order,
// quantised where the format says so (input_quant.cuh). For any type, order and group; rows that
// are quantised whole have coded_rows.cu, which is faster.
//
// x [R, k]; perm [k] or null: stored column c is column perm[c] of x. A token's row, or each
// `group` columns of it (in x's order), have a scale, or `fixed` is that of all.
//   as_codes = 0: y [R, k] f32, scale * code;
//   as_codes = 1: y [R, k] bf16, the code itself, which is exact; scales [R, ceil(k / group)] f32.
// Launch: grid (R); at most MOST_GROUPS groups a row. Bound by latency.
#include "dtype.cuh"
#include "reduce.cuh"
#include "input_quant.cuh"

constexpr int MOST_GROUPS = 1024;

extern "C" __global__ void __launch_bounds__(256)
    linear_coded_input(const int* count, int times, const void* x, int x_dtype, const int* perm, int kind, float fixed, int group,
                       void* y, int as_codes, float* scales, int k) {
    take_turn();
    __shared__ float found[MOST_GROUPS], warps[8];
    const int row = blockIdx.x, thread = threadIdx.x, groups = (k + group - 1) / group;
    if (row >= *count * times) return;
    const i64 from = (i64)row * k;
    if (kind != INPUT_AS_IS && fixed == 0.0f) {
        if (groups == 1) {
            float largest = 0.0f;
            for (int i = thread; i < k; i += 256) largest = fmaxf(largest, fabsf(load_as(x, x_dtype, from + i)));
            largest = warp_max(largest);
            if (thread % 32 == 0) warps[thread / 32] = largest;
            __syncthreads();
            if (thread == 0) {
                for (int i = 1; i < 8; i++) largest = fmaxf(largest, warps[i]);
                found[0] = largest;
            }
        } else {
            for (int g = thread / 32; g < groups; g += 8) {
                float largest = 0.0f;
                for (int i = g * group + thread % 32; i < min((g + 1) * group, k); i += 32)
                    largest = fmaxf(largest, fabsf(load_as(x, x_dtype, from + i)));
                largest = warp_max(largest);
                if (thread % 32 == 0) found[g] = largest;
            }
        }
    }
    __syncthreads();
    if (scales) {
        for (int g = thread; g < groups; g += 256) scales[(i64)row * groups + g] = InputQuant(found[g], fixed, kind).scale;
    }
    for (int i = thread; i < k; i += 256) {
        const int at = perm ? perm[i] : i;
        float v = load_as(x, x_dtype, from + at), scale = 1.0f;
        if (kind != INPUT_AS_IS) {
            const InputQuant quant(found[at / group], fixed, kind);
            scale = quant.scale;
            v = quant.code(v, kind);
        }
        if (as_codes) store((bf16*)y + from + i, v); else ((float*)y)[from + i] = __fmul_rn(scale, v);
    }
}
