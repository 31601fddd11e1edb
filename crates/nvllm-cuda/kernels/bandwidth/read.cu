// bandwidth_read: reads a buffer once, 16 bytes a load, and writes nothing that depends on it
// unless it holds one impossible word.
//
// What it measures is the limit of every kernel that streams weights.
#include "dtype.cuh"

extern "C" __global__ void __launch_bounds__(512) bandwidth_read(const uint4* data, i64 num_quads, u32* out) {
    u32 mixed = 0;
    i64 stride = (i64)gridDim.x * blockDim.x;
#pragma unroll 8
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < num_quads; i += stride) {
        uint4 quad = data[i];
        mixed |= quad.x ^ quad.y ^ quad.z ^ quad.w;
    }
    if (mixed == 0x9e3779b9u) *out = mixed;
}
