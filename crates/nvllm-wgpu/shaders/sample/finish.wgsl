// sample_finish: joins the splits, and hands the token to the host and to the sequence's slot. One
// invocation a row.
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    let at = group.y;
    if (!samples(at)) {
        return;
    }
    let slot = slot_of(at);
    var best = row_best(at, 0u);
    let flags = best.flags;
    if (slot_number(slot, TEMPERATURE) > 0.0) {
        best = row_best(at, 1u);
    }
    if ((flags & (UNUSABLE | POSSIBLE)) != POSSIBLE) {
        // No token: the sequence ends, and a step that is already in flight must find one that
        // exists.
        results[at] = NO_TOKEN;
        slots[16u * slot + LAST_TOKEN] = 0u;
        return;
    }
    // If nothing is left, the first token, so that the caller still gets one.
    let token = select(0u, best.token, (best.flags & HAS_BEST) != 0u);
    results[at] = token;
    slots[16u * slot + LAST_TOKEN] = token;
    slots[16u * slot + OUTPUT_LEN] += 1u;
    if (slot_word(slot, USES_COUNTS) != 0u) {
        seen[slot * p.vocab + token] += 1u;
    }
}
