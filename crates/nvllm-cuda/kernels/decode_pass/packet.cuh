// How blocks hand activations to each other without a barrier: two 16-bit elements and a tag in 8
// bytes, written and read whole. A reader asks until the tag is the one it waits for, so that it
// needs no other sign that the data is there, and nothing is ordered by fences. A row of n elements
// takes 4 n bytes. A place is written again only some phases after its last reader, which later
// phases depend on; tags differ from launch to launch.
#pragma once

#include "prelude.cuh"

// Clock cycles (seconds) after which a wait can only be a fault of ours: the launch then fails
// instead of hanging.
constexpr long long WATCHDOG_CYCLES = 4000000000ll;

struct Watchdog {
  long long from;
  DEVICE_MEMBER Watchdog() : from(clock64()) {}
  DEVICE_MEMBER void check() const { if (clock64() - from > WATCHDOG_CYCLES) asm volatile("trap;"); }
};

DEVICE void store_packet(char* to, u32 pair, u32 tag) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"((u64)tag << 32 | pair) : "memory");
}
DEVICE ulonglong2 load_packets(const char* from) {
  ulonglong2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0,%1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(from) : "memory");
  return v;
}
DEVICE u64 load_packet(const char* from) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
DEVICE bool has_tag(ulonglong2 v, u32 tag) { return (u32)(v.x >> 32) == tag && (u32)(v.y >> 32) == tag; }

// One packet's elements.
DEVICE u32 wait_pair(const char* from, u32 tag) {
  const Watchdog watchdog;
  u64 v = load_packet(from);
  while ((u32)(v >> 32) != tag) {
    watchdog.check();
    v = load_packet(from);
  }
  return (u32)v;
}
