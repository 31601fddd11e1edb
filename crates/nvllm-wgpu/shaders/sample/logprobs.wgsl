// logprobs: what the host makes a row's log-probabilities of, a workgroup a row: the largest logit,
// the sum of exponentials relative to it, the scored token's logit, and the most likely tokens in
// no order. Order of the sum: invocation i adds tokens i, i + 256, .. and then 256 sums become 16,
// and 1.

const MAX_TOP = 32u;
// Words of a scored row, as in src/sampler.rs: whether it is usable, the largest logit, the sum,
// the token's logit, how many of the most likely, their ids, their logits.
const SCORED_WORDS = 8u + 2u * MAX_TOP;

var<workgroup> sums: array<f32, 256>;
var<workgroup> num_top: atomic<u32>;

fn weighted(kind: u32, at: u32, t: u32) -> Weighted {
    let key = order_key(bitcast<f32>(logits[at * p.vocab + t]));
    return Weighted(vec2(key, 0xffffffffu - t), vec3(1u, 0u, 0u));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.y;
    let scores = (output_word(at, 2u) & WANTS_SCORE) != 0u;
    let end = select(0u, p.vocab, scores);
    var best = Best(LOWEST, 0u, 0u);
    for (var t = lane; t < end; t += 256u) {
        let bits = logits[at * p.vocab + t];
        var one = Best(LOWEST, t, 0u);
        if (is_unusable(bits)) {
            one.flags = UNUSABLE;
        } else if (bits != MINUS_INFINITY) {
            one = Best(bitcast<f32>(bits), t, POSSIBLE | HAS_BEST);
        }
        best = better(best, one);
    }
    best = workgroup_best(best, lane);
    var sum = 0.0;
    for (var t = lane; t < end; t += 256u) {
        let bits = logits[at * p.vocab + t];
        if (!is_unusable(bits) && bits != MINUS_INFINITY) {
            sum += exp(bitcast<f32>(bits) - best.score);
        }
    }
    sums[lane] = sum;
    if (lane == 0u) {
        atomicStore(&num_top, 0u);
    }
    workgroupBarrier();
    if (lane < 16u) {
        for (var i = 1u; i < 16u; i++) {
            sums[lane] += sums[lane + 16u * i];
        }
    }
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
        sum += sums[i];
    }
    let scored = p.scored + at * SCORED_WORDS;
    let top = min(output_word(at, 5u), p.vocab);
    if (scores && top > 0u && top <= MAX_TOP) {
        let threshold = select_prefix(0u, at, 0.0, top, lane);
        for (var t = lane; t < p.vocab; t += 256u) {
            let one = weighted(0u, at, t);
            if (reaches(one.key, threshold)) {
                let i = atomicAdd(&num_top, 1u);
                if (i < MAX_TOP) {
                    results[scored + 8u + i] = t;
                    results[scored + 8u + MAX_TOP + i] = logits[at * p.vocab + t];
                }
            }
        }
    }
    workgroupBarrier();
    if (scores && lane == 0u) {
        var token = output_word(at, 4u);
        if (token == NO_TOKEN) {
            token = results[at];
        }
        // A row that is not usable has no token.
        if (token == NO_TOKEN) {
            token = 0u;
        }
        results[scored] = u32((best.flags & (UNUSABLE | POSSIBLE)) == POSSIBLE);
        results[scored + 1u] = bitcast<u32>(best.score);
        results[scored + 2u] = bitcast<u32>(sum);
        results[scored + 3u] = logits[at * p.vocab + token];
        results[scored + 4u] = atomicLoad(&num_top);
    }
}
