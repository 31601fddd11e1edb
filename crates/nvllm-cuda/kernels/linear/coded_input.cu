// The input of a linear layer as its coded weight sees it: columns in the weight's stored order,
// quantised where the format says so (nvllm-core's weight/act.rs, in the same operations).
//
// x [R, k]; perm [k] or null: stored column c is column perm[c] of x. A token's row, or each
// `group` columns of it (in x's order), have a scale: the largest magnitude / 127 (int8) or / 448
// (FP8 E4M3), or `fixed`; the code is x / scale, rounded to the nearest value and clamped.
//   as_codes = 0: y [R, k] f32, scale * code;
//   as_codes = 1: y [R, k] bf16, the code itself, which is exact; scales [R, ceil(k / group)] f32.
// Launch: grid (R), 256 threads; at most 1,024 groups a row. Bound by latency.
#include "dtype.cuh"
#include "reduce.cuh"

// As in src/coded.rs.
enum InputKind { INPUT_AS_IS = 0, INPUT_I8 = 1, INPUT_E4M3 = 2 };

__device__ __forceinline__ float nearest_code(float x, int kind) {
    if (kind == INPUT_I8) return fminf(fmaxf(rintf(x), -128.0f), 127.0f);
    float size = fminf(fabsf(x), 448.0f);
    int exponent = max((int)(__float_as_uint(size) >> 23) - 127, -6);
    // Neighbours are 2^(exponent - 3) apart.
    float step = __uint_as_float((u32)(exponent + 124) << 23), per_step = __uint_as_float((u32)(130 - exponent) << 23);
    float code = __fmul_rn(rintf(__fmul_rn(size, per_step)), step);
    return x != x ? x : copysignf(code, x);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_coded_input(const int* count, int times, const void* x, int x_dtype, const int* perm, int kind, float fixed, int group,
                       void* y, int as_codes, float* scales, int k) {
    take_turn();
    __shared__ float found[1024], warps[8];
    const int row = blockIdx.x, thread = threadIdx.x, groups = (k + group - 1) / group;
    if (row >= *count * times) return;
    const i64 from = (i64)row * k;
    const float most = kind == INPUT_I8 ? 127.0f : 448.0f;
    if (kind != INPUT_AS_IS && fixed == 0.0f) {
        if (groups == 1) {
            float largest = 0.0f;
            for (int i = thread; i < k; i += 256) largest = fmaxf(largest, fabsf(load_as(x, x_dtype, from + i)));
            largest = warp_max(largest);
            if (thread % 32 == 0) warps[thread / 32] = largest;
            __syncthreads();
            if (thread == 0) {
                for (int i = 1; i < 8; i++) largest = fmaxf(largest, warps[i]);
                found[0] = __fdiv_rn(largest, most);
            }
        } else {
            for (int g = thread / 32; g < groups; g += 8) {
                float largest = 0.0f;
                for (int i = g * group + thread % 32; i < min((g + 1) * group, k); i += 32)
                    largest = fmaxf(largest, fabsf(load_as(x, x_dtype, from + i)));
                largest = warp_max(largest);
                if (thread % 32 == 0) found[g] = __fdiv_rn(largest, most);
            }
        }
    } else if (thread == 0) {
        found[0] = fixed;
    }
    __syncthreads();
    if (scales) {
        for (int g = thread; g < groups; g += 256) scales[(i64)row * groups + g] = found[g];
    }
    for (int i = thread; i < k; i += 256) {
        const int at = perm ? perm[i] : i;
        float v = load_as(x, x_dtype, from + at), scale = 1.0f;
        if (kind != INPUT_AS_IS) {
            scale = found[at / group];
            v = scale == 0.0f ? 0.0f : nearest_code(__fdiv_rn(v, scale), kind);
        }
        if (as_codes) store((bf16*)y + from + i, v); else ((float*)y)[from + i] = __fmul_rn(scale, v);
    }
}
