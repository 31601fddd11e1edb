// sample_scan: the largest processed logit, by SPLITS workgroups a row: greedy's choice, and the
// reference of min-p and of all masses. Reads the logits once: bound by memory.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.y;
    let wanted = samples(at);
    let slot = slot_of(at);
    let start = group.x * split_len();
    let end = select(0u, min(start + split_len(), p.vocab), wanted);
    var best = Best(LOWEST, 0u, 0u);
    for (var t = start + lane; t < end; t += 256u) {
        let bits = logits[at * p.vocab + t];
        let x = processed(at, slot, t);
        var flags = 0u;
        if (is_unusable(bits)) {
            flags |= UNUSABLE;
        } else if (bits != MINUS_INFINITY) {
            flags |= POSSIBLE;
        }
        if (x > LOWEST) {
            flags |= HAS_BEST;
        }
        best = better(best, Best(x, t, flags));
    }
    best = workgroup_best(best, lane);
    if (wanted && lane == 0u) {
        store_split(at, 0u, group.x, best);
    }
}
