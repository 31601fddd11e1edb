// A key or value of one head as codes of the KV cache: nvllm-core's kv_format.rs, with the same
// results.
#pragma once

__device__ __forceinline__ unsigned char e4m3_code(float x) {
    const float size = fminf(fabsf(x), 448.0f);
    const int exponent = max((int)(__float_as_uint(size) >> 23) - 127, -6);
    // In 0 to 16; 16 carries into the exponent field.
    const int steps = (int)rintf(__fmul_rn(size, __int_as_float((130 - exponent) << 23)));
    const int sign = __float_as_uint(x) >> 24 & 0x80;
    return x != x ? sign | 0x7f : sign | ((exponent + 6) << 3) + steps;
}

// `most`: the bits of the row's largest magnitude, NaN's being the largest of all.
__device__ __forceinline__ float int8_scale(unsigned most) { return __fdiv_rn(__uint_as_float(most), 127.0f); }
__device__ __forceinline__ unsigned char int8_code(float x, float scale) {
    const bool none = scale == 0.0f || !(scale < __int_as_float(0x7f800000));
    return none ? 0 : (unsigned char)(int)fminf(fmaxf(rintf(__fdiv_rn(x, scale)), -127.0f), 127.0f);
}
__device__ __forceinline__ unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }
