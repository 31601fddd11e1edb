// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over each run of n columns.
//
// x, y [R, groups * n], w [n] f32. One block a run; its threads are a function of n alone (32 up to
// 256 columns, else 256), so the order of the sum is too: strided partial sums, a butterfly in each
// warp, warps in ascending order. Reads x twice (the second time from cache) and writes y: bound by
// memory.
#include "dtype.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(256)
    rms_norm_general(const int* count, int times, const void* x, int x_dtype, const float* w, float eps, void* y,
                     int y_dtype, int n, int groups) {
    __shared__ float partial[8];
    if (blockIdx.x >= *count * times) return;
    i64 at = ((i64)blockIdx.x * groups + blockIdx.y) * n;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
        float v = load_as(x, x_dtype, at + c);
        sum = fmaf(v, v, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < blockDim.x / 32; i++) sum += partial[i];
    float scale = 1.0f / sqrtf(sum / (float)n + eps);
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
        store_as(y, y_dtype, at + c, load_as(x, x_dtype, at + c) * scale * w[c]);
    }
}
