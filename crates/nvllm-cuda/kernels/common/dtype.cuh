// Element types as bits: conversions in a few instructions, so that a kernel needs no header of the
// CUDA toolkit.
//
// Rounding to bf16 and f16 is to nearest, ties to even, as `DType::round` of nvllm-core has it.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};
// FP8, and an integer that a scale multiplies.
struct e4m3 {
    u8 bits;
};
struct int8 {
    signed char value;
};

// Codes of element types where a kernel learns them at run time; as `dtype_code` in src/lower.
enum DTypeCode { F32 = 0, BF16 = 1, F16 = 2 };

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ float to_f32(e4m3 x) {
    int exponent = x.bits >> 3 & 15, mantissa = x.bits & 7;
    float size = exponent == 0 ? mantissa * 0.001953125f                                      // 2^-9
                               : __uint_as_float((u32)(exponent + 120) << 23 | (u32)mantissa << 20);
    if ((x.bits & 0x7f) == 0x7f) size = __int_as_float(0x7fc00000);
    return x.bits & 0x80 ? -size : size;
}
__device__ __forceinline__ float to_f32(int8 x) { return (float)x.value; }

__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(bf16* p, float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    p->bits = y;
}
__device__ __forceinline__ void store(f16* p, float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    p->bits = y;
}

// Element `i` of an array whose type is known at run time. The branch is the same for all threads.
__device__ __forceinline__ float load_as(const void* p, int dtype, i64 i) {
    if (dtype == F32) return ((const float*)p)[i];
    return dtype == BF16 ? to_f32(((const bf16*)p)[i]) : to_f32(((const f16*)p)[i]);
}
__device__ __forceinline__ void store_as(void* p, int dtype, i64 i, float x) {
    if (dtype == F32) {
        store((float*)p + i, x);
    } else if (dtype == BF16) {
        store((bf16*)p + i, x);
    } else {
        store((f16*)p + i, x);
    }
}

// Programmatic dependent launch (no effect where the launch does not ask for it). What the kernels
// before wrote may be read only after the wait, but for the step's inputs (step.cuh). Some thread
// of every launch waits: what follows then finds all kernels before it complete.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void take_turn() {
    let_next_start();
    wait_for_inputs();
}

#define NEG_INF (-__int_as_float(0x7f800000))
#define POS_INF __int_as_float(0x7f800000)
