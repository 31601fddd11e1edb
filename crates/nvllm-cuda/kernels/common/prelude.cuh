// What every fast kernel shares: types, conversions, and the few PTX instructions used, with no
// CUDA header.
//
// Fast kernels include this and the `_order.cuh` of their op, by name alone.
//
// ELEM_F16 (a macro given on the command line) turns every 16-bit element from bf16 into f16;
// nothing else changes.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 elem;   // one bf16 or f16, as bits

// Where a block has 99 KB of shared memory and not 163 or more, rings are shorter. The launches'
// side says it on the command line, because PTX for any device must be so too.
#ifndef TIGHT
#define TIGHT (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#endif

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define NEG_INF __int_as_float(0xff800000)

// ---- 16-bit elements ----
#ifdef ELEM_F16
#define MMA_TYPES "f16.f16"
DEVICE float elem_to_f32(elem v) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v)); return f; }
DEVICE elem elem_from_f32(float f) { elem v; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f)); return v; }
// `lo` in the low half.
DEVICE u32 pack2(float lo, float hi) { u32 v; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo)); return v; }
DEVICE float low(u32 v) { return elem_to_f32((elem)(v & 0xffffu)); }
DEVICE float high(u32 v) { return elem_to_f32((elem)(v >> 16)); }
#define ELEM_ONES 0x3c003c00u
#else
#define MMA_TYPES "bf16.bf16"
DEVICE float elem_to_f32(elem v) { return __uint_as_float((u32)v << 16); }
DEVICE elem elem_from_f32(float f) { elem v; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v) : "f"(f)); return v; }
DEVICE u32 pack2(float lo, float hi) { u32 v; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo)); return v; }
DEVICE float low(u32 v) { return __uint_as_float(v << 16); }
DEVICE float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
#define ELEM_ONES 0x3f803f80u
#endif

DEVICE float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// silu(z) = z / (1 + exp(-z)); the same instructions wherever it is fused.
DEVICE float silu(float z) { return __fdiv_rn(z, __fadd_rn(1.0f, exp2_approx(__fmul_rn(z, -1.4426950408889634f)))); }

// ---- memory ----
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// Data that an earlier kernel of the same step wrote: read from L2, never from L1, and not hoisted
// over a wait.
DEVICE uint4 load_l2(const void* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
DEVICE uint2 load_l2_8(const void* p) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
DEVICE float2 load_l2_f32x2(const float* p) {
  float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
  return v;
}
DEVICE float load_l2_f32(const float* p) { float v; asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory"); return v; }
DEVICE int load_l2_i32(const int* p) { int v; asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE elem load_l2_elem(const elem* p) { elem v; asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory"); return v; }
DEVICE u32 load_l2_u32(const void* p) { u32 v; asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE void store_shared_16(u32 at, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" :: "r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEVICE void store_shared_4(u32 at, u32 v) { asm volatile("st.shared.u32 [%0], %1;" :: "r"(at), "r"(v) : "memory"); }
DEVICE uint4 load_shared_16(u32 at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
  return v;
}
// 16 bytes from global to shared memory without registers; zeros when `valid` is false (then `from`
// is not read).
DEVICE void copy_async_16(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// The same of 4 bytes.
DEVICE void copy_async_4(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups are still under way.
template <int N> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

// ---- matrix instructions ----
DEVICE void ldmatrix_x4(u32 (&r)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// d += a[16x16] b[16x8], fp32 accumulation. Lane l holds rows l/4 and l/4+8, columns 2(l%4) and
// 2(l%4)+1 of d.
DEVICE void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// ---- programmatic dependent launch (no effect where the launch does not ask for it) ----
// Everything an earlier kernel wrote may be read only after this.
DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may start; it still waits for this one to end before it reads what this one
// wrote.
DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
