// What kernels for Hopper alone (sm_90a) share: barriers in shared memory, the copy engine (TMA),
// clusters and `wgmma`.
#pragma once
#include "prelude.cuh"

struct alignas(64) TensorMap { u64 opaque[16]; };

// ---- barriers in shared memory ----
DEVICE void barrier_init(u32 at, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(at), "r"(count) : "memory"); }
// Barriers made by this thread are seen by the copy engine and by other blocks of the cluster.
DEVICE void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_expect(u32 at, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(at), "r"(bytes) : "memory"); }
DEVICE void barrier_arrive(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(at) : "memory"); }
DEVICE void barrier_wait(u32 at, u32 parity) {
  asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ready;\nbra again;\nready:\n}"
               :: "r"(at), "r"(parity) : "memory");
}

// ---- clusters ----
DEVICE u32 cluster_rank() { u32 rank; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)); return rank; }
// Every thread of every block of the cluster arrives, then waits for all.
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The address of this block's `at` in block `rank` of its cluster.
DEVICE u32 in_block(u32 at, u32 rank) { u32 there; asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank)); return there; }
DEVICE void store_there_f32x2(u32 at, float a, float b) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" :: "r"(at), "f"(a), "f"(b) : "memory");
}

// ---- the copy engine ----
// A box of a matrix as [steps of 64 columns][halves][rows of a half][64 columns]: all halves of
// some rows from `row` on, of some steps from `step` on.
DEVICE void load_box(u32 to, const TensorMap* map, int row, int step, u32 barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {0, %2, 0, %3}], [%4];"
               :: "r"(to), "l"(map), "r"(row), "r"(step), "r"(barrier) : "memory");
}
// Before a block first uses a map in device memory: the copy engine may still know what was there
// before the host wrote it.
DEVICE void acquire_map(const TensorMap* map) { asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" :: "l"(map) : "memory"); }
// Asks for the map itself, which the first copy would wait for.
DEVICE void prefetch_map(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" :: "l"(map) : "memory"); }

// ---- wgmma ----
// Rows of 128 bytes, 128-byte swizzle, 8 rows every 1,024 bytes.
DEVICE u64 descriptor(u32 at) { return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62; }
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups are under way.
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }

// d (+)= a[64 x 16] b[8J x 16]^T; the old d is dropped when `add` is 0. Thread t of a warpgroup
// holds rows t/32*16 + t%32/4 (d[j][0..1]) and 8 below (d[j][2..3]), columns 8j + 2(t%4) and the
// next.
#define F(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
DEVICE void wgmma(float (&d)[4][4], u64 a, u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." MMA_TYPES " {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
      "}, %16, %17, p, 1, 1, 0, 0;\n}"
      : F(0), F(1), F(2), F(3)
      : "l"(a), "l"(b), "r"(add));
}
DEVICE void wgmma(float (&d)[8][4], u64 a, u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." MMA_TYPES " {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
      "%26,%27,%28,%29,%30,%31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7)
      : "l"(a), "l"(b), "r"(add));
}
DEVICE void wgmma(float (&d)[16][4], u64 a, u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." MMA_TYPES " {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
      "%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,"
      "%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7), F(8), F(9), F(10), F(11), F(12), F(13), F(14), F(15)
      : "l"(a), "l"(b), "r"(add));
}
#undef F
