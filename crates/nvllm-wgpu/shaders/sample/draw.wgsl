// sample_draw: the largest scaled logit plus Gumbel noise, by SPLITS workgroups a row. Does nothing
// for greedy rows. Scores are relative to the largest logit: f32 then has bits left for the noise.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.y;
    let slot = slot_of(at);
    let temperature = slot_number(slot, TEMPERATURE);
    let wanted = samples(at) && temperature > 0.0;
    let most = row_best(at, 0u).score;
    let min_p = slot_number(slot, MIN_P);
    var floor = LOWEST;
    if (min_p > 0.0) {
        floor = ln(min_p);
    }
    let threshold = vec2(
        scratch[at * ROW_WORDS + 2u * SPLITS * 4u],
        scratch[at * ROW_WORDS + 2u * SPLITS * 4u + 1u],
    );
    let seed = vec2(slot_word(slot, SEED), slot_word(slot, SEED + 1u));
    let start = group.x * split_len();
    let end = select(0u, min(start + split_len(), p.vocab), wanted);
    var best = Best(LOWEST, 0u, 0u);
    for (var first = start + 4u * lane; first < end; first += 1024u) {
        let words = philox(seed, vec4(output_word(at, 3u), slot_word(slot, CHOICE), first / 4u, 0u));
        for (var i = 0u; i < 4u; i++) {
            let t = first + i;
            if (t < end) {
                let x = processed(at, slot, t);
                let below = (x - most) / temperature;
                if (x > LOWEST && below >= floor && reaches(vec2(order_key(x), 0xffffffffu - t), threshold)) {
                    best = better(best, Best(below + gumbel(words[i]), t, HAS_BEST));
                }
            }
        }
    }
    best = workgroup_best(best, lane);
    if (wanted && lane == 0u) {
        store_split(at, 1u, group.x, best);
    }
}

fn reaches(key: vec2<u32>, threshold: vec2<u32>) -> bool {
    return key.x > threshold.x || (key.x == threshold.x && key.y >= threshold.y);
}
