// top_k: softmax over a row's experts in f32, then the k largest in descending order, of equals the
// lower id first, optionally scaled to sum to 1.
//
// An invocation a row, all of its sums in ascending order. Exponentials are made again in each of
// the k passes.
struct Params {
    experts: u32,
    k: u32,
    renormalize: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;

@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    let row = group.y;
    let base = row * p.experts;
    var highest = logits[base];
    for (var e = 1u; e < p.experts; e++) {
        highest = max(highest, logits[base + e]);
    }
    var sum = 0.0;
    for (var e = 0u; e < p.experts; e++) {
        sum += exp(logits[base + e] - highest);
    }
    // The last that was chosen.
    var before = 2.0;
    var before_id = 0u;
    var chosen = 0.0;
    for (var j = 0u; j < p.k; j++) {
        var best = -1.0;
        var best_id = 0u;
        for (var e = 0u; e < p.experts; e++) {
            let x = exp(logits[base + e] - highest);
            let left = x < before || (x == before && e > before_id);
            if (left && x > best) {
                best = x;
                best_id = e;
            }
        }
        before = best;
        before_id = best_id;
        chosen += best / sum;
        ids[row * p.k + j] = best_id;
        weights[row * p.k + j] = best / sum;
    }
    if (p.renormalize != 0u) {
        for (var j = 0u; j < p.k; j++) {
            weights[row * p.k + j] /= chosen;
        }
    }
}
