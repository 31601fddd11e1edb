// sample_filter: top-k and top-p as one threshold on (logit, token), a workgroup a row. Does
// nothing where neither is asked, or the row is greedy. Reads the logits up to 16 times, from
// cache.

const COUNT = 0u;
const MASS = 1u;

var<workgroup> threshold: vec2<u32>;
var<workgroup> most: f32;

fn scaled_below(x: f32, temperature: f32) -> f32 {
    return (x - most) / temperature;
}

fn weighted(kind: u32, at: u32, t: u32) -> Weighted {
    let slot = slot_of(at);
    let x = processed(at, slot, t);
    let key = vec2(order_key(x), 0xffffffffu - t);
    let below = scaled_below(x, slot_number(slot, TEMPERATURE));
    let min_p = slot_number(slot, MIN_P);
    var nothing = x <= LOWEST;
    if (min_p > 0.0) {
        nothing = nothing || below < ln(min_p);
    }
    if (nothing || !reaches(key, threshold)) {
        return Weighted(key, vec3(0u));
    }
    if (kind == COUNT) {
        return Weighted(key, vec3(1u, 0u, 0u));
    }
    return Weighted(key, pieces_of(exp(below)));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.y;
    let slot = slot_of(at);
    let best = row_best(at, 0u);
    let draws = samples(at) && slot_number(slot, TEMPERATURE) > 0.0
        && (best.flags & (HAS_BEST | UNUSABLE)) == HAS_BEST;
    if (lane == 0u) {
        most = best.score;
        threshold = vec2(0u, 0u);
    }
    workgroupBarrier();
    let top_k = slot_word(slot, TOP_K);
    if (draws && top_k > 0u) {
        let key = select_prefix(COUNT, at, 0.0, top_k, lane);
        if (lane == 0u) {
            threshold = key;
        }
        workgroupBarrier();
    }
    let top_p = slot_number(slot, TOP_P);
    if (draws && top_p < 1.0) {
        let key = select_prefix(MASS, at, top_p, 0u, lane);
        if (lane == 0u && reaches(key, threshold)) {
            threshold = key;
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        scratch[at * ROW_WORDS + 2u * SPLITS * 4u] = threshold.x;
        scratch[at * ROW_WORDS + 2u * SPLITS * 4u + 1u] = threshold.y;
    }
}
