// top_k: softmax over all experts, then the k largest in descending order (ties: lower id first),
// scaled to sum to 1 if asked.
//
// logits [T, experts]; ids [k * T] i32, weights [k * T] f32. One warp a token. The j-th choice is
// the best expert that comes after the (j-1)-th in the order (logit descending, id ascending), so
// nothing is marked as taken. Reads the logits k + 2 times from cache: bound by latency.
#include "step.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(32)
    top_k_general(const int* counts, const void* logits, int dtype, int num_experts, int k, int renormalize, int* ids,
                  float* weights) {
    int token = blockIdx.x, lane = threadIdx.x;
    if (token >= counts[NUM_TOKENS]) return;
    auto x = [=](int e) { return load_as(logits, dtype, (i64)token * num_experts + e); };
    float max = NEG_INF;
    for (int e = lane; e < num_experts; e += 32) max = fmaxf(max, x(e));
    max = warp_max(max);
    float sum = 0.0f;
    for (int e = lane; e < num_experts; e += 32) sum += expf(x(e) - max);
    sum = warp_sum(sum);
    float last = -NEG_INF, chosen = 0.0f;
    int last_id = -1;
    for (int j = 0; j < k; j++) {
        float best = NEG_INF;
        int id = num_experts;
        for (int e = lane; e < num_experts; e += 32) {
            float xe = x(e);
            bool left = xe < last || (xe == last && e > last_id);
            if (left && (xe > best || id == num_experts)) {
                best = xe;
                id = e;
            }
        }
        for (int offset = 16; offset > 0; offset >>= 1) {
            float other = __shfl_xor_sync(0xffffffffu, best, offset);
            int other_id = __shfl_xor_sync(0xffffffffu, id, offset);
            if (other_id < num_experts && (id == num_experts || other > best || (other == best && other_id < id))) {
                best = other;
                id = other_id;
            }
        }
        // Logits that are not numbers compare with nothing; an id is within range all the same.
        id = min(id, num_experts - 1);
        last = best;
        last_id = id;
        float weight = expf(x(id) - max) / sum;
        chosen += weight;
        if (lane == 0) {
            ids[(i64)token * k + j] = id;
            weights[(i64)token * k + j] = weight;
        }
    }
    if (renormalize && lane == 0) {
        for (int j = 0; j < k; j++) weights[(i64)token * k + j] /= chosen;
    }
}
