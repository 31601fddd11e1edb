// rope: rotary position embedding of each head, element i paired with i + d/2, by a table of
// rotations of the step's rows.
//
// rope_table: rotations [T, d/2] as (cos, sin) f32. The angle is the f32 product position *
// inv_freq; cosine and sine are taken in f64, times the attention factor, and rounded: exact to
// f32, as the reference has them. Once a step for each kind of rotation, from the step's inputs
// alone: it works beside the kernels before it, and waits for them last. rope_general: x, y [T,
// heads * d]. Reads and writes each element once: bound by memory.
#include "step.cuh"

extern "C" __global__ void rope_table(const int* counts, const int* positions, const float* inv_freq, double factor,
                                      float2* table, int half) {
    let_next_start();
    int row = blockIdx.x, cols = row < counts[NUM_TOKENS] ? half : 0;
    float position = (float)(u32)positions[row];
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        double s, c;
        sincos((double)__fmul_rn(position, inv_freq[i]), &s, &c);
        table[(i64)row * half + i] = make_float2((float)(c * factor), (float)(s * factor));
    }
    wait_for_inputs();
}

extern "C" __global__ void rope_general(const int* counts, const void* x, int x_dtype, const float2* table, void* y,
                                        int y_dtype, int heads, int half) {
    int row = blockIdx.x;
    if (row >= counts[NUM_TOKENS]) return;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        int head = i / half, j = i % half;
        i64 at = ((i64)row * heads + head) * 2 * half + j;
        float2 r = table[(i64)row * half + j];
        float a = load_as(x, x_dtype, at), b = load_as(x, x_dtype, at + half);
        store_as(y, y_dtype, at, a * r.x - b * r.y);
        store_as(y, y_dtype, at + half, b * r.x + a * r.y);
    }
}
