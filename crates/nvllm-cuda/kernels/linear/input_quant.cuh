// How a linear layer's input is quantised, where its weight's format asks for it: nvllm-core's
// weight/act.rs, with the same results. A row of x, or a group of its columns, has a scale: the
// largest magnitude / 127 (int8) or / 448 (FP8 E4M3), or a fixed one. The code is x / scale,
// rounded to the nearest value and clamped.
#pragma once

// As in src/lower/linear/coded.rs.
enum InputKind { INPUT_AS_IS = 0, INPUT_I8 = 1, INPUT_E4M3 = 2 };

__device__ __forceinline__ float nearest_code(float x, int kind) {
    if (kind == INPUT_I8) return fminf(fmaxf(rintf(x), -128.0f), 127.0f);
    const float size = fminf(fabsf(x), 448.0f);
    const int exponent = max((int)(__float_as_uint(size) >> 23) - 127, -6);
    // Neighbours are 2^(exponent - 3) apart.
    const float step = __int_as_float((exponent + 124) << 23), per_step = __int_as_float((130 - exponent) << 23);
    return x != x ? x : copysignf(__fmul_rn(rintf(__fmul_rn(size, per_step)), step), x);
}

struct InputQuant {
    float scale, inverse;  // inverse 0: codes are made by a division

    // `largest` magnitude of what it is for; `fixed` unless 0.
    __device__ __forceinline__ InputQuant(float largest, float fixed, int kind) {
        scale = fixed != 0.0f ? fixed : __fdiv_rn(largest, kind == INPUT_I8 ? 127.0f : 448.0f);
        // Where nothing overflows and what underflows is 0 anyway.
        const bool usual = fixed == 0.0f && scale > 1e-27f && scale < 1e36f;
        inverse = usual ? __frcp_rn(scale) : 0.0f;
    }
    // Any scale.
    __device__ __forceinline__ float code(float x, int kind) const {
        return scale == 0.0f ? 0.0f : nearest_code(__fdiv_rn(x, scale), kind);
    }
    // x / scale where there is an inverse, by one correction (Markstein 1990).
    __device__ __forceinline__ float usual_quotient(float x) const {
        const float near = __fmul_rn(x, inverse);
        return __fmaf_rn(__fmaf_rn(-near, scale, x), inverse, near);
    }
};
